"""Paid answers on disk, so that no request is repeated, and the limits on what is spent."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from osprey_ros.errors import InputError
from osprey_ros.strict_json import to_json
from osprey_torch.chat.endpoint import NEW_FIELDS, Reply, Request


@dataclass(frozen=True)
class Limits:
    """Most tokens and most dollars to spend, and the prices in US dollars per million tokens sent and received."""

    tokens: int | None = None
    dollars: float | None = None
    price_sent: float = 0.0
    price_received: float = 0.0

    def __post_init__(self) -> None:
        if self.dollars is not None and self.price_sent <= 0 and self.price_received <= 0:
            raise InputError("a limit in dollars needs --price-sent or --price-received")

    def price(self, sent: int, received: int) -> float:
        """Return the price of tokens in dollars."""
        return (sent * self.price_sent + received * self.price_received) / 1e6

    def allow(self, sent: int, received: int) -> bool:
        """Return whether these numbers of tokens are within the limits."""
        tokens = self.tokens is None or sent + received <= self.tokens
        return tokens and (self.dollars is None or self.price(sent, received) <= self.dollars)


class Ledger:
    """A file with one JSON object per answer, by a hash of the request, and what all of them cost; thread-safe.

    A request reserves the most that it could cost and settles what it did cost, so the limits hold for any number of
    concurrent requests. `sent` and `received` are the tokens of all runs, of lost requests, too.
    """

    def __init__(self, path: Path, limits: Limits):
        self.limits = limits
        self.sent = self.received = 0
        self._replies: dict[str, Reply] = {}
        self._reserved: list[Request] = []
        self._settled = threading.Condition()
        whole = 0
        for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else []:
            if not line.endswith(b"\n"):
                break  # what a kill has cut off
            whole += len(line)
            self._count(**json.loads(line))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._file.truncate(whole)

    def get(self, request: Request) -> Reply | None:
        """Return the answer to a request, None if there is none yet."""
        return self._replies.get(_hash(request))

    def reserve(self, request: Request) -> bool:
        """Reserve the tokens of a request; wait for others to settle if necessary. Return False if it cannot fit."""
        with self._settled:
            while not self._fits(request):
                if not self._reserved:
                    return False
                self._settled.wait()
            self._reserved.append(request)
            return True

    def settle(self, request: Request, reply: Reply | None) -> None:
        """Replace the reservation of a request by its answer, None for a request that failed."""
        with self._settled:
            self._reserved.remove(request)
            if reply is not None:
                self._write(request, reply.content, reply.sent, reply.received)
            self._settled.notify_all()

    def lose(self, request: Request) -> None:
        """Count a request without an answer, which may have to be paid. Raises InputError if a limit is exceeded."""
        with self._settled:
            self._write(request, None, request.most_sent, request.max_tokens)
            if not self._fits():
                raise InputError("requests to the endpoint that got no answer have used up the budget")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _fits(self, *more: Request) -> bool:
        requests = (*self._reserved, *more)
        sent = self.sent + sum(request.most_sent for request in requests)
        return self.limits.allow(sent, self.received + sum(request.max_tokens for request in requests))

    def _write(self, request: Request, content: str | None, sent: int, received: int) -> None:
        entry = {"request": _hash(request), "content": content, "sent": sent, "received": received}
        self._file.write(to_json(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._count(**entry)  # type: ignore[arg-type]

    def _count(self, request: str, content: str | None, sent: int, received: int) -> None:
        self.sent += sent
        self.received += received
        if content is not None:
            self._replies[request] = Reply(content, sent, received)


def _hash(request: Request) -> str:
    fields = asdict(request)
    for name, default in NEW_FIELDS.items():  # ledgers of before have hashes without them
        if fields[name] == default:
            del fields[name]
    return hashlib.sha256(to_json(fields, sort_keys=True).encode()).hexdigest()
