"""Overlap of boxes, and position and size of regions from a registered depth image and the camera matrix.

Depth cameras are wrong at edges: a pixel of an object can have the depth of the background, or a value in between.
Points that are far from the other points of a region in depth are therefore ignored, and so are the outermost points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osprey_ros.regions.regions import Regions

_MAX_SAMPLES = 64  # rows and columns in which a large region is sampled
_MIN_POINTS = 10  # pixels with known depth below which a region has no extent
# Sorted by depth, the points of a surface are close together. A larger gap separates two surfaces. In meters, and as a
# share of the depth, because the error of stereo cameras grows with the depth.
_GAP, _RELATIVE_GAP = 0.03, 0.02
_TAIL = 0.02  # share of the points that the size ignores at each end


@dataclass(frozen=True)
class Extent:
    """Center and size of the visible part of an object in meters along the camera axes: x right, y down, z forward."""

    position: tuple[float, float, float]
    size: tuple[float, float, float]


def box_intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the common area of boxes x, y, width, height [..., 4], [...]. Shapes are broadcast."""
    shared = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return np.asarray(np.maximum(shared, 0).prod(axis=-1))


def box_overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the intersection over union, 0 to 1, of boxes x, y, width, height [..., 4]. Shapes are broadcast."""
    common = box_intersection(a, b)
    return np.asarray(common / np.maximum(a[..., 2:].prod(axis=-1) + b[..., 2:].prod(axis=-1) - common, 1e-9))


def extents(regions: Regions, depth: np.ndarray, camera_matrix: np.ndarray) -> list[Extent | None]:
    """Return the extent of each region; None for a region with too few pixels of known depth.

    The position is the median of the points of a region, the size the distance of their 2nd and 98th percentiles.

    Args:
        regions: Regions of the image.
        depth: float32 [H, W], meters along the optical axis. Values that are not finite or not above 0 are unknown.
        camera_matrix: [3, 3] of the rectified image, in pixels. The center of the first pixel is (0, 0).

    Raises ValueError if the depth image has another size than the regions.
    """
    if depth.shape != regions.shape:
        raise ValueError(f"the depth image has shape {depth.shape} but the regions have {regions.shape}")
    return [_extent(*_points(regions, row, depth, camera_matrix)) for row in range(len(regions))]


def _points(
    regions: Regions, row: int, depth: np.ndarray, camera_matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y and z in meters, [n] each, of the pixels of a region with known depth; a sample of a large region."""
    left, top, width, height = (int(v) for v in regions.boxes[row])
    across, down = -(-width // _MAX_SAMPLES) or 1, -(-height // _MAX_SAMPLES) or 1
    x, y = (width - 1) % across // 2, (height - 1) % down // 2  # centers the samples
    inside = regions.crop(row)[y::down, x::across]
    near = depth[top + y : top + height : down, left + x : left + width : across]
    v, u = np.nonzero(inside & np.isfinite(near) & (near > 0))
    z = near[v, u]
    (fx, _, cx), (_, fy, cy) = camera_matrix[0], camera_matrix[1]
    return (left + x + u * across - cx) * z / fx, (top + y + v * down - cy) * z / fy, z


def surface_points(regions: Regions, row: int, depth: np.ndarray, camera_matrix: np.ndarray) -> np.ndarray | None:
    """Return points of the surface of a region, float64 [n, 3] in meters along the camera axes; None for too few.

    Arguments as for `extents`. A large region is sampled.
    """
    x, y, z = _points(regions, row, depth, camera_matrix)
    kept = _on_surface(z)
    return None if kept is None else np.stack([x[kept], y[kept], z[kept]], axis=1).astype(np.float64)


def _on_surface(z: np.ndarray) -> np.ndarray | None:
    """Return which points, by their depth [n], belong to the surface that contains the median; None for too few."""
    if len(z) < _MIN_POINTS:
        return None
    nearest, farthest = _surface(np.sort(z))
    kept: np.ndarray = (z >= nearest) & (z <= farthest)
    return kept if np.count_nonzero(kept) >= _MIN_POINTS else None


def _extent(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Extent | None:
    """Return the extent of points, [n] each in meters; None for too few points."""
    kept = _on_surface(z)
    if kept is None:
        return None
    points = np.sort([x[kept], y[kept], z[kept]])
    last = points.shape[1] - 1
    position = points[:, [last // 2, (last + 1) // 2]].mean(axis=1)
    size = points[:, round((1 - _TAIL) * last)] - points[:, round(_TAIL * last)]
    return Extent(
        (float(position[0]), float(position[1]), float(position[2])), (float(size[0]), float(size[1]), float(size[2]))
    )


def _surface(z: np.ndarray) -> tuple[float, float]:
    """Return the least and the greatest depth of the surface that contains the median. ``z`` is sorted."""
    middle = len(z) // 2
    gaps = np.flatnonzero(np.diff(z) > max(_GAP, _RELATIVE_GAP * z[middle]))  # a gap follows these entries
    first = gaps[gaps < middle].max(initial=-1) + 1
    last = gaps[gaps >= middle].min(initial=len(z) - 1)
    return float(z[first]), float(z[last])
