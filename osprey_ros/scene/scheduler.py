"""Which objects get words in a frame: who comes first, how many fit the time that is left, and why others do not.

Objects are described in batches, all of a batch in one decode. What a batch takes is learned from those before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

_REQUESTED, _NEW, _STALE = 1000.0, 2.0, 1.0  # ranks; nobody waits so long that he comes before one that was asked for
_RANK_PER_FRAME = 0.1  # what each frame of waiting is worth: ten are as good as being new instead of stale
_FIRST_BATCH = 4  # objects, before anything is known of what they take
_KEPT = 32  # batches that are remembered
COST_QUANTILE = 0.9  # of them took no longer than is reckoned with
_CUT_TOOK = 1.25  # what a batch that was cut off would at least have taken, as a multiple of what it did
PROBE_DISCOUNT = (
    0.8  # factor on what is expected for each frame in which nothing fitted: one slow batch must not silence for good
)
_PATIENCE = 24  # frames without words after which one object is described whatever the budget


@dataclass(frozen=True)
class Candidate:
    """An object of a frame that needs words.

    ``row``: its number in the frame. ``importance``, 0 to 1: how large or near it is. ``waited``: frames in which it
    was left out.
    """

    row: int
    requested: bool = False
    new: bool = False
    importance: float = 0.0
    waited: int = 0

    @property
    def rank(self) -> float:
        """Higher ranks come first: asked for, then new, then stale; of one kind the larger; waiting lifts all."""
        kind = _REQUESTED if self.requested else _NEW if self.new else _STALE
        return kind + min(1.0, max(0.0, self.importance)) + _RANK_PER_FRAME * self.waited


@dataclass(frozen=True)
class Batch:
    """What became of a batch: which rows have all their words, and what it took in seconds.

    ``fixed_cost`` is spent by the first batch of a frame, however many objects it has.
    """

    done: frozenset[int]
    fixed_cost: float
    seconds: float


class CostModel:
    """What batches take, from the latest of them: something once for each frame, and a line over the objects."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, float]] = deque(maxlen=_KEPT)
        self._fixed_costs: deque[float] = deque(maxlen=_KEPT)
        self._warm = False
        self._line = (0.0, 0.0)  # seconds of any batch, and of each object in it; the margin is in it

    @property
    def known(self) -> bool:
        """Whether there was a batch."""
        return bool(self._batches)

    def record(self, objects: int, fixed_cost: float, seconds: float) -> None:
        """A batch of so many objects has taken this; ``fixed_cost`` is 0 for all but the first batch of a frame."""
        if self._batches and not self._warm:
            # The very first batch is slow: memory is new, and libraries choose their ways.
            self._batches.clear()
            self._fixed_costs.clear()
            self._warm = True
        self._batches.append((objects, seconds))
        if fixed_cost > 0:
            self._fixed_costs.append(fixed_cost)
        self._fit()

    def seconds(self, objects: int, first: bool = True) -> float:
        """What a batch of so many objects takes, rarely more; ``first`` of its frame or not."""
        start, each = self._line
        fixed_cost = float(np.quantile(self._fixed_costs, COST_QUANTILE)) if first and self._fixed_costs else 0.0
        return fixed_cost + start + each * objects

    def fitting(self, seconds: float, first: bool = True) -> int:
        """How many objects fit so much time, at least 0."""
        each = self._line[1]
        left = seconds - self.seconds(0, first)
        return max(0, int(left / each)) if each > 0 else 0

    def _fit(self) -> None:
        sizes, seconds = (np.array(part).clip(1e-9) for part in zip(*self._batches, strict=True))
        # If all batches have one size, assume that half of the time of a small one does not depend on the size.
        sizes_and_none, seconds_and_half = np.append(sizes, 0.0), np.append(seconds, seconds.min() / 2)
        weights = seconds_and_half**-2.0
        weights[-1] /= 16
        start, each = _line(sizes_and_none, seconds_and_half, weights)
        over = np.quantile(seconds / (start + each * sizes), COST_QUANTILE)
        self._line = (start * max(1.0, over), each * max(1.0, over))


def _line(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Start and slope of the line with least squared, weighted differences; neither is below 0, the slope above it."""
    weights = weights / weights.sum()
    middle_x, middle_y = float(weights @ x), float(weights @ y)
    spread = float(weights @ (x - middle_x) ** 2)
    slope = float(weights @ ((x - middle_x) * (y - middle_y))) / spread if spread > 0 else 0.0
    slope = min(max(slope, 0.01 * middle_y / max(middle_x, 1e-9)), middle_y / max(middle_x, 1e-9))
    return middle_y - slope * middle_x, slope


Describe = Callable[[Sequence[int], Callable[[], bool]], Batch]


class Scheduler:
    """Spends the time of frames on their objects. One for a describer: what it learns is what that takes.

    Args:
        clock: seconds, as `time.perf_counter`.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self.clock = clock
        self.costs = CostModel()
        self._without_words = 0  # frames on end in which somebody waited and nobody got words
        self._untried = 0  # frames on end in which nothing seemed to fit
        self._failed = 0  # batches that were cut off, since the last that was not

    def run(
        self,
        candidates: Sequence[Candidate],
        describe: Describe,
        started: float,
        budget: float = 0.0,
        most: int = 32,
        should_stop: Callable[[], bool] | None = None,
    ) -> dict[int, str]:
        """Describes as many objects of a frame as there is time for; returns the others' rows, each with the reason.

        Without a budget all are described in one batch, up to ``most``. With one, batches are as large as the time that
        is left allows, by what earlier ones took; at its end decoding stops. When nothing has fitted for many frames,
        one object is described nevertheless, so that a budget that is too small is broken rarely, and words come.

        Args:
            describe: takes rows in their order and a function that it asks before each step whether to stop.
            started: when the frame began, by the clock. ``budget``: seconds from then on; 0 is no limit.
            should_stop: as for ``describe``; what is then not described has the reason "stopped".
        """
        stopped = should_stop or (lambda: False)
        queue = [c.row for c in sorted(candidates, key=lambda c: (-c.rank, c.row))]
        if not queue:
            self._without_words = 0
            return {}
        reasons = {row: f"{most} objects of this frame came first (max_regions {most})" for row in queue[most:]}
        queue = queue[:most]
        if budget:
            left = self._describe_until(queue, describe, started + budget, stopped)
        else:
            left = self._describe_all(queue, describe, stopped)
        late = "stopped" if stopped() or not budget else f"no time left in this frame (time_budget {budget:g} s)"
        self._without_words = 0 if len(left) < len(queue) or stopped() else self._without_words + 1
        return reasons | dict.fromkeys(left, late)

    def _describe_all(self, queue: list[int], describe: Describe, stopped: Callable[[], bool]) -> list[int]:
        if stopped() or not queue:
            return queue
        batch = describe(queue, stopped)
        left = [row for row in queue if row not in batch.done]
        if not left:
            self.costs.record(len(queue), batch.fixed_cost, batch.seconds)
        return left

    def _describe_until(
        self, queue: list[int], describe: Describe, end: float, stopped: Callable[[], bool]
    ) -> list[int]:
        """Returns the rows that were left out."""

        def late() -> bool:
            return stopped() or self.clock() >= end

        left: list[int] = []  # cut off: not tried again in this frame
        first = True
        while queue and not stopped():
            must = first and self._without_words >= _PATIENCE
            count = 1 if must else min(self._room(end - self.clock(), first), len(queue))
            if count == 0:
                self._untried += first
                break
            self._untried = 0
            rows, queue = queue[:count], queue[count:]
            batch = describe(rows, stopped if must else late)
            missing = [row for row in rows if row not in batch.done]
            took = batch.seconds
            if missing:
                took = max(_CUT_TOOK * took, batch.fixed_cost, self.costs.seconds(count, first=False))
            if not stopped():
                self.costs.record(count, batch.fixed_cost, took)
                self._failed = self._failed + 1 if missing else self._failed if must else 0
            left += missing
            first = False
            if missing:
                break
        return left + queue

    def _room(self, seconds: float, first: bool) -> int:
        if seconds <= 0:
            return 0
        if not self.costs.known:
            return _FIRST_BATCH
        hoped = seconds / PROBE_DISCOUNT ** (self._untried / 2 ** min(self._failed, 10))
        return self.costs.fitting(seconds, first) or min(1, self.costs.fitting(hoped, first))
