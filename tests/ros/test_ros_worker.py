"""The worker: processed items, interval, jobs and cancellation."""

from __future__ import annotations

import threading
import time

from osprey_ros.ros.worker import MAX_JOBS, LatestWorker
from osprey_ros.system.cancellation import CancellationToken

PATIENCE = 10


class Work:
    """Work that ends when a test lets it go, or when it is canceled."""

    def __init__(self, interval: float = 0.0) -> None:
        self.begun: list[tuple[int, float]] = []
        self.stopped: list[int] = []
        self.started, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.worker = LatestWorker(self._run, "test", interval)

    def _run(self, item: int, cancel: CancellationToken) -> None:
        self.begun.append((item, time.monotonic()))
        remove = cancel.add_callback(self.go_on.release)  # as an engine does, whose run a token interrupts
        self.started.release()
        assert self.go_on.acquire(timeout=PATIENCE)
        remove()
        if cancel.canceled:
            self.stopped.append(item)

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


def test_cancel_stops_the_current_item_and_drops_the_next() -> None:
    work = Work()
    work.worker.submit(1)
    assert work.started.acquire(timeout=PATIENCE)
    work.worker.submit(2)
    work.worker.cancel()
    assert work.stopped == [1]
    # It continues with later items.
    work.worker.submit(3)
    assert work.started.acquire(timeout=PATIENCE)
    work.go_on.release()
    work.worker.close()
    assert work.items() == [1, 3]


def test_close_stops_the_current_item() -> None:
    work = Work()
    work.worker.submit(1)
    assert work.started.acquire(timeout=PATIENCE)
    work.worker.submit(2)
    work.worker.close()
    assert (work.items(), work.stopped) == ([1], [1])


def test_items_start_no_more_often_than_the_interval_says_and_the_latest_is_taken() -> None:
    work = Work(interval=1.0)  # long, so that 2 and 3 are both there before it is over
    work.go_on.release(3)
    work.worker.submit(1)
    assert work.started.acquire(timeout=PATIENCE)
    work.worker.submit(2)
    work.worker.submit(3)
    assert work.started.acquire(timeout=PATIENCE)
    assert work.items() == [1, 3]
    assert work.begun[1][1] - work.begun[0][1] >= 0.5
    # A new interval takes effect at once, also for an item that waits.
    work.worker.interval = 1000.0
    work.worker.submit(4)
    work.worker.interval = 0.0
    assert work.started.acquire(timeout=PATIENCE)
    work.worker.close()


class Asked:
    """A job that records whether it was run or abandoned."""

    def __init__(self, name: str, done: list[object]) -> None:
        self._name, self._done = name, done
        self.ended = threading.Event()

    def run(self, cancel: CancellationToken) -> None:
        self._done.append(self._name)
        self.ended.set()

    def abandon(self) -> None:
        self._done.append(f"not {self._name}")
        self.ended.set()


def test_jobs_and_items_take_turns() -> None:
    work = Work()
    done: list[object] = work.begun  # type: ignore[assignment]
    jobs = {name: Asked(name, done) for name in ("early", "first", "second", "late")}
    assert work.worker.ask(jobs["early"])
    assert jobs["early"].ended.wait(PATIENCE)
    work.worker.submit(1)
    assert work.started.acquire(timeout=PATIENCE)
    work.worker.submit(2)
    assert work.worker.ask(jobs["first"])
    assert work.worker.ask(jobs["second"])
    work.go_on.release()
    assert work.started.acquire(timeout=PATIENCE)
    assert work.worker.ask(jobs["late"])
    work.worker.submit(3)
    work.go_on.release(2)
    assert work.started.acquire(timeout=PATIENCE)
    work.worker.close()
    assert [item if isinstance(item, str) else item[0] for item in done] == [
        "early",
        1,
        "first",
        "second",
        2,
        "late",
        3,
    ]


def test_a_job_does_not_wait_for_the_interval() -> None:
    work = Work(interval=1000.0)
    work.go_on.release()
    work.worker.submit(1)
    assert work.started.acquire(timeout=PATIENCE)
    work.worker.submit(2)
    job = Asked("asked", [])
    assert work.worker.ask(job)
    assert job.ended.wait(PATIENCE)
    work.worker.close()
    assert work.items() == [1]


def test_waiting_jobs_are_abandoned_and_too_many_are_refused() -> None:
    for end in ("cancel", "close"):
        work = Work()
        done: list[object] = []
        work.worker.submit(1)
        assert work.started.acquire(timeout=PATIENCE)
        jobs = [Asked(str(number), done) for number in range(MAX_JOBS + 2)]
        assert [work.worker.ask(job) for job in jobs] == [True] * MAX_JOBS + [False] * 2
        getattr(work.worker, end)()
        assert work.stopped == [1]
        assert done == [f"not {number}" for number in range(MAX_JOBS)]
        work.worker.close()


def test_a_job_that_comes_after_the_end_is_abandoned_at_once() -> None:
    work = Work()
    done: list[object] = []
    work.worker.close()
    late = Asked("late", done)
    assert work.worker.ask(late)
    assert done == ["not late"]
    work.worker.cancel()  # does nothing any more
    assert work.worker.ask(late)
    assert done == ["not late"] * 2


def test_jobs_and_items_that_arrive_during_cancellation_are_dropped() -> None:
    for end in ("cancel", "close"):
        done: list[object] = []
        began, canceled, asked = threading.Event(), threading.Event(), threading.Event()
        runs: list[int] = []

        def run(
            item: int,
            cancel: CancellationToken,
            events: tuple[threading.Event, ...] = (began, canceled, asked),
            runs: list[int] = runs,
        ) -> None:
            runs.append(item)
            cancel.add_callback(events[1].set)
            events[0].set()
            assert events[2].wait(PATIENCE)

        worker: LatestWorker[int] = LatestWorker(run, "test")
        worker.submit(1)
        assert began.wait(PATIENCE)
        stopper = threading.Thread(target=getattr(worker, end))
        stopper.start()
        assert canceled.wait(PATIENCE)
        assert worker.ask(Asked("late", done))
        worker.submit(2)
        asked.set()
        stopper.join(PATIENCE)
        assert not stopper.is_alive()
        worker.close()
        assert (done, runs) == (["not late"], [1])
