"""What the node counts and measures, in bounded memory: rates, durations of stages, and what became of each frame.

Imports no ROS. Written by the worker's thread and read by the executor's, so every door takes the lock. Times are
seconds of a clock that never jumps (`time.monotonic`); ages are by the clock that the stamps are of.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

KEPT = 200  # durations of a stage that percentiles are taken of: the latest
RATE_WINDOW = 5.0  # seconds over which a rate is taken


@dataclass(frozen=True)
class Spread:
    """Median and 95th percentile of some durations, in seconds."""

    p50: float
    p95: float


@dataclass(frozen=True)
class ObjectCounts:
    """Objects of one frame: those with words of this frame, with words of an earlier one that hold, and left out.

    ``known`` counts all that are remembered, in view or not.
    """

    described: int = 0
    reused: int = 0
    skipped: int = 0
    known: int = 0


_NO_OBJECTS = ObjectCounts()


@dataclass(frozen=True)
class Summary:
    """What `Statistics` knows at one moment.

    ``seconds`` gives the spread of each stage that was measured; ``age`` is that of the latest result when it was
    published, None before the first. ``failure`` says why the latest frame gave no result, "" where it did;
    ``nothing`` why its result is empty. ``objects`` are sums over all frames, of ``known`` the latest.
    """

    rate_in: float = 0.0
    rate_out: float = 0.0
    matched: int = 0
    described: int = 0
    failed: int = 0
    replaced: int = 0
    stopped: int = 0
    objects: ObjectCounts = _NO_OBJECTS
    age: float | None = None
    silent_for: float = 0.0  # seconds since the latest result, or since the start
    unmatched_for: float = 0.0  # seconds since the latest complete frame, or since the start
    failure: str = ""
    nothing: str = ""
    seconds: Mapping[str, Spread] = field(default_factory=dict)


class Rate:
    """How many events a second there were of late."""

    def __init__(self, start: float, window: float = RATE_WINDOW, most: int = 2000) -> None:
        self._start, self._window = start, window
        self._times: deque[float] = deque(maxlen=most)

    def add(self, now: float) -> None:
        """Counts an event."""
        self._times.append(now)

    def hertz(self, now: float) -> float:
        """Events a second in the window that ends now, or since the start if that is later."""
        while self._times and now - self._times[0] > self._window:
            self._times.popleft()
        return len(self._times) / max(1.0, min(self._window, now - self._start))


class Statistics:
    """Counts since its making; `start` begins anew."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.start()

    def start(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._counts: Counter[str] = Counter()
            self._latest = self._latest_in = self._clock()
            self._in, self._out = Rate(self._latest), Rate(self._latest)
            self._seconds: dict[str, deque[float]] = {}
            self._age: float | None = None
            self._failure = self._nothing = ""
            self._known = 0

    def matched(self) -> None:
        """A frame is complete."""
        with self._lock:
            self._counts["matched"] += 1
            self._latest_in = self._clock()
            self._in.add(self._latest_in)

    def stopped(self) -> None:
        """A frame was given up because the node was to stop."""
        with self._lock:
            self._counts["stopped"] += 1

    def failed(self, reason: str) -> None:
        """A frame could not be described."""
        with self._lock:
            self._counts["failed"] += 1
            self._failure = reason

    def described(
        self, age: float, seconds: Mapping[str, float], objects: ObjectCounts = _NO_OBJECTS, nothing: str = ""
    ) -> None:
        """A result was published ``age`` seconds after its stamp; ``seconds`` says how long each stage took."""
        with self._lock:
            now = self._clock()
            self._counts["described"] += 1
            self._counts["objects described"] += objects.described
            self._counts["objects reused"] += objects.reused
            self._counts["objects skipped"] += objects.skipped
            self._known = objects.known
            self._out.add(now)
            self._age, self._latest = age, now
            self._failure, self._nothing = "", nothing
            for stage, duration in seconds.items():
                self._seconds.setdefault(stage, deque(maxlen=KEPT)).append(duration)

    def summary(self, replaced: int = 0) -> Summary:
        """What there is to know now; ``replaced`` counts frames that later ones took the place of."""
        with self._lock:
            now = self._clock()
            return Summary(
                rate_in=self._in.hertz(now),
                rate_out=self._out.hertz(now),
                matched=self._counts["matched"],
                described=self._counts["described"],
                failed=self._counts["failed"],
                replaced=replaced,
                stopped=self._counts["stopped"],
                objects=ObjectCounts(
                    self._counts["objects described"],
                    self._counts["objects reused"],
                    self._counts["objects skipped"],
                    self._known,
                ),
                age=self._age,
                silent_for=now - self._latest,
                unmatched_for=now - self._latest_in,
                failure=self._failure,
                nothing=self._nothing,
                seconds={stage: _spread(values) for stage, values in self._seconds.items()},
            )


def _spread(values: deque[float]) -> Spread:
    p50, p95 = np.percentile(np.fromiter(values, np.float64), (50, 95))
    return Spread(float(p50), float(p95))
