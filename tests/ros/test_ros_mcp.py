"""`osprey mcp` about a running node over real DDS: each tool while frames come, and a hostile client among them."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from mcp_server import called, http_client, over_http, refused
from PIL import Image
from ros_harness import Client, osprey_node, ros_environment

from osprey_sim.render import Renderer
from osprey_sim.scene import sample_scene

STAMPS = count(1_000_000_000, 33_333_333)


async def every_tool(address: str) -> None:
    """Call each tool, and check what it answers about the frames that come meanwhile."""
    async with http_client(address) as client:
        scene, _ = await called(client, "scene", visible_only=True)
        assert len(scene["objects"]) == 4
        assert scene["frame_id"] == "camera_optical_frame"
        found, images = await called(client, "find", text="where is the pink bowl?", image=True)
        bowl = found["matches"][0]
        assert (bowl["category"], len(images)) == ("bowl", 1)
        shown, (whole,) = await called(client, "look", max_side=160)
        with Image.open(io.BytesIO(whole)) as opened:
            assert (opened.format, opened.size) == ("JPEG", (160, 120))
        assert shown["box"] == [0, 0, 320, 240]
        described, images = await called(client, "describe", track_id=bowl["track_id"])
        assert "bowl" in described["text"]
        assert len(images) == 1
        asked, _ = await called(client, "ask", question="What color is it?", track_ids=[bowl["track_id"]])
        assert "pink" in asked["text"]
        asked, _ = await called(client, "ask", question="What is there?")  # about the whole image
        assert asked["text"]
        before, _ = await called(client, "events")
        # It is in view, and comes back as another object.
        await called(client, "correct", action="delete", track_ids=[bowl["track_id"]])
        while True:
            heard, _ = await called(client, "events", after=before["last"], watch="when a bowl appears")
            if heard["events"]:
                break
            await asyncio.sleep(0.1)
        assert heard["events"][0]["track_id"] > bowl["track_id"]
        assert "unknown track id" in await refused(client, "describe", track_id=bowl["track_id"])


async def hostile(address: str) -> None:
    """Flood the server with calls that are wrong, large or expensive."""
    async with http_client(address) as client:
        for _ in range(2):
            results = await asyncio.gather(
                *(client.call_tool("look", {"max_side": 1024}) for _ in range(10)),
                *(client.call_tool("ask", {"question": "word " * 99, "track_ids": [1]}) for _ in range(5)),
                *(client.call_tool("find", {"text": "x" * 60_000}) for _ in range(5)),
            )
            assert any(result.is_error for result in results)


def test_agents_use_a_node_and_a_hostile_one_does_not_stop_its_frames(tmp_path: Path) -> None:
    with Renderer(320, 240) as renderer:
        shown = renderer.render(sample_scene(3, "test", (4, 5)))
    with (
        ros_environment(tmp_path) as env,
        osprey_node(env, tmp_path, "autostart:=true", "threads:=1"),
        over_http(["--allow-changes", "--timeout", "60", "--rate", "1000"], env) as address,
        ThreadPoolExecutor(1) as other,
    ):
        client = Client(env)

        def describe_frame() -> None:
            stamp = next(STAMPS)
            client.send(stamp, shown.rgb, shown.instance_ids)
            client.described(stamp)

        try:
            client.wait_until_heard()
            client.wait_for(lambda: client.node.count_subscribers("/osprey/events"), "the server listens")
            describe_frame()
            for agent in (every_tool, hostile):
                work, described = other.submit(asyncio.run, agent(address)), 0
                while not work.done() or described < 3:
                    describe_frame()  # fails if it takes longer than the deadline
                    described += 1
                work.result()
        finally:
            client.close()
