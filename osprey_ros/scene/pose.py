"""Where an object is in the fixed frame: from the points of its visible surface, better with each view."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

_TAIL = 0.02  # share of the points at each end that do not count
_RATE = 0.3  # share of a new view in a side that faces the camera, or that it shows farther out than before
_MOVED = 0.3  # meters: beyond this and its own size an object is elsewhere, and earlier views do not count

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class ObjectPose:
    """Place and size of an object in the fixed frame, whose z axis points up.

    Attributes:
        frame_id: The fixed frame.
        low, high: Corners of the box along the frame's axes that the views have shown, in meters.
        yaw: Angle of the longer horizontal side in the latest view, radians from the x axis, -pi/2 to pi/2.
        size: Along that side, across it, and up, in meters, in the latest view.
        variances: Of the position along the axes in square meters, from the spread of the points of the latest view.
        eye: Position of the camera in the latest view, in meters.
        stamp: Of the latest view, in nanoseconds.
    """

    frame_id: str
    low: Vector
    high: Vector
    yaw: float
    size: Vector
    variances: Vector
    eye: Vector
    stamp: int

    @property
    def position(self) -> Vector:
        """Center of the box, in meters."""
        return _vector((np.array(self.low) + np.array(self.high)) / 2)

    def then(self, view: ObjectPose) -> ObjectPose:
        """Return the pose after another view, which knows the sides that face the camera, and the least of others."""
        low, high, new_low, new_high = (np.array(one) for one in (self.low, self.high, view.low, view.high))
        eye = np.array(view.eye)
        apart = np.maximum(np.maximum(new_low - high, low - new_high), 0)
        if self.frame_id != view.frame_id or (np.linalg.norm(apart) > 0 and self._moved(view)):
            return view
        low += np.where((new_low < low) | (eye < new_low), _RATE, 0) * (new_low - low)
        high += np.where((new_high > high) | (eye > new_high), _RATE, 0) * (new_high - high)
        return replace(view, low=_vector(low), high=_vector(high))

    def _moved(self, view: ObjectPose) -> bool:
        distance = np.linalg.norm(np.array(self.position) - np.array(view.position))
        return bool(distance > max(_MOVED / 3, float(np.linalg.norm(np.array(self.high) - np.array(self.low)))))


def pose_of(points: np.ndarray, eye: np.ndarray, frame_id: str, stamp: int) -> ObjectPose:
    """Return the pose from points of the visible surface, float64 [n, 3] in the fixed frame, n at least 1.

    ``eye``: position of the camera, float64 [3].
    """
    ordered = np.sort(points, axis=0)
    last = len(points) - 1
    low, high = ordered[round(_TAIL * last)], ordered[round((1 - _TAIL) * last)]
    inside = ((points[:, :2] >= low[:2]) & (points[:, :2] <= high[:2])).all(1)
    flat = np.ascontiguousarray(points[inside, :2] - low[:2], np.float32)
    if len(flat) < 3:
        flat = np.array([[0, 0], high[:2] - low[:2]], np.float32)
    _, (long, short), degrees = cv2.minAreaRect(flat)
    if long < short:
        long, short, degrees = short, long, degrees + 90
    yaw = float(np.radians((degrees + 90) % 180 - 90))
    # Of the median: the surface, not the noise, makes most of the spread.
    variances = points.var(axis=0) / max(1, len(points) - 1) + 1e-8
    size = (float(long), float(short), float(high[2] - low[2]))
    return ObjectPose(frame_id, _vector(low), _vector(high), yaw, size, _vector(variances), _vector(eye), stamp)


def _vector(values: np.ndarray) -> Vector:
    return float(values[0]), float(values[1]), float(values[2])
