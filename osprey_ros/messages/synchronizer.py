"""Brings together what several topics say of one moment: messages of the same stamp, or of nearly the same."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_STAMPS_REMEMBERED = 8  # of each topic, for the shortest time between two of its messages
_FAILURES = 3  # items of each topic without a match: one that was lost does the same to its partner


@dataclass
class SyncCounts:
    """What came in and what became of it, since the start, by topic; ``matched`` counts whole sets."""

    received: dict[str, int]
    unmatched: dict[str, int]  # given up: the queue was full, or what came later has matched
    matched: int = 0


class FrameSync:
    """Matches streams by stamp, in whatever order a set comes. No item is used twice.

    With a ``slop`` of 0, stamps of a set must be the same. Else they may lie up to so many nanoseconds apart, and each
    item of the first topic, whose stamps count, goes with the nearest one of each other topic. Where a nearer one may
    still come, which the time between the messages of a topic tells, it is waited for: taking the first that is
    near enough would, after one lost message, go on matching each image with what belongs to another.

    At most ``queue_size`` items of each stream wait; the one that waited longest is given up. A match gives up what
    came before it in each stream, so that sets come out in the order of arrival. Stamps may jump back (a recording that
    starts again): order of arrival is all that counts.

    Attributes:
        counts: what came in and what became of it.
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
        self._stamps: dict[str, deque[int]] = {topic: deque(maxlen=_STAMPS_REMEMBERED) for topic in topics}
        self._forget_failures()
        self._undecided: set[int] = set()  # stamps of the first topic whose set is there, but a nearer one may come

    def add(self, topic: str, stamp: int, item: Any) -> list[tuple[Any, ...]]:
        """Takes an item; returns the sets that are now complete, items in the order of the topics. Mostly none or one.

        ``stamp`` is in nanoseconds.
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
        """Smallest distance in nanoseconds between the stamps of a set since the last match, beyond ``slop`` or not.

        None where no set was there to look at, and until enough came without a match that it is no accident.
        """
        return self._smallest if self._is_failing() else None

    @property
    def late(self) -> frozenset[str]:
        """Topics whose items come after all that could match them has been pushed out of a full queue.

        ``queue_size`` is too small for them. Empty until enough came without a match that it is no accident.
        """
        return frozenset(self._late) if self._is_failing() else frozenset()

    def clear(self) -> None:
        """Forgets everything that waits."""
        for queue in self._waiting.values():
            queue.clear()
        self._undecided.clear()

    def _candidates(self, stamp: int) -> list[int]:
        """Stamps of the first topic, in order of arrival, whose set an item of this stamp may complete or decide."""
        waiting = self._waiting[self.topics[0]]
        if not self._slop:
            return [stamp] if stamp in waiting else []
        return [first for first in waiting if abs(first - stamp) <= self._slop or first in self._undecided]

    def _decided(self, first: int) -> tuple[int, ...] | None:
        """Stamps of the set of this item of the first topic, if it is whole and nothing better can come."""
        stamps = self._set_of(first)
        if stamps is None or max(stamps) - min(stamps) > self._slop:
            return None
        self._undecided.add(first)
        if all(self._is_final(first, t, s) for t, s in zip(self.topics[1:], stamps[1:], strict=True)):
            return stamps
        return None

    def _set_of(self, first: int) -> tuple[int, ...] | None:
        """The stamps nearest to one of the first topic, one of each topic; None where one has nothing."""
        if first not in self._waiting[self.topics[0]] or not all(self._waiting.values()):
            return None
        return (first, *(_nearest(self._waiting[topic], first) for topic in self.topics[1:]))

    def _is_final(self, first: int, topic: str, stamp: int) -> bool:
        """Whether these two belong together, whatever comes: stamps of one topic rise."""
        if stamp == first:
            return True
        head = self.topics[0]
        if _nearest(self._waiting[head], stamp) != first:
            return False
        # The older of the two may get a successor that is nearer to the younger one.
        older_topic, older = (head, first) if first < stamp else (topic, stamp)
        if any(later > older for later in self._waiting[older_topic]):
            return True
        period = self._period(older_topic)
        return period is None or 2 * abs(stamp - first) <= period

    def _period(self, topic: str) -> int | None:
        """Shortest time between two messages that followed one another lately; None where there was but one."""
        stamps = self._stamps[topic]
        steps = [b - a for a, b in zip(stamps, list(stamps)[1:], strict=False) if b > a]
        return min(steps, default=None)

    def _is_failing(self) -> bool:
        return min(self._in_vain.values()) >= _FAILURES

    def _forget_failures(self) -> None:
        self._in_vain = dict.fromkeys(self.topics, 0)  # items of each topic since the last match
        self._smallest: int | None = None
        self._late: set[str] = set()

    def _note_failure(self, topic: str, stamp: int) -> None:
        self._in_vain[topic] += 1
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
