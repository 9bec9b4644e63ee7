"""Bounds of what agents may ask for. Plain data, and the limit of their rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from osprey_ros.errors import OspreyError

# Bounds of single arguments; the schemas of the tools state them.
TEXT_LENGTH = 500  # characters
TRACK_IDS = 16
LISTED = 100  # objects, matches or events of one answer
MAX_SIDE = 1024  # pixels of the longer side of an image
LARGEST_ID = 2**31 - 1


@dataclass(frozen=True)
class Limits:
    """Bounds of one server.

    Attributes:
        rate: Calls a second, of all clients together.
        burst: Calls that may come at once after a pause.
        waiting: Calls that wait or run.
        seconds: Longest time of a call from its arrival to its answer.
        request_bytes: Largest request over HTTP.
        connections: Connections over HTTP at once.
    """

    rate: float = 5.0
    burst: int = 20
    waiting: int = 4
    seconds: float = 60.0
    request_bytes: int = 64 << 10
    connections: int = 32


class TooManyCallsError(OspreyError):
    """More calls than the rate allows."""


class RateLimit:
    """Allows calls at a rate, with bursts after a pause (a token bucket). Use it from one thread.

    Args:
        rate: Calls a second.
        burst: Calls at once.
        clock: Seconds from any start.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left, self._at = float(burst), clock()

    def take(self) -> None:
        """Count one call. Raises TooManyCallsError if it is one too many."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            wait = (1 - self._left) / self._rate
            raise TooManyCallsError(f"too many calls: at most {self._rate:g} a second; try again in {wait:.1f} s")
        self._left -= 1
