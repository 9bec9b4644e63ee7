"""A thread that works on the latest item only, so that inference never blocks the executor and never falls behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LatestWorker(Generic[Item]):
    """Runs ``work`` in one thread, with a mailbox for one item: what is given later replaces what still waits.

    ``work`` must deal with its own errors and return soon once `stopping` says so. ``interval`` seconds, which may be
    changed at any time, pass at least from one start of it to the next; the item that is then the latest is taken.
    ``replaced`` counts those that gave way to later ones since the last `cancel`.
    """

    def __init__(self, work: Callable[[Item], None], name: str, interval: float = 0.0) -> None:
        self.replaced = 0
        self._interval = interval
        self._work = work
        self._item: Item | None = None
        self._busy = False
        self._stopping = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def interval(self) -> float:
        """Least seconds from one start to the next."""
        return self._interval

    @interval.setter
    def interval(self, seconds: float) -> None:
        with self._changed:
            self._interval = seconds
            self._changed.notify_all()

    def submit(self, item: Item) -> None:
        """Leaves an item for the thread, in place of one that still waits."""
        with self._changed:
            self.replaced += self._item is not None
            self._item = item
            self._changed.notify_all()

    def stopping(self) -> bool:
        """Whether the item being worked on is wanted no longer; called by the work itself."""
        return self._stopping

    def cancel(self) -> None:
        """Discards the item that waits, and returns when the one being worked on has ended, which it is told to do."""
        with self._changed:
            self._item = None
            self.replaced = 0
            self._stopping = True
            self._changed.wait_for(lambda: not self._busy)
            self._stopping = False

    def close(self) -> None:
        """Cancels, and ends the thread."""
        with self._changed:
            self._closed = True
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        started = float("-inf")
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._item is not None or self._closed)
                # Meanwhile later items take the place of this one, and the interval may change.
                while not self._closed and (left := started + self._interval - time.monotonic()) > 0:
                    self._changed.wait(left)
                if self._closed:
                    return
                if self._item is None:
                    continue
                item, self._item = self._item, None
                self._busy = True
            started = time.monotonic()
            try:
                self._work(item)
            finally:
                item = None  # type: ignore[assignment]  # not kept alive until the next one comes
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
