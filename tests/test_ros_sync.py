"""Frame sync and worker: which frames reach the describer."""

from __future__ import annotations

import threading

import pytest

from osprey_ros.ros.sync import FrameSync
from osprey_ros.ros.worker import LatestWorker


def test_pairs_come_out_whichever_half_is_first() -> None:
    sync: FrameSync[str, str] = FrameSync(4)
    assert sync.add_first(10, "image 10") is None
    assert sync.add_second(10, "ids 10") == ("image 10", "ids 10")
    assert sync.add_second(20, "ids 20") is None
    assert sync.add_first(20, "image 20") == ("image 20", "ids 20")


def test_stamps_must_be_exactly_the_same() -> None:
    sync: FrameSync[str, str] = FrameSync(4)
    assert sync.add_first(10, "image") is None
    assert sync.add_second(11, "ids") is None


def test_the_oldest_is_given_up_when_the_queue_is_full() -> None:
    sync: FrameSync[str, str] = FrameSync(2)
    for stamp in (1, 2, 3):
        sync.add_first(stamp, f"image {stamp}")
    assert sync.add_second(1, "ids") is None
    assert sync.add_second(2, "ids") == ("image 2", "ids")
    assert sync.counts.first == 3
    assert sync.counts.matched == 1
    assert sync.counts.unmatched == 2  # image 1, pushed out, and its ids, overtaken by the match


def test_a_match_gives_up_what_came_before_it() -> None:
    sync: FrameSync[str, str] = FrameSync(8)
    sync.add_first(1, "image 1")
    sync.add_first(2, "image 2")
    assert sync.add_second(2, "ids 2") is not None
    assert sync.add_second(1, "ids 1") is None


def test_stamps_may_jump_back() -> None:
    sync: FrameSync[str, str] = FrameSync(2)
    sync.add_first(1000, "a")
    sync.add_second(1000, "a")
    sync.add_first(5, "b")
    assert sync.add_second(5, "b") == ("b", "b")


def test_a_queue_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="queue_size must be at least 1, not 0"):
        FrameSync(0)


def test_the_latest_item_wins() -> None:
    done: list[int] = []
    started, go_on, finished = threading.Event(), threading.Event(), threading.Event()

    def work(item: int) -> None:
        started.set()
        assert go_on.wait(10)
        done.append(item)
        if item == 4:
            finished.set()

    worker = LatestWorker(work, "test")
    worker.submit(1)
    assert started.wait(10)
    for item in (2, 3, 4):
        worker.submit(item)
    go_on.set()
    assert finished.wait(10)
    worker.close()
    assert done == [1, 4]
    assert worker.dropped == 2


def test_closing_waits_for_the_item_at_work_and_discards_the_next() -> None:
    done: list[int] = []
    started, go_on = threading.Event(), threading.Event()

    def work(item: int) -> None:
        started.set()
        assert go_on.wait(10)
        done.append(item)

    worker = LatestWorker(work, "test")
    worker.submit(1)
    assert started.wait(10)
    worker.submit(2)
    threading.Timer(0.05, go_on.set).start()
    worker.close()
    assert done == [1]
    assert worker.dropped == 1
