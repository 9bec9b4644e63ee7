"""An OpenAI-compatible endpoint for tests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _Model(BaseHTTPRequestHandler):
    """A language model of a few lines; what it says is decided by the server's `say`."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:  # type: ignore[attr-defined]
            asked: list[dict] = self.server.asked  # type: ignore[attr-defined]
            asked.append({**body, "path": self.path, "key": self.headers.get("Authorization")})
            number = len(asked)
        status, headers, content = self.server.say(body, number)  # type: ignore[attr-defined]
        reply = {
            "choices": [{"message": {"content": content}}],
            "usage": {"prompt_tokens": 200, "completion_tokens": 50},
        }
        data = json.dumps(reply if status == 200 else {"error": content}).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


Say = Callable[[dict, int], tuple[int, dict[str, str], str]]


@contextmanager
def model_server(say: Say) -> Iterator[Any]:
    """Yield a server of this machine with its `url` and the requests so far, `asked`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Model)
    server.asked, server.say, server.lock = [], say, threading.Lock()  # type: ignore[attr-defined]
    server.url = f"http://127.0.0.1:{server.server_port}/v1"  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
