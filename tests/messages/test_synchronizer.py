"""Matching of messages by stamp."""

from __future__ import annotations

import pytest

from osprey_ros.messages.synchronizer import FrameSync

MS = 1_000_000


def pairs(queue_size: int, slop: int = 0) -> FrameSync:
    return FrameSync(("image", "ids"), queue_size, slop)


def test_pairs_match_in_any_order() -> None:
    sync = pairs(4)
    assert sync.add("image", 10, "image 10") == []
    assert sync.add("ids", 10, "ids 10") == [("image 10", "ids 10")]
    assert sync.add("ids", 20, "ids 20") == []
    assert sync.add("image", 20, "image 20") == [("image 20", "ids 20")]
    assert sync.counts.matched == 2


@pytest.mark.parametrize("order", [("image", "ids", "depth"), ("depth", "image", "ids"), ("ids", "depth", "image")])
def test_three_topics_wait_for_one_another(order: tuple[str, str, str]) -> None:
    sync = FrameSync(("image", "ids", "depth"), 4)
    for topic in order[:2]:
        assert sync.add(topic, 10, topic) == []
    assert sync.add(order[2], 10, order[2]) == [("image", "ids", "depth")]
    assert sync.add(order[2], 10, "again") == []


def test_without_slop_stamps_must_be_the_same() -> None:
    sync = pairs(4)
    assert sync.add("image", 10, "image") == []
    assert sync.add("ids", 11, "ids") == []
    assert sync.offset is None  # may be an accident


def test_a_full_queue_drops_the_oldest_item() -> None:
    sync = pairs(2)
    for stamp in (1, 2, 3):
        sync.add("image", stamp, f"image {stamp}")
    assert sync.add("ids", 1, "ids") == []
    assert sync.add("ids", 2, "ids") == [("image 2", "ids")]
    assert sync.counts.received == {"image": 3, "ids": 2}
    assert sync.counts.matched == 1
    assert sync.counts.unmatched == {"image": 1, "ids": 1}  # image 1, pushed out, and its ids, overtaken by the match


def test_a_match_drops_earlier_items() -> None:
    sync = pairs(8)
    sync.add("image", 1, "image 1")
    sync.add("image", 2, "image 2")
    assert sync.add("ids", 2, "ids 2")
    assert sync.add("ids", 1, "ids 1") == []


def test_a_repeated_stamp_replaces_the_waiting_item() -> None:
    sync = pairs(4)
    sync.add("image", 1, "first")
    sync.add("image", 1, "second")
    assert sync.counts.unmatched["image"] == 1
    assert sync.add("ids", 1, "ids") == [("second", "ids")]


@pytest.mark.parametrize("slop", [0, 2])
def test_stamps_may_jump_back(slop: int) -> None:
    sync = pairs(2, slop)
    sync.add("image", 1000, "a")
    sync.add("ids", 1000, "a")
    sync.add("image", 5, "b")
    assert sync.add("ids", 5, "b") == [("b", "b")]
    sync.add("image", 10, "c")
    assert sync.add("ids", 10, "c") == [("c", "c")]


def test_a_slop_matches_near_stamps_only() -> None:
    sync = pairs(8, slop=10 * MS)
    for frame in range(5):
        image = frame * 33 * MS
        assert sync.add("image", image, frame) == []
        assert sync.add("ids", image + 10 * MS, frame) == [(frame, frame)]
    for frame in range(5, 8):
        assert sync.offset is None
        sync.add("image", frame * 33 * MS, frame)
        assert sync.add("ids", frame * 33 * MS + 11 * MS, frame) == []
    assert sync.offset == 11 * MS
    sync.add("image", 1000 * MS, 8)
    assert sync.add("ids", 1000 * MS, 8) == [(8, 8)]
    assert sync.offset is None


def test_the_offset_of_stamps_that_never_match_is_known() -> None:
    sync = pairs(8)
    for frame in range(20):
        sync.add("image", frame * 100 * MS, frame)
        sync.add("ids", frame * 100 * MS + 33 * MS, frame)
    assert sync.offset == 33 * MS
    assert sync.counts.matched == 0


def test_items_that_arrive_too_late_for_the_queue_are_reported() -> None:
    sync = pairs(4)
    for frame in range(20):
        sync.add("image", frame * MS, frame)
        if frame >= 6:
            assert sync.add("ids", (frame - 6) * MS, frame) == []
    assert sync.late == {"ids"}


def test_the_nearest_items_match_after_a_lost_message() -> None:
    # The previous image is within the slop, too: image 0 is lost, its ids are not.
    sync = pairs(8, slop=50 * MS)
    for stamp in (-66, -33):
        sync.add("image", stamp * MS, stamp)
        assert sync.add("ids", (stamp + 3) * MS, stamp) == [(stamp, stamp)]
    assert sync.add("ids", 3 * MS, 0) == []
    assert sync.add("image", 33 * MS, 33) == []  # its own ids may still come
    assert sync.add("ids", 36 * MS, 33) == [(33, 33)]
    assert sync.add("image", 66 * MS, 66) == []
    assert sync.add("ids", 69 * MS, 66) == [(66, 66)]
    assert sync.counts.unmatched == {"image": 0, "ids": 1}


def test_an_undecided_match_is_returned_with_the_next_message() -> None:
    # The offset exceeds half a period: the nearest image is known only after the next one has arrived.
    sync = pairs(8, slop=25 * MS)
    found = []
    for frame in range(6):
        found += sync.add("image", frame * 33 * MS, frame)
        found += sync.add("ids", (frame * 33 + 20) * MS, frame)
    # 20 ms after its own image, 13 ms before the next one: the nearest image matches, each once.
    assert found[0] == (0, 0)
    assert [ids for _, ids in found] == sorted({ids for _, ids in found})
    assert [image for image, _ in found] == sorted({image for image, _ in found})
    assert all(image - ids in (0, 1) for image, ids in found)
    assert len(found) >= 4


@pytest.mark.parametrize("delay", [0, 1, 4])
def test_nothing_is_matched_twice_whatever_the_jitter(delay: int) -> None:
    """Two streams at 30 Hz with 3 ms of jitter, one of them ``delay`` frames late: every frame matches its own."""
    sync = FrameSync(("image", "ids", "depth"), 6, slop=12 * MS)
    jitter = [0, 3, -2, 1, -3, 2, 0, -1]
    found = []
    for frame in range(60):
        found += sync.add("image", (frame * 33 + jitter[frame % 8]) * MS, frame)
        found += sync.add("depth", (frame * 33 + jitter[frame * 3 % 8]) * MS, frame)
        if frame >= delay:
            late = frame - delay
            found += sync.add("ids", (late * 33 + jitter[late * 5 % 8]) * MS, late)
    assert found == [(n, n, n) for n in range(len(found))]
    assert len(found) >= 60 - delay - 1
    assert sum(sync.counts.unmatched.values()) == 0


def test_topics_of_different_rates_match_at_the_slower_one() -> None:
    sync = pairs(15, slop=5 * MS)
    found = []
    for frame in range(30):
        found += sync.add("image", frame * 33 * MS, frame)
        if frame % 3 == 0:
            found += sync.add("ids", (frame * 33 + 2) * MS, frame)
    assert found == [(n, n) for n in range(0, 30, 3)]


def test_an_empty_queue_and_a_negative_slop_are_refused() -> None:
    with pytest.raises(ValueError, match="queue_size must be at least 1, not 0"):
        pairs(0)
    with pytest.raises(ValueError, match="slop must be 0 or more"):
        pairs(1, -1)


def test_clear_drops_waiting_items() -> None:
    sync = pairs(4)
    sync.add("image", 1, "image")
    sync.clear()
    assert sync.add("ids", 1, "ids") == []
