"""A thread that works on the latest item only, so that inference neither blocks the executor nor falls behind.

Between two items the thread runs jobs. A job waits for at most the current item and the jobs before it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from osprey_ros.system.cancellation import CancellationToken

Item = TypeVar("Item")

MAX_JOBS = 32  # jobs that may wait at once


class Job(Protocol):
    """Work to do between two items. Exactly one of its methods is called, once."""

    def run(self, cancel: CancellationToken) -> None:
        """Do the work, in the worker's thread. Handles its own errors, and returns soon after ``cancel``."""

    def abandon(self) -> None:
        """Called instead of `run` if the worker is canceled or closed, in the thread that cancels or asks."""


class LatestWorker(Generic[Item]):
    """Run ``work`` in one thread, with a mailbox for one item: a later item replaces the one that waits.

    Thread-safe: all methods may be called from any thread.

    Args:
        work: processes one item. Handles its own errors, and returns soon once its token is canceled.
        name: name of the thread.
        interval: minimum time in seconds from one start of ``work`` to the next. Jobs do not wait for it.

    Attributes:
        replaced: number of items that were replaced by later ones since the last `cancel`.
    """

    def __init__(self, work: Callable[[Item, CancellationToken], None], name: str, interval: float = 0.0) -> None:
        self.replaced = 0
        self._interval = interval
        self._work = work
        self._item: Item | None = None
        self._jobs: deque[Job] = deque()
        self._jobs_first = 0  # jobs to run before the next item: those that came before the last item ended
        self._busy = False
        self._stopping = False
        self._token = CancellationToken()  # of the current item or job
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def interval(self) -> float:
        """Minimum time in seconds from one start to the next."""
        return self._interval

    @interval.setter
    def interval(self, seconds: float) -> None:
        with self._changed:
            self._interval = seconds
            self._changed.notify_all()

    def submit(self, item: Item) -> None:
        """Put an item into the mailbox; an item that waits there is dropped. Ignored while the worker stops."""
        with self._changed:
            if self._stopping:
                return
            self.replaced += self._item is not None
            self._item = item
            self._changed.notify_all()

    def ask(self, job: Job) -> bool:
        """Append a job; return False, without calling the job, if too many jobs wait.

        While the worker is being canceled and after it was closed, the job is abandoned at once.
        """
        with self._changed:
            if not self._stopping:
                if len(self._jobs) >= MAX_JOBS:
                    return False
                self._jobs.append(job)
                self._changed.notify_all()
                return True
        job.abandon()
        return True

    def cancel(self) -> None:
        """Drop the waiting item, abandon the waiting jobs, and return when the current one has ended.

        The token of the current one is canceled, which also ends a run of an engine that can be interrupted.
        """
        jobs = self._stop()
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
            self.replaced = 0
            if not self._closed:
                self._stopping, self._token = False, CancellationToken()
        for job in jobs:
            job.abandon()

    def close(self) -> None:
        """Cancel, and end the thread."""
        self._closed = True
        jobs = self._stop()
        self._thread.join()
        for job in jobs:
            job.abandon()

    def _stop(self) -> list[Job]:
        """Cancel the current item or job, accept no more, and return the jobs that waited."""
        with self._changed:
            self._item = None
            jobs = list(self._jobs)
            self._jobs.clear()
            self._stopping = True
            self._changed.notify_all()
        self._token.cancel()  # without the lock, as it calls into the engines
        return jobs

    def _run(self) -> None:
        started = float("-inf")
        while True:
            with self._changed:
                while not (self._closed or self._jobs or self._is_due(started)):
                    # Meanwhile a later item may replace the one that waits, and the interval may change.
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
                self._busy, token = True, self._token
            try:
                if job is not None:
                    job.run(token)
                elif item is not None:
                    started = time.monotonic()
                    self._work(item, token)
            finally:
                with self._changed:
                    if item is not None:
                        self._jobs_first = len(self._jobs)
                    item = job = None  # free them before the next one arrives
                    self._busy = False
                    self._changed.notify_all()

    def _is_due(self, started: float) -> bool:
        """Return whether an item waits and its interval has passed."""
        return self._item is not None and time.monotonic() >= started + self._interval
