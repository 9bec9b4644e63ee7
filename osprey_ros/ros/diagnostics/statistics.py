"""Counts, rates and stage durations of the node, in bounded memory. No ROS.

Thread-safe: all methods acquire the lock. Times are seconds of a monotonic clock, ages of the clock of the stamps.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

DURATIONS_KEPT = 200  # latest durations of each stage, the basis of the percentiles
RATE_WINDOW = 5.0  # seconds over which a rate is averaged
MAX_EVENTS = 2000  # events of a rate window that are kept


@dataclass(frozen=True)
class Spread:
    """Median and 95th percentile of durations, in seconds."""

    p50: float
    p95: float


@dataclass(frozen=True)
class ObjectCounts:
    """Numbers of objects in one frame.

    Attributes:
        described: objects with a caption made from this frame.
        reused: objects with a valid caption from an earlier frame.
        skipped: objects that needed a caption and were left out.
        known: all objects of the scene, visible or not.
    """

    described: int = 0
    reused: int = 0
    skipped: int = 0
    known: int = 0


_NO_OBJECTS = ObjectCounts()


@dataclass(frozen=True)
class Summary:
    """State of `Statistics` at one moment.

    Attributes:
        rate_in, rate_out: complete frames and results per second.
        matched, described, failed, replaced, stopped: numbers of frames: complete, described, failed, dropped for a
            later one, interrupted by deactivation.
        objects: sums over all frames; ``known`` is the latest number.
        age: age of the latest result in seconds when it was published, None before the first.
        silent_for, unmatched_for: seconds since the latest result and since the latest complete frame, or since the
            start.
        failure: reason why the latest frame failed, "" if it did not.
        empty_reason: reason why the latest result is empty, "" if it is not.
        seconds: spread of the duration of each stage.
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
    silent_for: float = 0.0
    unmatched_for: float = 0.0
    failure: str = ""
    empty_reason: str = ""
    seconds: Mapping[str, Spread] = field(default_factory=dict)


class Rate:
    """Events per second over a sliding window."""

    def __init__(self, start: float, window: float = RATE_WINDOW) -> None:
        self._start, self._window = start, window
        self._times: deque[float] = deque(maxlen=MAX_EVENTS)

    def add(self, now: float) -> None:
        """Count an event."""
        self._times.append(now)

    def hertz(self, now: float) -> float:
        """Return the events per second in the window that ends now, or since the start if that is shorter."""
        while self._times and now - self._times[0] > self._window:
            self._times.popleft()
        return len(self._times) / max(1.0, min(self._window, now - self._start))


class Statistics:
    """Collect counts and durations since the construction or the latest `start`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.start()

    def start(self) -> None:
        """Reset everything."""
        with self._lock:
            self._counts: Counter[str] = Counter()
            self._latest = self._latest_in = self._clock()
            self._in, self._out = Rate(self._latest), Rate(self._latest)
            self._seconds: dict[str, deque[float]] = {}
            self._age: float | None = None
            self._failure = self._empty_reason = ""
            self._known = 0

    def matched(self) -> None:
        """Count a complete frame."""
        with self._lock:
            self._counts["matched"] += 1
            self._latest_in = self._clock()
            self._in.add(self._latest_in)

    def stopped(self) -> None:
        """Count a frame that was interrupted by deactivation."""
        with self._lock:
            self._counts["stopped"] += 1

    def failed(self, reason: str) -> None:
        """Count a frame that could not be described."""
        with self._lock:
            self._counts["failed"] += 1
            self._failure = reason

    def described(
        self, age: float, seconds: Mapping[str, float], objects: ObjectCounts = _NO_OBJECTS, empty_reason: str = ""
    ) -> None:
        """Count a published result.

        Args:
            age: seconds from the stamp of the image to the publication.
            seconds: duration of each stage.
            objects: numbers of objects in the frame.
            empty_reason: reason why the result is empty, "" if it is not.
        """
        with self._lock:
            now = self._clock()
            self._counts["described"] += 1
            self._counts["objects described"] += objects.described
            self._counts["objects reused"] += objects.reused
            self._counts["objects skipped"] += objects.skipped
            self._known = objects.known
            self._out.add(now)
            self._age, self._latest = age, now
            self._failure, self._empty_reason = "", empty_reason
            for stage, duration in seconds.items():
                self._seconds.setdefault(stage, deque(maxlen=DURATIONS_KEPT)).append(duration)

    def summary(self, replaced: int = 0) -> Summary:
        """Return the current state; ``replaced`` is the number of frames dropped for later ones."""
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
                empty_reason=self._empty_reason,
                seconds={stage: _spread(values) for stage, values in self._seconds.items()},
            )


def _spread(values: deque[float]) -> Spread:
    p50, p95 = np.percentile(np.fromiter(values, np.float64), (50, 95))
    return Spread(float(p50), float(p95))
