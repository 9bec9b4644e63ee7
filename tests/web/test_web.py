"""The addresses of the web page over real HTTP: images, regions, words, questions, downloads, bounds and access."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="aiohttp is not installed: pip install -r requirements/web.txt")

from web_page import BLUE, NAMES, RED, Page, png_of, sample_png, served

from osprey_ros.errors import InputError
from osprey_ros.regions.regions import as_regions
from osprey_ros.system.access_tokens import is_loopback, token_for
from osprey_ros.web.access import COOKIE, TOKEN_VARIABLE
from osprey_ros.web.limits import Limits

TOKEN = "a-token-of-these-tests"
SMALL = Limits(
    upload_bytes=50_000, request_bytes=2000, pixels=20_000, images=2, regions=3, answers=2, question_length=80
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with served(tmp_path_factory.mktemp("page"), limits=SMALL) as running:
        yield running


def test_page_loads_nothing_from_elsewhere(page: Page) -> None:
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        reply = page.request("GET", path)
        assert reply.status == 200
        assert reply.headers["Content-Type"] == f"{kind}; charset=utf-8"
        policy = reply.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        addresses = re.findall(r"https?://[^\"'\s]+", reply.body.decode())
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}  # a name, which nothing loads
    assert page.request("GET", "/api/offers").data["bundles"] == NAMES


def test_a_click_gives_a_mask_and_words_in_one_exchange(page: Page) -> None:
    image = page.open()
    reply = page.find(image, "click", 20, 20)
    (region,) = reply.data["regions"]
    assert (tuple(region["box"]), region["score"]) == (RED, 0.95)
    assert region["area"] == pytest.approx(RED[2] * RED[3], rel=0.01)  # without the pixels at its corners
    assert reply.data["added"] == [region["id"]] == [1]
    words = region["words"]["nano"]
    assert words["text"]
    assert 0 < words["confidence"] <= 1
    x, y, width, height = RED
    corners = np.array(re.findall(r"[\d.]+", region["outline"]), float).reshape(-1, 2)
    assert [*corners.min(axis=0), *corners.max(axis=0)] == pytest.approx([x, y, x + width, y + height], abs=0.2)

    (_, blue) = page.find(image, "box", *BLUE).data["regions"]
    assert tuple(blue["box"]) == BLUE
    assert page.request("GET", image).data["regions"][1]["id"] == blue["id"] == 2
    assert [one["id"] for one in page.request("DELETE", f"{image}/regions/1").data["regions"]] == [2]
    assert "no region 1" in page.request("DELETE", f"{image}/regions/1").error


def test_everything_again_takes_the_place_of_everything(page: Page) -> None:
    image = page.open()
    page.find(image, "click", 20, 20)
    for _ in range(2):
        found = page.find(image, "everything").data["regions"]
        assert [one["source"] for one in found] == ["click", "everything", "everything"]
    assert page.request("DELETE", f"{image}/regions").data["regions"] == []


def test_bundles_are_compared_and_styles_changed(page: Page) -> None:
    image = page.open()
    (region,) = page.find(image, "click", 20, 20, bundles=NAMES).data["regions"]
    assert list(region["words"]) == NAMES
    assert region["words"]["nano"] == region["words"]["twin"]  # the same engines
    reply = page.request("POST", f"{image}/words", {"style": "category", "bundles": ["twin"]})
    (changed,) = reply.data["regions"]
    assert list(changed["words"]) == ["twin"]
    assert len(changed["words"]["twin"]["text"]) < len(region["words"]["twin"]["text"])


def test_questions_about_a_region_and_the_whole_image(page: Page) -> None:
    image = page.open()
    page.find(image, "click", 20, 20)
    ask = {"question": "What color is it?", "region": 1}
    (asked,) = page.request("POST", f"{image}/questions", ask).data["asked"]
    assert asked["words"]["nano"]["text"] == "red"
    for question in ("What is it?", "Is it red?"):
        asked = page.request("POST", f"{image}/questions", {"question": question, "region": None}).data["asked"]
    assert [one["question"] for one in asked] == ["What is it?", "Is it red?"]  # the latest two are kept
    for fields, reason in (
        ({"question": " "}, "the question is empty"),
        ({"question": "x" * 81}, "81 characters and at most 80"),
        ({"question": "Is </s> a token?"}, "</s>"),
        ({"question": "What?", "region": 7}, "no region 7"),
        ({"question": "What?", "region": True}, "region is True"),
    ):
        assert reason in page.request("POST", f"{image}/questions", fields).error


def test_downloads_have_words_and_masks(page: Page) -> None:
    image = page.open(name="my%20mugs%22.png")
    assert "no regions yet" in page.request("GET", f"{image}/coco.json").error
    (region,) = page.find(image, "click", 20, 20).data["regions"]
    reply = page.request("GET", f"{image}/report.json")
    assert reply.headers["Content-Disposition"] == 'attachment; filename="my_mugs_.osprey.json"'
    assert reply.data["image"]["name"] == 'my mugs".png'
    assert reply.data["regions"][0]["words"] == region["words"]
    assert reply.data["bundles"] == [{"name": name, "verified": True} for name in NAMES]
    data = page.request("GET", f"{image}/coco.json").data
    (annotation,) = data["annotations"]
    assert annotation["caption"] == region["words"]["nano"]["text"]
    masks = as_regions(data["annotations"])
    assert masks.boxes.tolist() == [list(RED)]
    assert masks.areas.tolist() == [region["area"]]


def test_samples_pixels_and_closing(page: Page) -> None:
    reply = page.request("POST", "/api/samples/two")
    image = f"/api/images/{reply.data['image']['id']}"
    assert reply.data["image"] | {"id": ""} == {"id": "", "name": "sample.png", "width": 128, "height": 96}
    pixels = page.request("GET", f"{image}/pixels")
    assert (pixels.headers["Content-Type"], pixels.body[:3]) == ("image/jpeg", b"\xff\xd8\xff")
    assert page.request("DELETE", image).status == 200
    assert page.request("GET", image).status == 404
    assert "no such sample" in page.request("POST", "/api/samples/..%2Fsecret").error
    assert "start `osprey web` with --topic" in page.request("POST", "/api/camera").error


def test_frames_of_a_camera_are_copies(tmp_path: Path) -> None:
    class Camera:
        name = "/camera/image"
        rgb = np.full((20, 30, 3), 90, np.uint8)

        def latest(self) -> np.ndarray:
            if self.rgb.size > 5000:
                raise InputError("no image has arrived on /camera/image yet")
            return self.rgb

    camera = Camera()
    with served(tmp_path, limits=Limits(pixels=1000), camera=camera) as page:
        assert page.request("GET", "/api/offers").data["camera"] == "/camera/image"
        shown = page.request("POST", "/api/camera").data["image"]
        assert (shown["name"], shown["width"], shown["height"]) == ("image", 30, 20)
        pixels = f"/api/images/{shown['id']}/pixels"
        before = page.request("GET", pixels).body
        camera.rgb[:] = 0
        assert page.request("GET", pixels).body == before
        camera.rgb = np.zeros((40, 30, 3), np.uint8)
        assert "30x40 pixels and at most 1000 are taken" in page.request("POST", "/api/camera").error
        camera.rgb = np.zeros((400, 30, 3), np.uint8)
        assert "no image has arrived" in page.request("POST", "/api/camera").error


def test_a_call_that_hangs_ends_in_time_and_blocks_no_other(tmp_path: Path) -> None:
    class Camera:
        name = "/camera/image"
        go = threading.Event()

        def latest(self) -> np.ndarray:
            assert self.go.wait(60)
            return np.zeros((20, 30, 3), np.uint8)

    camera = Camera()
    with served(tmp_path, limits=Limits(waiting=1, seconds=2), camera=camera) as page:
        reply = page.request("POST", "/api/camera")
        assert (reply.status, "no answer within 2 s" in reply.error) == (503, True)
        assert "1 calls are waiting already" in page.request("POST", "/api/camera").error
        assert page.request("GET", "/api/offers").status == 200
        camera.go.set()
        while page.request("POST", "/api/camera").status == 503:  # until the place is free
            pass
        assert page.request("POST", "/api/camera").status == 200


def test_bodies_that_arrive_slowly_are_bounded(tmp_path: Path) -> None:
    with served(tmp_path, limits=Limits(waiting=1, upload_seconds=2)) as page:
        host, port = urlsplit(page.address).netloc.split(":")
        with socket.create_connection((host, int(port)), timeout=60) as slow:
            slow.sendall(b"POST /api/images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n\r\nabc")
            reply = page.request("POST", "/api/images", sample_png())
            while reply.status == 200:  # until the server has begun to read the other one
                reply = page.request("POST", "/api/images", sample_png())
            assert "1 images are arriving already" in reply.error
            answer = slow.recv(10_000)
            assert b" 400 " in answer.split(b"\r\n")[0]
            assert b"did not arrive within 2 s" in answer
        assert page.request("POST", "/api/images", sample_png()).status == 200


def test_images_used_least_recently_are_dropped(page: Page) -> None:
    first, second = page.open(), page.open()
    assert page.request("GET", first).status == 200
    third = page.open()
    assert [page.request("GET", one).status for one in (first, second, third)] == [200, 404, 200]
    assert "keeps the latest 2" in page.request("GET", second).error


def test_regions_of_an_image_are_bounded(page: Page) -> None:
    image = page.open()
    for _ in range(3):
        page.find(image, "click", 20, 20)
    assert "has 3 regions, which is the most" in page.find(image, "click", 20, 20).error
    assert "remove some" in page.find(image, "everything").error


def _bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"", 400, "it is empty"),
        (b"hello", 400, "it is not an image of a known format"),
        (b"<svg/>", 400, "it is an SVG drawing"),
        (sample_png()[:-20], 400, "its end is missing"),
        (_bomb(200, 101), 400, "it has 200x101 pixels and at most 20000 are taken"),
        (_bomb(60_000, 60_000), 400, "pixels"),
        (b"x" * 50_001, 413, "50001 bytes were sent and at most 50000 are taken"),
    ],
)
def test_uploads_that_cannot_be_used(page: Page, data: bytes, status: int, reason: str) -> None:
    reply = page.request("POST", "/api/images?name=x.png", data)
    assert reply.status == status
    assert reason in reply.error


def test_upload_without_a_length_is_bounded_too(page: Page) -> None:
    connection = http.client.HTTPConnection(urlsplit(page.address).netloc, timeout=60)
    connection.request("POST", "/api/images", iter([b"x" * 10_000] * 6), encode_chunked=True)
    response = connection.getresponse()
    assert (response.status, b"more than 50000 bytes" in response.read()) == (413, True)
    connection.close()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "not JSON"),
        (b"[" * 1900, "not JSON"),
        (b"[]", "not a JSON object"),
        (b" " * 2001, "2001 bytes"),
        ({}, "kind is None; choose one of click, box, everything"),
        ({"kind": ["click"]}, "kind is ['click']"),
        ({"kind": "click", "values": [1]}, "2 finite numbers"),
        ({"kind": "click", "values": [1, True]}, "2 finite numbers"),
        (b'{"kind": "click", "values": [1, NaN]}', "2 finite numbers"),
        (b'{"kind": "click", "values": [1, 1' + b"0" * 400 + b"]}", "2 finite numbers"),
        ({"kind": "click", "values": [500, 1]}, "outside the image of 128x96"),
        ({"kind": "box", "values": [1, 1, 0, 5]}, "has no pixel"),
        ({"kind": "everything", "values": [1]}, "0 finite numbers"),
        ({"kind": "everything", "bundles": []}, "bundles must be a list"),
        ({"kind": "everything", "bundles": ["nano", "nano"]}, "bundles must be a list"),
        ({"kind": "everything", "bundles": ["../x"]}, "no bundle '../x'; choose from nano, twin"),
        ({"kind": "everything", "bundles": [{}]}, "no bundle {}"),
        ({"kind": "everything", "style": "long"}, "style is 'long'"),
    ],
)
def test_requests_that_cannot_be_used(page: Page, body: object, reason: str) -> None:
    reply = page.request("POST", f"{page.open()}/regions", body)
    assert reply.status in (400, 413)
    assert reason in reply.error


def test_an_image_without_objects(page: Page) -> None:
    image = page.open(png_of(np.zeros((96, 128, 3), np.uint8)))
    assert "nothing was found there" in page.find(image, "everything").error
    assert page.request("POST", f"{image}/words", {}).data["regions"] == []


def test_unknown_addresses(page: Page) -> None:
    assert page.request("GET", "/etc/passwd").status == 404
    assert page.request("GET", "/page/../access.py").status == 404
    assert page.request("PUT", "/api/images").status == 405
    assert "no longer open" in page.request("GET", "/api/images/nonesuch").error


def test_other_sites_get_no_answer(page: Page) -> None:
    for headers in (
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        reply = page.request("GET", "/api/offers", headers=headers)
        assert reply.status == 403
        assert "Content-Security-Policy" in reply.headers
    own = page.address.rstrip("/")
    assert page.request("GET", "/api/offers", headers={"Origin": own, "Sec-Fetch-Site": "same-origin"}).status == 200
    assert page.request("GET", "/api/offers", headers={"Host": "localhost:1"}).status == 200


def test_token_opens_the_page(tmp_path: Path) -> None:
    with served(tmp_path, token=TOKEN) as page:
        for path in ("/", "/page.js", "/api/offers", "/nonesuch"):
            assert page.request("GET", path).status == 401
        for wrong in ("/?token=", "/?token=wrong", f"/?token={TOKEN}x"):
            assert "a token is needed" in page.request("GET", wrong).error
        opened = page.request("GET", f"/?token={TOKEN}")
        assert (opened.status, opened.headers["Location"]) == (303, "/")
        cookie = opened.headers["Set-Cookie"]
        assert cookie.startswith(f"{COOKIE}={TOKEN};")
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert page.request("GET", "/", headers={"Cookie": f"{COOKIE}={TOKEN}"}).status == 200
        assert page.request("GET", "/api/offers", headers={"Authorization": f"Bearer {TOKEN}"}).status == 200
        assert page.request("GET", "/api/offers", headers={"Authorization": "Bearer \xe9"}).status == 401


def test_which_addresses_need_a_token() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.2", "robot", "")] == [False] * 5
    assert token_for("127.0.0.1", None, TOKEN_VARIABLE) == ""
    assert len(token_for("0.0.0.0", None, TOKEN_VARIABLE)) >= 32
    assert token_for("0.0.0.0", None, TOKEN_VARIABLE) != token_for("0.0.0.0", None, TOKEN_VARIABLE)
    assert token_for("127.0.0.1", TOKEN, TOKEN_VARIABLE) == TOKEN
    for bad in ("short", "spaces in it are refused", "x" * 20 + "é"):
        with pytest.raises(InputError, match=TOKEN_VARIABLE):
            token_for("0.0.0.0", bad, TOKEN_VARIABLE)
    assert files("osprey_ros.web").joinpath("page/index.html").is_file()
