"""A running web page for tests: real engines whose masks are known, served over HTTP from a thread of this process."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import queue
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from color_segmenter import with_everything, write_bundle
from nano import without_score
from PIL import Image

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.segmenter.segmenter import Segmenter
from osprey_ros.web.access import Access
from osprey_ros.web.app import Application, Camera
from osprey_ros.web.limits import Limits
from osprey_ros.web.models import Models
from osprey_ros.web.server import serve

RED, BLUE = (16, 8, 32, 32), (80, 60, 20, 12)  # x, y, width, height in the sample
NAMES = ["nano", "twin"]


@dataclass(frozen=True)
class Reply:
    """A response: status, headers and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        """The JSON of the body."""
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence of a failure."""
        assert self.status >= 400, self.body
        (sentence,) = self.data.values()
        return str(sentence)


@dataclass(frozen=True)
class Page:
    """A page that is served. ``address``: as `osprey web` prints it."""

    address: str

    def request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Send one request; a body that is not bytes is sent as JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Reply(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def open(self, data: bytes | None = None, name: str = "sample.png") -> str:
        """Upload an image, by default the sample, and return the path of its addresses."""
        reply = self.request("POST", f"/api/images?name={name}", sample_png() if data is None else data)
        assert reply.status == 200, reply.body
        return f"/api/images/{reply.data['image']['id']}"

    def find(self, image: str, kind: str, *values: float, **fields: Any) -> Reply:
        """Ask for regions of an image."""
        return self.request("POST", f"{image}/regions", {"kind": kind, "values": values, **fields})


def sample_png() -> bytes:
    """Return an image of a red and a blue rectangle on black."""
    rgb = np.zeros((96, 128, 3), np.uint8)
    for (x, y, width, height), color in ((RED, (200, 30, 30)), (BLUE, (30, 30, 200))):
        rgb[y : y + height, x : x + width] = color
    return png_of(rgb)


def png_of(pixels: np.ndarray) -> bytes:
    """Return pixels as the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@contextmanager
def served(folder: Path, token: str = "", limits: Limits | None = None, camera: Camera | None = None) -> Iterator[Page]:
    """Serve a page with two bundles of the same engines while the block runs. Files are written to a folder."""
    nano = without_score()
    bundles = [nano, Bundle(nano.root, replace(nano.manifest, name="twin"))]
    segmenter = Segmenter(write_bundle(folder / "segmenter", with_everything(), objectness=True), threads=1)
    (folder / "sample.png").write_bytes(sample_png())
    application = Application(
        Models(bundles, segmenter, threads=1), {"two": folder / "sample.png"}, Access(token), limits, camera
    )
    ready: queue.Queue[Any] = queue.Queue()

    async def run() -> None:
        serving = asyncio.current_task()
        assert serving is not None
        loop = asyncio.get_running_loop()
        try:
            await serve(
                application,
                "127.0.0.1",
                0,
                lambda address: ready.put((address, lambda: loop.call_soon_threadsafe(serving.cancel))),
            )
        except asyncio.CancelledError:
            pass
        except Exception as error:
            ready.put(error)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    found = ready.get(timeout=60)
    if isinstance(found, Exception):
        raise found
    address, stop = found
    try:
        yield Page(address)
    finally:
        stop()
        thread.join(30)
        assert not thread.is_alive(), "the server did not end"
