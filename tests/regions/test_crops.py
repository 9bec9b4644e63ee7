"""Crops of regions: windows inside and beyond the image, pixels and masks that belong together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.regions.crops import LEAST_SIDE, Cropper, Window, crop_window, cut_pixels, pooling_masks
from osprey_ros.regions.regions import Regions, regions_from_id_image, regions_from_masks

IMAGE = (120, 160)


@pytest.fixture(scope="module")
def cropper(spec: ModelSpec) -> Cropper:
    return Cropper(replace(spec, crop_size=64))


def region(rows: slice, columns: slice) -> Regions:
    ids = np.zeros(IMAGE, np.uint8)
    ids[rows, columns] = 1
    return regions_from_id_image(ids, masks_anyway=True)


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((60, 40, 40, 20), Window(54, 24, 52)),  # around the middle (80, 50)
        ((0, 0, 40, 20), Window(0, 0, 52)),  # moved into the image at the first corner ...
        ((120, 100, 40, 20), Window(108, 68, 52)),  # ... and at the last
        ((80, 60, 1, 1), Window(64, 44, LEAST_SIDE)),
        ((20, 0, 100, 120), Window(0, -18, 156)),  # higher than the image, which it contains
        ((0, 0, 160, 120), Window(-24, -44, 208)),
        ((0, 0, 0, 0), Window(0, 0, LEAST_SIDE)),  # an empty mask
    ],
)
def test_windows(box: tuple[int, int, int, int], window: Window) -> None:
    found = crop_window(box, IMAGE, 1.3)
    assert found.side == window.side
    if window.side <= min(IMAGE):
        assert found == window
    x, y, width, height = box
    assert found.left <= x <= x + width <= found.left + found.side
    assert found.top <= y <= y + height <= found.top + found.side
    for start, length in ((found.left, IMAGE[1]), (found.top, IMAGE[0])):
        inside = start >= 0 and start + found.side <= length
        assert inside or (start <= 0 and start + found.side >= length)


def test_pixels_are_those_of_the_window_and_the_mean_color_outside() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*IMAGE, 3), dtype=np.uint8)
    same = cut_pixels(rgb, Window(10, 20, 64), 64, (1, 2, 3))
    np.testing.assert_array_equal(same, rgb[20:84, 10:74])
    whole = cut_pixels(rgb, Window(-20, -40, 200), 200, (1, 2, 3))
    np.testing.assert_array_equal(whole[40:160, 20:180], rgb)
    assert (whole[:40] == (1, 2, 3)).all()
    assert (whole[:, 180:] == (1, 2, 3)).all()
    half = cut_pixels(rgb, Window(0, 0, 100), 50, (0, 0, 0))
    means = rgb[:100, :100].reshape(50, 2, 50, 2, 3).mean((1, 3))
    assert np.abs(half - means).max() <= 0.5  # each pixel is the mean of those that it replaces


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (slice(40, 60), slice(60, 100)),
        (slice(0, 30), slice(130, 160)),
        (slice(50, 51), slice(70, 71)),
        (slice(0, 120), slice(20, 120)),
        (slice(0, 120), slice(0, 160)),
    ],
)
def test_masks_lie_where_the_region_is_in_the_pixels(cropper: Cropper, rows: slice, columns: slice) -> None:
    rgb = np.zeros((*IMAGE, 3), np.uint8)
    rgb[rows, columns] = 255
    crops = cropper.cut(rgb, region(rows, columns))
    assert crops.pixels.shape == (1, 3, 64, 64)
    assert crops.pixels.dtype == np.float32
    assert [mask.shape for mask in crops.masks] == [(1, 16, 16), (1, 8, 8), (1, 4, 4), (1, 2, 2)]
    cells = (0.5 + 0.2 * crops.pixels[0, 0]).reshape(16, 4, 16, 4)  # black 0, white 1, edges between
    mask = crops.masks[0][0].astype(bool)
    assert mask[cells.min(axis=(1, 3)) > 0.9].all()
    assert not mask[cells.max(axis=(1, 3)) < 0.5].any()
    assert mask.any()


def test_pixels_are_normalized_as_the_image(cropper: Cropper) -> None:
    gray = np.full((*IMAGE, 3), 51, np.uint8)
    pixels = cropper.cut(gray, region(slice(50, 60), slice(50, 60))).pixels
    expected = (0.2 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.2, 0.25])
    np.testing.assert_allclose(pixels[0].mean((1, 2)), expected, rtol=1e-5)
    beyond = cropper.cut(gray, region(slice(0, 120), slice(0, 160))).pixels
    assert np.abs(beyond[0, :, 0, 0]).max() < 0.02  # the mean color, rounded to 8 bits


def test_each_region_has_its_own_mask_also_where_regions_overlap(cropper: Cropper) -> None:
    masks = np.zeros((3, *IMAGE), bool)
    masks[0, 20:80, 20:80] = masks[1, 40:100, 40:100] = True
    masks[2, 50:60, 50:60] = True
    regions = regions_from_masks(masks)
    rgb = np.random.default_rng(1).integers(0, 256, (*IMAGE, 3), dtype=np.uint8)
    together = cropper.cut(rgb, regions)
    for row in range(3):
        alone = cropper.cut(rgb, regions_from_masks(masks[row : row + 1]))
        picked = cropper.cut(rgb, regions, [row])
        for own in (alone, picked):
            np.testing.assert_array_equal(own.pixels[0], together.pixels[row])
            for level, mask in enumerate(own.masks):
                np.testing.assert_array_equal(mask[0], together.masks[level][row])


def test_masks_are_pooled_as_those_of_the_image() -> None:
    masks = np.random.default_rng(2).random((4, 64, 64)) < 0.02
    expected = regions_from_masks(masks).pooling_masks([(16, 16), (8, 8), (4, 4), (2, 2)])
    for found, other in zip(pooling_masks(masks, (4, 8, 16, 32)), expected, strict=True):
        np.testing.assert_array_equal(found, other)


def test_no_region_gives_empty_crops(cropper: Cropper) -> None:
    crops = cropper.cut(np.zeros((*IMAGE, 3), np.uint8), region(slice(0, 9), slice(0, 9)), [])
    assert crops.pixels.shape == (0, 3, 64, 64)
    assert crops.masks[0].shape == (0, 16, 16)
