"""Where objects are and how large: from depth that is registered to the picture, and the camera's matrix.

Depth cameras are wrong at edges: pixels of an object show what lies behind it, or a value halfway. What is far from
the rest of an object in depth is therefore left out, and so are the utmost points of what remains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osprey_ros.regions.regions import Regions

_SAMPLES = 64  # a region is looked at in at most so many rows and columns
_MIN_SAMPLES = 10  # fewer pixels of known depth say too little
# Sorted by depth, the pixels of one surface follow one another closely. A gap of so much, in metres and as a share of
# the depth (the error of stereo cameras grows with it), is where something else begins.
_GAP, _RELATIVE_GAP = 0.03, 0.02
_TAIL = 0.02  # share of the points that the size leaves out at either end


@dataclass(frozen=True)
class Extent:
    """Centre and size of what is seen of an object, in metres, along the camera's axes: x right, y down, z forward."""

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
    """The extent of each region, None where too few of its pixels have a depth.

    ``depth`` is float32 [H, W] in metres along the optical axis, of the size of the regions; values that are not finite
    or not above 0 are unknown. ``camera_matrix`` [3, 3] is that of a rectified picture, in pixels, the centre of the
    first one at (0, 0). The position is the median of the object's points, the size what lies between their 2nd and
    98th percentiles.
    """
    if depth.shape != regions.shape:
        raise ValueError(f"depth is {depth.shape}, the regions are {regions.shape}")
    return [_extent(*_points(regions, row, depth, camera_matrix)) for row in range(len(regions))]


def _points(
    regions: Regions, row: int, depth: np.ndarray, camera_matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and z in metres of the pixels of a region whose depth is known, each [n]; of a large one, a sample."""
    left, top, width, height = (int(v) for v in regions.boxes[row])
    across, down = -(-width // _SAMPLES) or 1, -(-height // _SAMPLES) or 1
    x, y = (width - 1) % across // 2, (height - 1) % down // 2  # as far from one side as from the other
    inside = regions.crop(row)[y::down, x::across]
    near = depth[top + y : top + height : down, left + x : left + width : across]
    v, u = np.nonzero(inside & np.isfinite(near) & (near > 0))
    z = near[v, u]
    (fx, _, cx), (_, fy, cy) = camera_matrix[0], camera_matrix[1]
    return (left + x + u * across - cx) * z / fx, (top + y + v * down - cy) * z / fy, z


def _extent(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Extent | None:
    if len(z) < _MIN_SAMPLES:
        return None
    nearest, farthest = _surface(np.sort(z))
    kept = (z >= nearest) & (z <= farthest)
    if np.count_nonzero(kept) < _MIN_SAMPLES:
        return None
    points = np.sort([x[kept], y[kept], z[kept]])
    last = points.shape[1] - 1
    position = points[:, [last // 2, (last + 1) // 2]].mean(axis=1)
    size = points[:, round((1 - _TAIL) * last)] - points[:, round(_TAIL * last)]
    return Extent(
        (float(position[0]), float(position[1]), float(position[2])), (float(size[0]), float(size[1]), float(size[2]))
    )


def _surface(z: np.ndarray) -> tuple[float, float]:
    """Nearest and farthest depth of the run without a gap that holds the median; ``z`` ascends."""
    middle = len(z) // 2
    gaps = np.flatnonzero(np.diff(z) > max(_GAP, _RELATIVE_GAP * z[middle]))  # after these entries
    first = gaps[gaps < middle].max(initial=-1) + 1
    last = gaps[gaps >= middle].min(initial=len(z) - 1)
    return float(z[first]), float(z[last])
