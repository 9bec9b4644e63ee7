"""Where objects are in space, from depth: scenes whose answer is known, and depth as bad as that of cameras."""

from __future__ import annotations

import numpy as np
import pytest

from osprey_ros.regions.geometry import Extent, box_intersection, box_overlap, extents
from osprey_ros.regions.regions import regions_from_id_image, regions_from_masks

CAMERA = np.array([[300.0, 0, 159.5], [0, 310.0, 119.5], [0, 0, 1]])
SHAPE = (240, 320)


def box_scene(
    center: tuple[float, float], size: tuple[float, float], near: float, far: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mask and depth of a wall at ``far`` meters with an upright rectangle in front of it at ``near`` meters."""
    v, u = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float64)
    x, y = (u - CAMERA[0, 2]) * near / CAMERA[0, 0], (v - CAMERA[1, 2]) * near / CAMERA[1, 1]
    mask = (abs(x - center[0]) <= size[0] / 2) & (abs(y - center[1]) <= size[1] / 2)
    return mask, np.where(mask, near, far).astype(np.float32)


def extent(mask: np.ndarray, depth: np.ndarray) -> Extent:
    (found,) = extents(regions_from_masks(mask[None]), depth, CAMERA)
    assert found is not None
    return found


def test_an_upright_rectangle_is_where_it_is() -> None:
    mask, depth = box_scene((0.2, -0.1), (0.3, 0.2), 1.5, 3.0)
    found = extent(mask, depth)
    assert found.position == pytest.approx((0.2, -0.1, 1.5), abs=0.005)
    # The 2nd to the 98th percentile leave out 4 % of an even spread.
    assert found.size == pytest.approx((0.3 * 0.96, 0.2 * 0.96, 0.0), abs=0.01)


def test_a_receding_surface_keeps_its_depth() -> None:
    mask, depth = box_scene((0.0, 0.0), (0.6, 0.3), 1.0, 3.0)
    columns = np.flatnonzero(mask.any(axis=0))
    slope = np.interp(np.arange(SHAPE[1]), columns, np.linspace(0.8, 1.6, len(columns)))
    depth = np.where(mask, slope[None], depth).astype(np.float32)
    found = extent(mask, depth)
    assert found.size[2] == pytest.approx(0.8 * 0.96, abs=0.02)
    assert found.position[2] == pytest.approx(1.2, abs=0.02)


@pytest.mark.parametrize("share", [0.1, 0.3])
@pytest.mark.parametrize("behind", [0.5, 3.0])
def test_what_lies_behind_the_edges_does_not_count(share: float, behind: float) -> None:
    mask, depth = box_scene((-0.2, 0.1), (0.3, 0.2), 1.5, 1.5 + behind)
    clean = extent(mask, depth)
    rng = np.random.default_rng(1)
    wrong = mask & (rng.random(SHAPE) < share)
    dirty = np.where(wrong, 1.5 + behind, depth).astype(np.float32)
    # A few pixels halfway between, as stereo cameras give them.
    flying = mask & (rng.random(SHAPE) < 0.003)
    dirty[flying] = rng.uniform(1.5, 1.5 + behind, np.count_nonzero(flying))
    found = extent(mask, dirty)
    assert found.position == pytest.approx(clean.position, abs=0.01)
    assert found.size == pytest.approx(clean.size, abs=0.05)


def test_noise_makes_little_difference() -> None:
    mask, depth = box_scene((0.2, 0.0), (0.4, 0.3), 2.0, 4.0)
    noisy = depth + np.random.default_rng(2).normal(0, 0.01, SHAPE).astype(np.float32)
    found = extent(mask, noisy)
    assert found.position == pytest.approx((0.2, 0.0, 2.0), abs=0.01)
    assert found.size[:2] == pytest.approx((0.4 * 0.96, 0.3 * 0.96), abs=0.02)
    assert found.size[2] < 0.06


@pytest.mark.parametrize("unknown", [0.0, np.nan, np.inf, -1.0])
def test_unknown_depth_is_ignored(unknown: float) -> None:
    mask, depth = box_scene((0.0, 0.0), (0.3, 0.3), 1.0, 3.0)
    holes = np.random.default_rng(3).random(SHAPE) < 0.7
    found = extent(mask, np.where(holes, unknown, depth).astype(np.float32))
    assert found.position == pytest.approx((0.0, 0.0, 1.0), abs=0.01)
    assert found.size == pytest.approx((0.3 * 0.96, 0.3 * 0.96, 0.0), abs=0.02)

    nowhere = np.where(mask, unknown, depth).astype(np.float32)
    assert extents(regions_from_masks(mask[None]), nowhere, CAMERA) == [None]


def test_each_region_has_its_own_extent_and_large_ones_are_sampled() -> None:
    ids = np.zeros(SHAPE, np.uint16)
    ids[:, :200], ids[20:60, 220:300], ids[239, 319] = 1, 2, 3
    depth = np.where(ids == 1, 2.0, 4.0).astype(np.float32)
    wall, patch, dot = extents(regions_from_id_image(ids), depth, CAMERA)
    assert wall is not None
    assert wall.position == pytest.approx((-60 / 300 * 2, 0, 2), abs=0.02)
    assert wall.size == pytest.approx((200 / 300 * 2 * 0.96, 240 / 310 * 2 * 0.96, 0), abs=0.03)
    assert patch is not None
    assert patch.position[2] == 4.0
    assert dot is None


def test_depth_of_another_size_is_refused() -> None:
    mask, depth = box_scene((0.0, 0.0), (0.3, 0.3), 1.0, 3.0)
    with pytest.raises(ValueError, match=r"shape \(120, 160\) but the regions have \(240, 320\)"):
        extents(regions_from_masks(mask[None]), depth[::2, ::2], CAMERA)


def test_boxes_overlap() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [10, 0, 10, 10], [0, 0, 0, 0]])
    np.testing.assert_array_equal(box_intersection(boxes[:1], boxes), [100, 50, 0, 0])
    np.testing.assert_allclose(box_overlap(boxes[0], boxes), [1, 1 / 3, 0, 0])
    assert box_overlap(boxes[:, None], boxes[None]).shape == (4, 4)
