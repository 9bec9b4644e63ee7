"""A thread that works on the latest item only, so that inference never blocks the executor and never falls behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LatestWorker(Generic[Item]):
    """Runs ``work`` in one thread, with a mailbox for one item: what is given later replaces what still waits.

    ``work`` must deal with its own errors. ``done`` counts the items that were worked on, ``dropped`` those that were
    replaced or discarded before their turn.
    """

    def __init__(self, work: Callable[[Item], None], name: str) -> None:
        self.done = 0
        self.dropped = 0
        self._work = work
        self._item: Item | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> None:
        """Leaves an item for the thread, in place of one that still waits."""
        with self._changed:
            self.dropped += self._item is not None
            self._item = item
            self._changed.notify_all()

    def discard(self) -> None:
        """Takes away an item that still waits; the one being worked on goes on."""
        with self._changed:
            self.dropped += self._item is not None
            self._item = None

    def close(self) -> None:
        """Discards what waits and returns when the thread has ended, after the item it is working on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.discard()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._item is not None or self._closed)
                if self._closed:
                    return
                item, self._item = self._item, None
            self._work(item)  # type: ignore[arg-type]
            self.done += 1
            item = None  # not kept alive until the next one comes
