"""Identity measures of hand-computed cases."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.tracking import tracking_figures


def frames(*pairs: tuple[list[int], list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.array(truth), np.array(found)) for truth, found in pairs]


def test_constant_tracks_are_perfect():
    figures = tracking_figures(frames(([1, 2], [7, 5]), ([2, 1], [5, 7]), ([2], [5])))
    assert (figures.idf1, figures.switches, figures.objects, figures.tracks) == (1.0, 0, 2, 2)
    assert figures.regions == figures.tracked == figures.matched == 5


def test_an_object_counts_with_one_of_its_tracks_only():
    # Six frames: four with track 1, two with track 2, one switch.
    figures = tracking_figures(frames(*[([9], [1])] * 4, *[([9], [2])] * 2))
    assert figures.matched == 4
    assert figures.idf1 == pytest.approx(4 / 6)
    assert figures.switches == 1


def test_two_objects_that_swap_tracks_halfway_are_half_right():
    figures = tracking_figures(frames(*[([1, 2], [1, 2])] * 3, *[([1, 2], [2, 1])] * 3))
    assert figures.idf1 == pytest.approx(0.5)
    assert figures.switches == 2


def test_one_track_on_two_objects_is_assigned_to_one_of_them():
    figures = tracking_figures(frames(([1], [4]), ([1], [4]), ([2], [4])))
    assert (figures.matched, figures.switches) == (2, 0)
    assert figures.idf1 == pytest.approx(4 / 6)


def test_the_assignment_is_optimal_for_all_objects_together():
    # Object 1 has track 1 three times and track 2 twice; object 2 has track 1 twice only: 2 + 2 beats 3 + 0.
    figures = tracking_figures(frames(*[([1], [1])] * 3, *[([1, 2], [2, 1])] * 2, ([2], [1]), ([2], [1])))
    assert figures.matched == 2 + 4


def test_missed_and_false_regions_reduce_recall_and_precision():
    figures = tracking_figures(frames(([1, 2], [1, 0]), ([1, 0], [1, 8])))
    assert (figures.regions, figures.tracked, figures.matched) == (3, 3, 2)
    assert figures.idf1 == pytest.approx(2 / 3)


def test_sequences_add_up():
    one = tracking_figures(frames(([1], [1]), ([1], [2])))
    two = tracking_figures(frames(([1], [1])))
    both = one + two
    assert (both.regions, both.matched, both.switches, both.objects, both.tracks) == (3, 2, 1, 2, 3)


def test_an_empty_sequence_is_no_error():
    assert tracking_figures([]).idf1 == 1.0


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [([1, 2], [1], "frame 0"), ([1, 1], [1, 2], "object 1 more than once"), ([1, 2], [3, 3], "track 3 more than once")],
)
def test_invalid_ids_are_refused(truth, found, message):
    with pytest.raises(ValueError, match=message):
        tracking_figures(frames((truth, found)))
