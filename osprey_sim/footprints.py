"""Footprints: rectangles that objects occupy on the surface below them."""

from __future__ import annotations

import numpy as np

from osprey_sim.shapes import Array, rotation_z

GAP = 0.008  # meters between two footprints


def footprint_corners(low: Array, high: Array, yaw: float, at: tuple[float, float]) -> Array:
    """Return the footprint [4, 2] of a bounding box, widened by half the gap, rotated by yaw and moved to `at`."""
    x0, y0, x1, y1 = low[0] - GAP / 2, low[1] - GAP / 2, high[0] + GAP / 2, high[1] + GAP / 2
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    footprint: Array = corners @ rotation_z(yaw)[:2, :2].T + np.asarray(at)
    return footprint


def rectangles_overlap(a: Array, b: Array) -> bool:
    """Return whether two rectangles [4, 2] overlap, by the separating axis theorem."""
    for corners in (a, b):
        for edge in (corners[1] - corners[0], corners[2] - corners[1]):
            pa, pb = a @ edge, b @ edge
            if pa.max() < pb.min() or pb.max() < pa.min():
                return False
    return True
