"""Brings together the image and the segmentation of one moment: those with exactly the same stamp."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

First = TypeVar("First")
Second = TypeVar("Second")


@dataclass
class SyncCounts:
    """What came in and what became of it, since the start."""

    first: int = 0
    second: int = 0
    matched: int = 0
    unmatched: int = 0  # given up: the queue was full, or what came later has matched


class FrameSync(Generic[First, Second]):
    """Matches two streams by stamp, whichever of a pair comes first.

    At most ``queue_size`` items of each stream wait for their partner; the one that waited longest is given up. A match
    gives up what came before it in either stream, so that pairs come out in the order of arrival. Stamps may jump back
    (a recording that starts again): order of arrival is all that counts.
    """

    def __init__(self, queue_size: int) -> None:
        if queue_size < 1:
            raise ValueError(f"queue_size must be at least 1, not {queue_size}")
        self.queue_size = queue_size
        self.counts = SyncCounts()
        self._first: OrderedDict[int, First] = OrderedDict()
        self._second: OrderedDict[int, Second] = OrderedDict()

    def add_first(self, stamp: int, item: First) -> tuple[First, Second] | None:
        """Takes an item of the first stream; returns its pair if that is now complete."""
        self.counts.first += 1
        self._put(self._first, stamp, item)
        return self._match(stamp)

    def add_second(self, stamp: int, item: Second) -> tuple[First, Second] | None:
        """Takes an item of the second stream; returns its pair if that is now complete."""
        self.counts.second += 1
        self._put(self._second, stamp, item)
        return self._match(stamp)

    def clear(self) -> None:
        """Forgets everything that waits."""
        self._first.clear()
        self._second.clear()

    def _put(self, queue: OrderedDict, stamp: int, item: object) -> None:
        if queue.pop(stamp, None) is not None:
            self.counts.unmatched += 1
        queue[stamp] = item
        if len(queue) > self.queue_size:
            queue.popitem(last=False)
            self.counts.unmatched += 1

    def _match(self, stamp: int) -> tuple[First, Second] | None:
        if stamp not in self._first or stamp not in self._second:
            return None
        self.counts.matched += 1
        return self._take(self._first, stamp), self._take(self._second, stamp)

    def _take(self, queue: OrderedDict, stamp: int):
        while True:
            oldest, item = queue.popitem(last=False)
            if oldest == stamp:
                return item
            self.counts.unmatched += 1
