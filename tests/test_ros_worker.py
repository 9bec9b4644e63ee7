"""The worker: which items reach the work, how often, and how it is stopped."""

from __future__ import annotations

import threading
import time

from osprey_ros.ros.worker import LatestWorker

PATIENCE = 10


class Work:
    """Work that ends when it is let go, or told to stop."""

    def __init__(self, interval: float = 0.0) -> None:
        self.begun: list[tuple[int, float]] = []
        self.stopped: list[int] = []
        self.started, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.worker = LatestWorker(self._run, "test", interval)

    def _run(self, item: int) -> None:
        self.begun.append((item, time.monotonic()))
        self.started.release()
        while not self.go_on.acquire(timeout=0.005):
            if self.worker.stopping():
                self.stopped.append(item)
                return

    def items(self) -> list[int]:
        return [item for item, _ in self.begun]


def test_the_latest_item_wins() -> None:
    work = Work()
    work.worker.submit(1)
    assert work.started.acquire(timeout=PATIENCE)
    for item in (2, 3, 4):
        work.worker.submit(item)
    work.go_on.release(2)
    assert work.started.acquire(timeout=PATIENCE)
    work.worker.close()
    assert work.items() == [1, 4]
    assert work.worker.replaced == 2


def test_cancelling_stops_the_item_at_work_and_forgets_the_next() -> None:
    work = Work()
    work.worker.submit(1)
    assert work.started.acquire(timeout=PATIENCE)
    work.worker.submit(2)
    work.worker.cancel()
    assert work.stopped == [1]
    # It goes on with what comes later.
    assert not work.worker.stopping()
    work.worker.submit(3)
    assert work.started.acquire(timeout=PATIENCE)
    work.go_on.release()
    work.worker.close()
    assert work.items() == [1, 3]


def test_closing_stops_the_item_at_work() -> None:
    work = Work()
    work.worker.submit(1)
    assert work.started.acquire(timeout=PATIENCE)
    work.worker.submit(2)
    work.worker.close()
    assert (work.items(), work.stopped) == ([1], [1])


def test_items_start_no_more_often_than_the_interval_says_and_the_latest_is_taken() -> None:
    work = Work(interval=0.2)
    work.go_on.release(3)
    work.worker.submit(1)
    assert work.started.acquire(timeout=PATIENCE)
    work.worker.submit(2)
    work.worker.submit(3)
    assert work.started.acquire(timeout=PATIENCE)
    assert work.items() == [1, 3]
    assert work.begun[1][1] - work.begun[0][1] >= 0.2
    # A new interval counts at once, also for an item that waits.
    work.worker.interval = 1000.0
    work.worker.submit(4)
    work.worker.interval = 0.0
    assert work.started.acquire(timeout=PATIENCE)
    work.worker.close()
