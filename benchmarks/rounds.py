"""Timing several contenders fairly: in turns, so that whatever else the machine does disturbs all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_REST = 0.02  # seconds


@dataclass(frozen=True)
class Spread:
    """What repeated measurements of one thing gave: the median and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def seconds_of(call: Callable[[], object]) -> float:
    """Wall time of one call, after a rest."""
    let_others_sleep()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turns(calls: Mapping[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of each call in each of `runs` rounds; every round runs all of them once, beginning at another one."""
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for run in range(runs):
        for n in range(len(names)):
            name = names[(n + run) % len(names)]
            seconds[name].append(seconds_of(calls[name]))
    return seconds


def let_others_sleep() -> None:
    """Waits until threads of the call before, which spin for a while as they wait for more work, have gone to sleep.

    Without sleeping: the first call on a core that has slept takes longer, by how long is chance.
    """
    end = time.perf_counter() + _REST
    while time.perf_counter() < end:
        pass
