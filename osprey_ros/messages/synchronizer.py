"""Matching of messages from several topics by stamp, exactly or approximately."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_SLOP = 10.0  # seconds; a larger difference of stamps means that they are wrong
MAX_QUEUE_SIZE = 500  # items of a stream; whole images take much memory
_STAMPS_KEPT = 8  # latest stamps of each topic, for the shortest time between two of its messages
_FAILURES = 3  # items of each topic without a match before `offset` and `late` report; one may just have been lost


@dataclass
class SyncCounts:
    """Counts since the start.

    Attributes:
        received: items of each topic.
        unmatched: items of each topic dropped without a match, because the queue was full or later items matched.
        matched: complete sets.
    """

    received: dict[str, int]
    unmatched: dict[str, int]
    matched: int = 0


class FrameSync:
    """Match streams by stamp, in any order of arrival. No item is used twice.

    With a ``slop`` of 0, the stamps of a set must be equal. Otherwise they may differ by ``slop``, and each item of the
    first topic is matched with the nearest item of each other topic. If a nearer item may still arrive, judging by the
    period of its topic, the match waits for it: otherwise, after one lost message, every image would be matched with
    the regions of another one.

    A match drops the items that arrived before it in each stream, so sets are returned in the order of arrival. Stamps
    may jump back, for example when a recording restarts.

    Args:
        topics: names of the streams; stamps are compared with those of the first one.
        queue_size: items of each stream that may wait; the oldest one is dropped.
        slop: maximum difference of stamps in nanoseconds.

    Attributes:
        counts: received, matched and dropped items.
    """

    def __init__(self, topics: Sequence[str], queue_size: int, slop: int = 0) -> None:
        if queue_size < 1:
            raise ValueError(f"queue_size must be at least 1, not {queue_size}")
        if slop < 0:
            raise ValueError(f"slop must be 0 or more nanoseconds, not {slop}")
        self.topics = tuple(topics)
        self.counts = SyncCounts(dict.fromkeys(topics, 0), dict.fromkeys(topics, 0))
        self._queue_size, self._slop = queue_size, slop
        self._waiting: dict[str, OrderedDict[int, Any]] = {topic: OrderedDict() for topic in topics}
        self._stamps: dict[str, deque[int]] = {topic: deque(maxlen=_STAMPS_KEPT) for topic in topics}
        self._forget_failures()
        self._undecided: set[int] = set()  # stamps of the first topic with a set to which a nearer item may arrive

    def add(self, topic: str, stamp: int, item: Any) -> list[tuple[Any, ...]]:
        """Add an item with its stamp in nanoseconds.

        Returns:
            The sets that are now complete, with items in the order of the topics; usually none or one.
        """
        self.counts.received[topic] += 1
        self._stamps[topic].append(stamp)
        queue = self._waiting[topic]
        if queue.pop(stamp, None) is not None:
            self.counts.unmatched[topic] += 1
        queue[stamp] = item
        if len(queue) > self._queue_size:
            queue.popitem(last=False)
            self.counts.unmatched[topic] += 1
        matches = []
        for first in self._candidates(stamp):
            stamps = self._decided(first)
            if stamps is not None:
                matches.append(tuple(self._take(t, s) for t, s in zip(self.topics, stamps, strict=True)))
        self._undecided &= self._waiting[self.topics[0]].keys()
        self.counts.matched += len(matches)
        if matches:
            self._forget_failures()
        else:
            self._note_failure(topic, stamp)
        return matches

    @property
    def offset(self) -> int | None:
        """Smallest difference of stamps within a set since the last match, in nanoseconds.

        None if there was no set, or if too few items arrived without a match to rule out chance.
        """
        return self._smallest if self._is_failing() else None

    @property
    def late(self) -> frozenset[str]:
        """Topics whose items arrive after the matching items were dropped from a full queue.

        ``queue_size`` is too small for them. Empty if too few items arrived without a match to rule out chance.
        """
        return frozenset(self._late) if self._is_failing() else frozenset()

    def clear(self) -> None:
        """Drop all waiting items."""
        for queue in self._waiting.values():
            queue.clear()
        self._undecided.clear()

    def _candidates(self, stamp: int) -> list[int]:
        """Return stamps of the first topic, in order of arrival, whose set this stamp may complete or decide."""
        waiting = self._waiting[self.topics[0]]
        if not self._slop:
            return [stamp] if stamp in waiting else []
        return [first for first in waiting if abs(first - stamp) <= self._slop or first in self._undecided]

    def _decided(self, first: int) -> tuple[int, ...] | None:
        """Return the stamps of the set of an item of the first topic, if it is complete and final."""
        stamps = self._set_of(first)
        if stamps is None or max(stamps) - min(stamps) > self._slop:
            return None
        self._undecided.add(first)
        if all(self._is_final(first, t, s) for t, s in zip(self.topics[1:], stamps[1:], strict=True)):
            return stamps
        return None

    def _set_of(self, first: int) -> tuple[int, ...] | None:
        """Return the nearest stamp of each topic to an item of the first topic; None if a topic has no item."""
        if first not in self._waiting[self.topics[0]] or not all(self._waiting.values()):
            return None
        return (first, *(_nearest(self._waiting[topic], first) for topic in self.topics[1:]))

    def _is_final(self, first: int, topic: str, stamp: int) -> bool:
        """Return whether no later item can match better, assuming that the stamps of a topic increase."""
        if stamp == first:
            return True
        head = self.topics[0]
        if _nearest(self._waiting[head], stamp) != first:
            return False
        # The older item may get a successor that is nearer to the newer one.
        older_topic, older = (head, first) if first < stamp else (topic, stamp)
        if any(later > older for later in self._waiting[older_topic]):
            return True
        period = self._period(older_topic)
        return period is None or 2 * abs(stamp - first) <= period

    def _period(self, topic: str) -> int | None:
        """Return the shortest time between consecutive recent messages; None after only one message."""
        stamps = self._stamps[topic]
        steps = [b - a for a, b in zip(stamps, list(stamps)[1:], strict=False) if b > a]
        return min(steps, default=None)

    def _is_failing(self) -> bool:
        return min(self._unmatched_since.values()) >= _FAILURES

    def _forget_failures(self) -> None:
        self._unmatched_since = dict.fromkeys(self.topics, 0)  # items of each topic since the last match
        self._smallest: int | None = None
        self._late: set[str] = set()

    def _note_failure(self, topic: str, stamp: int) -> None:
        self._unmatched_since[topic] += 1
        others = [t for t in self.topics if t != topic]
        for other in others:
            queue = self._waiting[other]
            if len(queue) == self._queue_size and stamp < min(queue) - self._slop:
                self._late.add(topic)
        head = self._waiting[self.topics[0]]
        stamps = self._set_of(_nearest(head, stamp)) if head else None
        if stamps is not None:
            apart = max(stamps) - min(stamps)
            self._smallest = apart if self._smallest is None else min(self._smallest, apart)

    def _take(self, topic: str, stamp: int) -> Any:
        queue = self._waiting[topic]
        while True:
            oldest, item = queue.popitem(last=False)
            if oldest == stamp:
                return item
            self.counts.unmatched[topic] += 1


def _nearest(stamps: OrderedDict[int, Any], stamp: int) -> int:
    return stamp if stamp in stamps else min(stamps, key=lambda other: abs(other - stamp))
