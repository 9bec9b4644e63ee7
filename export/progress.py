"""Progress of long steps: a bar with rate and remaining time on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Where a build says what it does.

    Lines go to `report`; without it to the error stream, so that standard output stays free for results, and then a
    terminal shows bars. clock gives seconds.
    """

    def __init__(
        self, report: Callable[[str], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._report = report
        self._clock = clock
        self._bars = report is None and sys.stderr.isatty()

    def say(self, line: str) -> None:
        """Writes one line; a bar that is shown moves down."""
        if self._report is not None:
            self._report(line)
        elif self._bars:
            tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def step(self, title: str, total: float, unit: str = "", done: float = 0) -> Step:
        """Begins a step of `total` parts, `done` of which are there already. To be used in a `with` statement.

        unit: what a part is, "B" for bytes; by default the parts are only counted. A step of 0 parts is only timed.
        """
        if self._bars and total:
            return _Bar(title, total, unit, done)
        return _Lines(title, total, unit, done, self.say, self._clock)


class Step(ABC):
    """A long step that is under way."""

    @abstractmethod
    def advance(self, parts: float = 1) -> None:
        """Says that so many more parts are done."""

    @abstractmethod
    def close(self, whole: bool) -> None:
        """Ends the step; `whole` is False where it was broken off."""

    def __enter__(self) -> Step:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(whole=kind is None)


class _Bar(Step):
    def __init__(self, title: str, total: float, unit: str, done: float) -> None:
        # Bytes are shown as k, M, G.
        self._bar = tqdm(
            desc=title, total=total, initial=done, unit=unit or " steps", unit_scale=unit == "B", file=sys.stderr
        )

    def advance(self, parts: float = 1) -> None:
        """As in Step."""
        self._bar.update(parts)

    def close(self, whole: bool) -> None:
        """As in Step."""
        self._bar.close()


class _Lines(Step):
    def __init__(
        self,
        title: str,
        total: float,
        unit: str,
        done: float,
        say: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._title = title
        self._total = total
        self._unit = unit
        self._first = self._done = done
        self._say = say
        self._clock = clock
        self._started = self._last = clock()

    def advance(self, parts: float = 1) -> None:
        """As in Step."""
        self._done += parts
        now = self._clock()
        if now - self._last < _SECONDS_BETWEEN_LINES or self._done >= self._total:
            return
        self._last = now
        rate = (self._done - self._first) / (now - self._started)
        left = f", {duration((self._total - self._done) / rate)} left" if rate > 0 else ""
        percent = 100 * self._done / self._total
        self._say(
            f"{self._title}: {percent:.0f} %, {quantity(self._done, self._unit)} of "
            f"{quantity(self._total, self._unit)}, {quantity(rate, self._unit)}/s{left}"
        )

    def close(self, whole: bool) -> None:
        """As in Step."""
        if not whole:
            return
        seconds = self._clock() - self._started
        if not self._total:
            self._say(f"{self._title}: {duration(seconds)}")
            return
        kept = f" ({quantity(self._first, self._unit)} kept from before)" if self._first else ""
        self._say(f"{self._title}: {quantity(self._total, self._unit)}{kept} in {duration(seconds)}")


def quantity(value: float, unit: str) -> str:
    """A number of bytes ("B") with a fitting prefix, or a plain number with its unit."""
    if unit != "B":
        return f"{value:.3g}{' ' + unit if unit else ''}"
    for prefix, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {prefix}"
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    """Seconds in words: 8 s, 3 min 20 s, 1 h 5 min."""
    seconds = round(seconds) if seconds >= 10 else round(seconds, 1)
    if seconds < 60:
        return f"{seconds:g} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
