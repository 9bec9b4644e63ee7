"""`osprey mcp` about an image and a recording, with the client of the SDK over both transports, and with a hostile one.

About a node: tests/ros/test_ros_mcp.py.
"""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import httpx2
import numpy as np
import pytest
from conftest import SampleImage
from mcp import Client
from mcp_server import TOKEN, called, http_client, over_http, refused, stdio_client
from PIL import Image
from recordings import IMAGE, SEGMENTATION, frames, write_folder

from osprey_ros.cli.main import main
from osprey_ros.mcp.limits import RateLimit, TooManyCallsError
from osprey_sim.render import Renderer
from osprey_sim.scene import sample_scene

BOWL = 3
QUICK = ["--bundle", "nano", "--threads", "1"]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The image of a white teapot (1), a yellow car (2), a pink bowl (3) and a green clock (4)."""
    folder = tmp_path_factory.mktemp("image")
    with Renderer(320, 240) as renderer:
        frame = renderer.render(sample_scene(3, "test", (4, 5)))
    Image.fromarray(frame.rgb).save(folder / "image.png")
    Image.fromarray(frame.instance_ids.astype(np.uint16)).save(folder / "ids.png")
    return ["--image", str(folder / "image.png"), "--masks", str(folder / "ids.png"), *QUICK]


def size(image: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(image)) as opened:
        assert opened.format == "JPEG"
        return opened.size


async def every_tool(client: Client) -> None:
    """Call each tool and check what it answers about the image."""
    async with client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"look", "find", "describe", "ask", "scene", "events", "correct"}
        assert {name for name, tool in tools.items() if not tool.annotations.read_only_hint} == {"correct"}

        scene, _ = await called(client, "scene", limit=2)
        assert (len(scene["objects"]), scene["known"], scene["left"]) == (2, 4, 2)
        rest, _ = await called(client, "scene", after_track=scene["objects"][1]["track_id"])
        things = {one["description"]: one for one in scene["objects"] + rest["objects"]}
        assert len(things) == 4

        found, images = await called(client, "find", text="where is the pink bowl?", image=True)
        bowl = found["matches"][0]
        assert (bowl["category"], bowl["score"] >= 0.5, len(images)) == ("bowl", True, 1)
        track = bowl["track_id"]

        shown, (whole,) = await called(client, "look", max_side=160)
        assert (shown["box"], size(whole)) == ([0, 0, 320, 240], (160, 120))
        shown, (crop,) = await called(client, "look", track_ids=[track], overlay=False)
        left, top, width, height = shown["box"]
        x, y, wide, tall = bowl["box"]
        assert left <= x <= x + wide <= left + width
        assert top <= y <= y + tall <= top + height
        assert size(crop) == (width, height)

        described, images = await called(client, "describe", track_id=track)
        assert "bowl" in described["text"]
        assert 0 < described["confidence"] <= 1
        assert len(images) == 1
        asked, _ = await called(client, "ask", question="What color is <mask><pos>?", track_ids=[track])
        assert "pink" in asked["text"]

        heard, _ = await called(client, "events", watch="tell me when a bowl appears")
        assert [(one["kind"], one["track_id"]) for one in heard["events"]] == [("appeared", track)]
        heard, _ = await called(client, "events", limit=3)
        assert heard["left"]
        later, _ = await called(client, "events", after=heard["last"])
        assert later["events"][0]["number"] == heard["last"] + 1

        await called(client, "correct", action="delete", track_ids=[track])
        scene, _ = await called(client, "scene")
        assert track not in {one["track_id"] for one in scene["objects"]}
        assert "unknown track id" in await refused(client, "look", track_ids=[track])


def test_every_tool_works_over_standard_input_and_output(image: list[str]) -> None:
    asyncio.run(every_tool(stdio_client([*image, "--allow-changes"])))


def test_every_tool_works_over_http(image: list[str]) -> None:
    with over_http([*image, "--allow-changes"]) as address:
        asyncio.run(every_tool(http_client(address)))


def test_a_recording_is_read_before_agents_ask(sample: SampleImage, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in", frames(sample))

    async def asked() -> None:
        arguments = ["--recording", str(source), "--image-topic", IMAGE, "--segmentation", SEGMENTATION, *QUICK]
        async with stdio_client(arguments) as client:
            scene, _ = await called(client, "scene")
            assert scene["objects"]
            assert scene["stamp"] > scene["objects"][0]["first_seen"] > 0
            heard, _ = await called(client, "events", watch="when something appears")
            assert {one["track_id"] for one in heard["events"]} == {one["track_id"] for one in scene["objects"]}
            _, images = await called(client, "look")
            assert size(images[0]) == sample.rgb.shape[1::-1]

    asyncio.run(asked())


def test_a_hostile_client_gets_errors_and_others_get_answers(image: list[str]) -> None:
    async def hostile(address: str) -> None:
        async with httpx2.AsyncClient(timeout=60) as http:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
                assert (await http.post(address, json={}, headers=headers)).status_code == 401
            known = {"Authorization": f"Bearer {TOKEN}", "Accept": "application/json, text/event-stream"}
            assert (await http.post(address, json={"text": "x" * 100_000}, headers=known)).status_code == 413
            assert (await http.post(address, content=b"{", headers=known)).status_code == 400
        async with http_client(address) as client:
            assert "correct" not in {tool.name for tool in (await client.list_tools()).tools}
            for wrong in ({"text": "x" * 5000}, {"text": 7}, {"text": "mug", "limit": 10**9}, {}):
                assert "validation error" in await refused(client, "find", **wrong)
            assert "validation error" in await refused(client, "look", track_ids=[1] * 1000)
            assert "<box>" in await refused(client, "find", text="the <box> mug")
            assert "unknown track id 99" in await refused(client, "describe", track_id=99)
            flood = await asyncio.gather(*(client.call_tool("look", {}) for _ in range(60)))
            reasons = {result.content[0].text for result in flood if result.is_error}
            assert 0 < sum(not result.is_error for result in flood) < 60
            assert any("too many calls" in reason or "waiting already" in reason for reason in reasons)

    async def friendly(address: str) -> None:
        async with http_client(address) as client:
            while (await client.call_tool("scene", {})).is_error:  # until the bucket has filled again
                await asyncio.sleep(0.1)

    with over_http(image) as address:
        asyncio.run(hostile(address))
        asyncio.run(friendly(address))


def test_more_calls_than_the_rate_are_refused() -> None:
    now = 0.0
    limit = RateLimit(2.0, 3, lambda: now)
    for _ in range(3):
        limit.take()
    with pytest.raises(TooManyCallsError, match=r"at most 2 a second; try again in 0\.5 s"):
        limit.take()
    now = 0.5
    limit.take()
    now = 1000.0
    for _ in range(3):
        limit.take()
    with pytest.raises(TooManyCallsError):
        limit.take()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--image", "a.png", "--recording", "b.mcap"], "both --image and --recording"),
        (["--recording", "b.mcap"], "needs --image-topic and --segmentation"),
        (["--http", "--token", "short"], "the token is not a token"),
        (["--node", "a b"], "a b"),
    ],
)
def test_options_that_do_not_fit_are_errors(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mcp", *arguments]) == 2
    assert reason in capsys.readouterr().err
