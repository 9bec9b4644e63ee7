"""Time several contenders in turns, so that other load on the machine affects all of them equally."""

from __future__ import annotations

import os
import statistics
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

_REST = 0.02  # seconds before each timed call
_WORK = bytes(1 << 18)  # about 30 microseconds of work


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def seconds_of(call: Callable[[], object], before: Callable[[], object] | None = None) -> float:
    """Return the wall time of one call, after a rest and a call that is not timed."""
    let_others_sleep()
    if before is not None:
        before()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turns(
    calls: Mapping[str, Callable[[], object]], runs: int, before: Mapping[str, Callable[[], object]] | None = None
) -> dict[str, list[float]]:
    """Return the seconds of each call in `runs` rounds; every round runs all calls and begins with another one.

    before: calls by name that run directly before the timed call and are not timed.
    """
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for run in range(runs):
        for n in range(len(names)):
            name = names[(n + run) % len(names)]
            seconds[name].append(seconds_of(calls[name], (before or {}).get(name)))
    return seconds


def let_others_sleep() -> None:
    """Wait until the spinning threads of the previous call sleep.

    All cores stay busy meanwhile. The next call would be slower on an idle core, and the scheduler of a virtual machine
    puts two threads on one core rather than use an idle one.
    """
    end = time.perf_counter() + _REST
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(cores):
            pool.submit(_stay_awake, end)


def _stay_awake(end: float) -> None:
    while time.perf_counter() < end:
        zlib.crc32(_WORK)  # without the interpreter's lock
