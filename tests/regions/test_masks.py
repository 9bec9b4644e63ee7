"""Masks from run lengths, polygons and boxes cover the right pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from osprey_ros.errors import RegionError
from osprey_ros.regions.masks import (
    MaskCrop,
    mask_from_box,
    mask_from_polygon,
    mask_from_rle,
    rle_from_mask,
)
from osprey_ros.regions.regions import regions_from_crops, regions_from_masks


def on_canvas(part: MaskCrop, height: int, width: int) -> np.ndarray:
    canvas = np.zeros((height, width), bool)
    canvas[part.top : part.top + part.mask.shape[0], part.left : part.left + part.mask.shape[1]] = part.mask
    return canvas


def test_run_lengths_go_down_the_columns_as_those_of_coco() -> None:
    # 2 outside, then 3 inside: the rest of the first column of 3 rows and two of the second.
    mask = on_canvas(mask_from_rle(np.array([2, 3, 4], np.uint32), height=3, width=3), 3, 3)
    np.testing.assert_array_equal(mask, [[0, 1, 0], [0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_hold_every_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = cv2.blur(rng.random((37, 23)), (5, 5)) > 0.5
    mask[0, 0] = seed % 2 == 0
    counts = rle_from_mask(mask)
    assert counts.dtype == np.uint32
    assert (counts[0] == 0) == bool(mask[0, 0])
    np.testing.assert_array_equal(on_canvas(mask_from_rle(counts, 37, 23), 37, 23), mask)


@pytest.mark.parametrize("value", [False, True])
def test_run_lengths_of_one_value(value: bool) -> None:
    mask = np.full((4, 5), value)
    assert rle_from_mask(mask).tolist() == ([0, 20] if value else [20])
    np.testing.assert_array_equal(on_canvas(mask_from_rle(rle_from_mask(mask), 4, 5), 4, 5), mask)


@pytest.mark.parametrize("counts", [[7, 5, 8, 0, 0], [7, 0, 0, 5, 8], [7, 2, 0, 3, 8, 0], [7, 5, 3, 0, 5]])
def test_runs_may_be_empty(counts: list[int]) -> None:
    mask = on_canvas(mask_from_rle(np.array(counts, np.uint32), 4, 5), 4, 5)
    np.testing.assert_array_equal(np.flatnonzero(mask.T), [7, 8, 9, 10, 11])


def test_run_lengths_must_fill_the_roi() -> None:
    with pytest.raises(RegionError, match="add up to 11 pixels but 4x3 are 12"):
        mask_from_rle(np.array([5, 6]), height=3, width=4)


def test_contours_of_opencv_come_back_as_they_were() -> None:
    mask = np.zeros((60, 80), np.uint8)
    cv2.ellipse(mask, (40, 30), (25, 15), 30, 0, 360, 1, -1)
    mask[10:14, 2:9] = 1
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    corners = np.concatenate([contour.reshape(-1, 2) for contour in contours]).astype(np.float32)
    part = mask_from_polygon(corners, 60, 80, [len(contour) for contour in contours])
    np.testing.assert_array_equal(on_canvas(part, 60, 80), mask.astype(bool))


def test_an_outline_inside_another_is_a_hole() -> None:
    corners = [1, 1, 11, 1, 11, 11, 1, 11, 4, 4, 8, 4, 8, 8, 4, 8]
    mask = on_canvas(mask_from_polygon(np.array(corners), 20, 20, [4, 4]), 20, 20)
    assert not mask[6, 6]
    assert mask[2, 2]
    assert mask[11, 11]


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ([-50, -50, 10, -50, 10, 10, -50, 10], (0, 0, 11, 11)),
        ([15, 12, 1e9, 12, 1e9, 1e9, 15, 1e9], (15, 12, 20, 16)),
        ([-1e19, -1e19, 1e19, -1e19, 1e19, 1e19, -1e19, 1e19], (0, 0, 20, 16)),
        ([30, 5, 40, 5, 40, 9], (0, 0, 0, 0)),
        ([-9, -9, -3, -9, -3, -3], (0, 0, 0, 0)),
    ],
)
def test_polygons_are_cut_at_the_edges(corners: list[float], expected: tuple[int, int, int, int]) -> None:
    mask = on_canvas(mask_from_polygon(np.array(corners), 16, 20), 16, 20)
    left, top, right, bottom = expected
    wanted = np.zeros((16, 20), bool)
    wanted[top:bottom, left:right] = True
    np.testing.assert_array_equal(mask, wanted)


@pytest.mark.parametrize(
    ("corners", "outlines", "reason"),
    [
        ([1, 2, 3], [], "3 values"),
        ([1, 2, 3, 4], [], "one of its outlines has 2 corners"),
        ([1, 2, 3, 4, 5, 6], [4], "outlines have 4 corners but its polygon has 3"),
        ([1, 2, 3, 4, 5, float("nan")], [], "not finite"),
        ([], [], "0 corners"),
    ],
)
def test_wrong_polygons_are_named(corners: list[float], outlines: list[int], reason: str) -> None:
    with pytest.raises(RegionError, match=reason):
        mask_from_polygon(np.array(corners), 10, 10, outlines)


def test_a_box_covers_the_pixels_between_its_edges() -> None:
    part = mask_from_box((20.0, 15.0), (20.0, 10.0), 0.0, 100, 100)
    assert (part.left, part.top, part.mask.shape) == (10, 10, (10, 20))
    assert part.mask.all()
    cut = mask_from_box((0.0, 99.0), (20.0, 10.0), 0.0, 100, 100)
    assert (cut.left, cut.top, cut.mask.shape) == (0, 94, (6, 10))
    assert mask_from_box((200.0, 50.0), (20.0, 10.0), 0.0, 100, 100).mask.size == 0


@pytest.mark.parametrize("size", [1, 3, 41])
@pytest.mark.parametrize("center", [50, 51])
def test_a_box_with_edges_within_pixels_keeps_its_size(size: int, center: int) -> None:
    part = mask_from_box((center, center), (size, size), 0.0, 100, 100)
    assert part.mask.shape == (size, size)
    assert part.left == part.top == center - size // 2


def test_a_turned_box_covers_the_same_area_elsewhere() -> None:
    quarter = on_canvas(mask_from_box((50.0, 40.0), (30.0, 10.0), np.pi / 2, 100, 100), 100, 100)
    upright = on_canvas(mask_from_box((50.0, 40.0), (10.0, 30.0), 0.0, 100, 100), 100, 100)
    np.testing.assert_array_equal(quarter, upright)
    # Positive angles turn from x (right) to y (down): clockwise in the image.
    slanted = on_canvas(mask_from_box((50.0, 50.0), (40.0, 8.0), np.pi / 4, 100, 100), 100, 100)
    assert slanted[60, 60]
    assert not slanted[60, 40]
    assert slanted.sum() == pytest.approx(320, rel=0.12)


@pytest.mark.parametrize(("size", "angle"), [((-1.0, 5.0), 0.0), ((5.0, float("nan")), 0.0), ((5.0, 5.0), np.inf)])
def test_what_is_no_box_is_named(size: tuple[float, float], angle: float) -> None:
    with pytest.raises(RegionError, match="invalid box"):
        mask_from_box((5.0, 5.0), size, angle, 10, 10)


def test_parts_are_the_regions_of_their_masks() -> None:
    rng = np.random.default_rng(11)
    masks, parts = [], []
    for _ in range(12):
        left, top = int(rng.integers(0, 60)), int(rng.integers(0, 40))
        mask = rng.random((int(rng.integers(3, 20)), int(rng.integers(3, 20)))) > 0.6
        parts.append(MaskCrop(left, top, mask))
        masks.append(on_canvas(parts[-1], 60, 80))
    ids = [7 * n + 1 for n in range(12)]
    found = regions_from_crops(parts, ids, 60, 80)
    expected = regions_from_masks(np.stack(masks), ids)
    for name in ("ids", "areas", "boxes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for ours, theirs in zip(found.pooling_masks([(15, 20)]), expected.pooling_masks([(15, 20)]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for row in range(12):
        np.testing.assert_array_equal(found.crop(row), expected.crop(row))


def test_empty_parts_are_left_out() -> None:
    empty, full = MaskCrop(3, 3, np.zeros((4, 4), bool)), MaskCrop(3, 3, np.ones((4, 4), bool))
    assert regions_from_crops([empty, full], [5, 6], 10, 10).ids.tolist() == [6]
    nothing = regions_from_crops([empty], [5], 10, 10)
    assert len(nothing) == 0
    assert nothing.shape == (10, 10)
    assert len(regions_from_crops([], [], 10, 10)) == 0


@pytest.mark.parametrize(
    ("ids", "reason"), [([3, 3], r"given twice: \[3\]"), ([0, 1], "not 0"), ([1, 2**31], "not 21")]
)
def test_wrong_ids_are_named(ids: list[int], reason: str) -> None:
    part = MaskCrop(0, 0, np.ones((2, 2), bool))
    with pytest.raises(RegionError, match=reason):
        regions_from_crops([part, part], ids, 10, 10)
