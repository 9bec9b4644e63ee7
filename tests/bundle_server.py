"""An HTTP server for the files of a folder: with range requests, and connections that break where a test wants it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class BundleServer:
    """What the server does, and what it was asked for.

    Attributes:
        folder: Its files.
        address: "http://127.0.0.1:PORT".
        cuts: For a path, the bytes after which each of the next responses breaks off.
        ranges: Whether it knows range requests.
        statuses: For a path, the statuses of the next responses, in place of the file.
        moved: For a path, the address it redirects to.
        requests: (path, value of the header Range or ""), in order.
    """

    folder: Path
    address: str = ""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    ranges: bool = True
    statuses: dict[str, list[int]] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def asked(self, path: str) -> list[str]:
        """The header Range of each request for a path."""
        return [asked for where, asked in self.requests if where == path]


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, server_state: BundleServer, *arguments: object) -> None:
        self.state = server_state
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        state, path = self.state, self.path.partition("?")[0]
        asked = self.headers.get("Range", "")
        state.requests.append((path, asked))
        file = state.folder / path.lstrip("/")
        if state.statuses.get(path):
            self.send_error(state.statuses[path].pop(0))
        elif path in state.moved:
            self.send_response(302)
            self.send_header("Location", state.moved[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif not file.is_file():
            self.send_error(404)
        else:
            self._send(path, file.read_bytes(), asked)

    def _send(self, path: str, data: bytes, asked: str) -> None:
        version = f'"{sha256(data).hexdigest()[:16]}"'
        found = re.fullmatch(r"bytes=(\d+)-", asked)
        start = int(found[1]) if found and self.state.ranges and self.headers.get("If-Range", version) == version else 0
        if start and start >= len(data):
            self.send_error(416)
            return
        part = data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", version)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        cuts = self.state.cuts.get(path)
        self.wfile.write(part[: cuts.pop(0)] if cuts else part)
        self.close_connection = True


@contextmanager
def serve(folder: Path) -> Iterator[BundleServer]:
    """Yield a server for the files of a folder."""
    state = BundleServer(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, state))
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
