"""Stores paid answers on disk as soon as they arrive, so that no request is repeated."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import asdict
from pathlib import Path

from osprey_ros.strict_json import to_json
from training.instructions.endpoint import Reply, Request


class Journal:
    """A file with one JSON object per answer, by a hash of the request; thread-safe.

    `sent` and `received` are the tokens of everything in it, of lost requests, too.
    """

    def __init__(self, path: Path):
        self.path = path
        self.sent = self.received = 0
        self._replies: dict[str, Reply] = {}
        self._lock = threading.Lock()
        whole = 0
        for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else []:
            if not line.endswith(b"\n"):
                break  # what a kill has cut off
            entry = json.loads(line)
            whole += len(line)
            self.sent += entry["sent"]
            self.received += entry["received"]
            if entry["content"] is not None:
                self._replies[entry["request"]] = Reply(entry["content"], entry["sent"], entry["received"])
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._file.truncate(whole)

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, request: Request) -> Reply | None:
        return self._replies.get(_hash(request))

    def add(self, request: Request, reply: Reply) -> None:
        with self._lock:
            self._replies[_hash(request)] = reply
            self._write(request, reply.content, reply.sent, reply.received)

    def lose(self, request: Request) -> None:
        """Note a request without an answer that may have been paid for."""
        with self._lock:
            self._write(request, None, request.most_sent, request.max_tokens)

    def close(self) -> None:
        self._file.close()

    def _write(self, request: Request, content: str | None, sent: int, received: int) -> None:
        entry = {"request": _hash(request), "content": content, "sent": sent, "received": received}
        self._file.write(to_json(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.sent += sent
        self.received += received


def _hash(request: Request) -> str:
    return hashlib.sha256(to_json(asdict(request), sort_keys=True).encode()).hexdigest()
