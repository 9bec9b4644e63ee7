"""Decide which objects are described in a frame: by priority, as many as the remaining time allows.

Objects are described in batches, all of a batch in one decode. Their duration is learned from earlier batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from osprey_ros.system.cancellation import CancellationToken

# Priorities. A requested object always outranks a waiting one.
_REQUESTED, _NEW, _STALE = 1000.0, 2.0, 1.0
_PRIORITY_PER_FRAME = 0.1  # ten frames of waiting outweigh new instead of stale
_FIRST_BATCH = 4  # objects, while no duration is known
_KEPT = 32  # batches from which durations are learned
COST_QUANTILE = 0.9  # plan with the 90th percentile of past batch durations
_INTERRUPTED = 1.25  # least full duration of an interrupted batch, as a multiple of its elapsed time
PROBE_DISCOUNT = 0.8  # shrink the estimate per idle frame, so that one slow batch cannot block captioning
_PATIENCE = 24  # frames without a caption, after which one object is described whatever the budget


@dataclass(frozen=True)
class Candidate:
    """An object that needs a caption.

    Attributes:
        track_id: The object.
        requested: Whether a user asked for it.
        new: Whether it has no caption.
        importance: 0 to 1, how large or near it is.
        waited: Frames in which it was skipped.
    """

    track_id: int
    requested: bool = False
    new: bool = False
    importance: float = 0.0
    waited: int = 0

    @property
    def priority(self) -> float:
        """Requested objects come first, then new, then stale ones; larger ones before smaller ones. Waiting adds."""
        kind = _REQUESTED if self.requested else _NEW if self.new else _STALE
        return kind + min(1.0, max(0.0, self.importance)) + _PRIORITY_PER_FRAME * self.waited


@dataclass(eq=False)
class Batch:
    """Objects to describe in one decode. Who iterates over `Scheduler.batches` sets ``described`` and ``fixed_cost``.

    Attributes:
        track_ids: The objects, by priority.
        cancel: Ends the decoding of the batch, if it can end early.
        described: The objects whose captions are complete.
        fixed_cost: Seconds that the first batch of a frame spends whatever its size.
        crops: The objects among them that get a crop of their own.
        crop_cost: Seconds that were spent on these crops.
    """

    track_ids: tuple[int, ...]
    cancel: CancellationToken | None
    described: frozenset[int] = frozenset()
    fixed_cost: float = 0.0
    crops: frozenset[int] = frozenset()
    crop_cost: float = 0.0


class CostModel:
    """Durations of batches, learned from the latest: a fixed cost for each frame, and a line over the objects.

    The durations of crops are learned apart from them: seconds for each crop.
    """

    def __init__(self) -> None:
        self._batches: deque[tuple[int, float]] = deque(maxlen=_KEPT)
        self._fixed_costs: deque[float] = deque(maxlen=_KEPT)
        self._warm = False
        self._crops: deque[float] = deque(maxlen=_KEPT)  # seconds for each crop
        self._crops_warm = False
        self._line = (0.0, 0.0)  # seconds of any batch, and of each object in it, at the quantile

    @property
    def known(self) -> bool:
        """Whether a batch was recorded."""
        return bool(self._batches)

    def record(self, objects: int, fixed_cost: float, seconds: float) -> None:
        """Add the duration of a batch. ``fixed_cost`` is 0 for all but the first batch of a frame."""
        if self._batches and not self._warm:
            # The very first batch is slow: memory is allocated, and libraries select their kernels.
            self._batches.clear()
            self._fixed_costs.clear()
            self._warm = True
        self._batches.append((objects, seconds))
        if fixed_cost > 0:
            self._fixed_costs.append(fixed_cost)
        self._fit()

    def record_crops(self, crops: int, seconds: float) -> None:
        """Add the duration of the crops of a batch."""
        if self._crops and not self._crops_warm:
            self._crops.clear()  # the very first crops are slow, too: their engine is loaded
            self._crops_warm = True
        self._crops.append(seconds / crops)

    def fitting_crops(self, seconds: float) -> int:
        """Return the number of crops that can be made in this time; one while their duration is unknown."""
        if seconds <= 0:
            return 0
        if not self._crops:
            return 1
        return int(seconds / max(float(np.quantile(self._crops, COST_QUANTILE)), 1e-9))

    def seconds(self, objects: int, first: bool = True) -> float:
        """Return the expected duration of a batch, at COST_QUANTILE. ``first``: the first one of its frame."""
        start, each = self._line
        fixed_cost = float(np.quantile(self._fixed_costs, COST_QUANTILE)) if first and self._fixed_costs else 0.0
        return fixed_cost + start + each * objects

    def fitting(self, seconds: float, first: bool = True) -> int:
        """Return the number of objects that can be described in this time."""
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
    """Return start (at least 0) and slope (above 0) of the weighted least-squares line."""
    weights = weights / weights.sum()
    middle_x, middle_y = float(weights @ x), float(weights @ y)
    spread = float(weights @ (x - middle_x) ** 2)
    slope = float(weights @ ((x - middle_x) * (y - middle_y))) / spread if spread > 0 else 0.0
    slope = min(max(slope, 0.01 * middle_y / max(middle_x, 1e-9)), middle_y / max(middle_x, 1e-9))
    return middle_y - slope * middle_x, slope


def _canceled(cancel: CancellationToken | None) -> bool:
    return cancel is not None and cancel.canceled


class Scheduler:
    """Plans batches. Use one for each describer: it learns how long that takes.

    Args:
        clock: Returns seconds, as `time.perf_counter`.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self.clock = clock
        self.costs = CostModel()
        self.skipped: dict[int, str] = {}
        """Of the latest frame whose batches are done: the objects that were not described, each with the reason."""
        self._frames_without_caption = 0  # in a row, although objects needed one
        self._idle_frames = 0  # in a row, in which no batch seemed to fit
        self._interrupted = 0  # batches in a row
        self._without_crops = 0  # batches in a row, in which no crop seemed to fit

    def batches(
        self,
        candidates: Sequence[Candidate],
        started: float,
        budget: float = 0.0,
        max_objects: int = 32,
        cancel: CancellationToken | None = None,
        crops: Collection[int] = (),
    ) -> Iterator[Batch]:
        """Yield the batches of one frame; the time until the next one is requested is the duration of a batch.

        Without a budget all objects are in one batch. With a budget each batch is as large as the remaining time allows
        by the durations of earlier ones, and decoding stops at the end of the budget. If no caption was completed for
        many frames, one object is described nevertheless: a budget that is too small is exceeded rarely, and captions
        come. With a budget, crops are made in the time that decoding leaves.

        Args:
            candidates: The objects that need a caption.
            started: Time of the clock at which the frame began.
            budget: Seconds from then on; 0 for no limit.
            max_objects: Upper bound on the described objects.
            cancel: Ends the frame; what is then not described has the reason "stopped".
            crops: The objects for which a crop is wanted.
        """
        queue = [c.track_id for c in sorted(candidates, key=lambda c: (-c.priority, c.track_id))]
        beyond = f"{max_objects} objects with a higher priority in this frame (max_regions {max_objects})"
        self.skipped = dict.fromkeys(queue[max_objects:], beyond)
        queue = queue[:max_objects]
        waiting, interrupted = len(queue), list[int]()
        end = started + budget if budget else float("inf")
        budgeted = CancellationToken(end, self.clock, parent=cancel) if budget else cancel
        first = True
        while queue and not interrupted and not _canceled(cancel):
            forced = first and bool(budget) and self._frames_without_caption >= _PATIENCE
            count = 1 if forced else min(self._batch_size(end - self.clock(), first), len(queue))
            if count == 0:
                self._idle_frames += first
                break
            self._idle_frames = 0
            began = self.clock()
            batch = Batch(tuple(queue[:count]), cancel if forced else budgeted)
            if not forced:
                batch.crops = self._crops(batch.track_ids, crops, end - began, first)
            yield batch
            interrupted = [track_id for track_id in batch.track_ids if track_id not in batch.described]
            if not _canceled(cancel):
                self._record(batch, self.clock() - began - batch.fixed_cost - batch.crop_cost, forced)
            queue, first = queue[count:], False
        left = [*interrupted, *queue]
        late = f"no time left in this frame (time_budget {budget:g} s)"
        self.skipped |= dict.fromkeys(left, "stopped" if _canceled(cancel) or not budget else late)
        self._frames_without_caption = (
            0 if len(left) < waiting or not waiting or _canceled(cancel) else self._frames_without_caption + 1
        )

    def _record(self, batch: Batch, seconds: float, forced: bool) -> None:
        count = len(batch.track_ids)
        if len(batch.described) == count:
            self._interrupted = self._interrupted if forced else 0
        else:
            seconds = max(_INTERRUPTED * seconds, batch.fixed_cost, self.costs.seconds(count, first=False))
            self._interrupted += 1
        self.costs.record(count, batch.fixed_cost, seconds)
        if batch.crops and batch.crop_cost > 0:
            self.costs.record_crops(len(batch.crops), batch.crop_cost)

    def _crops(self, track_ids: Sequence[int], wanted: Collection[int], seconds: float, first: bool) -> frozenset[int]:
        """Return the objects of a batch that get a crop: by priority, as many as the time allows besides decoding."""
        queue = [track_id for track_id in track_ids if track_id in wanted]
        if not queue or seconds == float("inf"):
            return frozenset(queue)
        if not self.costs.known:
            return frozenset()
        left = seconds - self.costs.seconds(len(track_ids), first)
        discounted = left / PROBE_DISCOUNT**self._without_crops
        count = self.costs.fitting_crops(left) or min(1, self.costs.fitting_crops(discounted))
        self._without_crops = 0 if count else self._without_crops + 1
        return frozenset(queue[:count])

    def _batch_size(self, seconds: float, first: bool) -> int:
        """Return how many objects to describe in the remaining time."""
        if seconds == float("inf"):
            return 1 << 31
        if seconds <= 0:
            return 0
        if not self.costs.known:
            return _FIRST_BATCH
        discounted = seconds / PROBE_DISCOUNT ** (self._idle_frames / 2 ** min(self._interrupted, 10))
        return self.costs.fitting(seconds, first) or min(1, self.costs.fitting(discounted, first))
