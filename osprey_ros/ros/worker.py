"""A thread that works on the latest item only, so that inference never blocks the executor and never falls behind.

Between two items it does jobs that were asked for: none waits for more than the item at work and the jobs before it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")

MOST_JOBS = 32  # that wait at once


class Job(Protocol):
    """Something to do between two items. One of its methods is called, once."""

    def run(self) -> None:
        """Does it, in the worker's thread; must deal with its own errors and return soon once `stopping` says so."""

    def abandon(self) -> None:
        """Instead of `run`, in the thread that cancels: there will be no more of it."""


class LatestWorker(Generic[Item]):
    """Runs ``work`` in one thread, with a mailbox for one item: what is given later replaces what still waits.

    ``work`` must deal with its own errors and return soon once `stopping` says so. ``interval`` seconds, which may be
    changed at any time, pass at least from one start of it to the next; the item that is then the latest is taken.
    ``replaced`` counts those that gave way to later ones since the last `cancel`. Jobs wait for no interval.
    """

    def __init__(self, work: Callable[[Item], None], name: str, interval: float = 0.0) -> None:
        self.replaced = 0
        self._interval = interval
        self._work = work
        self._item: Item | None = None
        self._jobs: deque[Job] = deque()
        self._jobs_first = 0  # so many jobs are done before the next item: those that came before the last one ended
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

    def ask(self, job: Job) -> bool:
        """Leaves a job for the thread; False where too many wait already, and this one is then left alone."""
        with self._changed:
            if len(self._jobs) >= MOST_JOBS:
                return False
            self._jobs.append(job)
            self._changed.notify_all()
            return True

    def stopping(self) -> bool:
        """Whether what is being worked on is wanted no longer; called by the work itself."""
        return self._stopping

    def cancel(self) -> None:
        """Discards what waits, and returns when what is being worked on has ended, which it is told to do."""
        with self._changed:
            self._item = None
            self.replaced = 0
            jobs = self._taken_jobs()
            self._stopping = True
            self._changed.wait_for(lambda: not self._busy)
            self._stopping = False
        for job in jobs:
            job.abandon()

    def close(self) -> None:
        """Cancels, and ends the thread."""
        with self._changed:
            jobs = self._taken_jobs()
            self._closed = True
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        for job in jobs:
            job.abandon()

    def _taken_jobs(self) -> list[Job]:
        jobs = list(self._jobs)
        self._jobs.clear()
        return jobs

    def _run(self) -> None:
        started = float("-inf")
        while True:
            with self._changed:
                while not (self._closed or self._jobs or self._is_due(started)):
                    # Meanwhile later items take the place of the one that waits, and the interval may change.
                    self._changed.wait(None if self._item is None else started + self._interval - time.monotonic())
                if self._closed:
                    return
                item: Item | None = None
                job: Job | None = None
                if self._jobs and (self._jobs_first > 0 or not self._is_due(started)):
                    job = self._jobs.popleft()
                    self._jobs_first -= 1
                else:
                    item, self._item = self._item, None
                self._busy = True
            try:
                if job is not None:
                    job.run()
                elif item is not None:
                    started = time.monotonic()
                    self._work(item)
            finally:
                with self._changed:
                    if item is not None:
                        self._jobs_first = len(self._jobs)
                    item = job = None  # not kept alive until the next one comes
                    self._busy = False
                    self._changed.notify_all()

    def _is_due(self, started: float) -> bool:
        """Whether an item waits and may be begun."""
        return self._item is not None and time.monotonic() >= started + self._interval
