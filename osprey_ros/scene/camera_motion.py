"""Camera motion between two frames, and whether the image changed at all, from small images.

Corners are tracked by sparse optical flow forward and backward; those that do not return to their start are dropped. A
similarity (rotation, scale, shift) is fitted to the others by RANSAC. If the motion is too large for that, ORB features
are matched instead. Corners on objects, which may move by themselves, count only if the background has too few.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SMALL_SIDE = 256  # pixels of the longer side of a small image
_CORNERS = (100, 40)  # upper bounds in the background and in the foreground
_FEATURES = 300  # upper bound on ORB features
_MIN_INLIERS, _MIN_SHARE = 10, 0.5  # least number and share of tracked corners that agree on a motion
_MIN_SHARE_MATCHED = 0.35  # least share of matched features, of which more are wrong
_RETURN_ERROR = 1.0  # largest distance in pixels of the small image between a corner and its backward track
_FLOW_ERROR, _MATCH_ERROR = 1.5, 3.0  # largest error of an inlier in pixels; a similarity ignores depth
_MAX_SCALE = 1.5  # between two frames; a larger one is a wrong fit
# The camera did not move if fewer pixels than this share differ by more than these gray levels. Noise stays below, a
# shift by half a pixel is above.
_SAME_LEVELS, _SAME_SHARE = 12, 0.001


@dataclass(frozen=True)
class Motion:
    """Motion of the image.

    Attributes:
        matrix: float64 [2, 3], a similarity. A point (x, y) of the first image is ``matrix @ (x, y, 1)`` in the second.
        sure: False if no motion was found; the matrix is then the identity.
    """

    matrix: np.ndarray
    sure: bool

    def scaled(self, factor: float) -> Motion:
        """Return the same motion in pixels of an image that is ``factor`` times as large."""
        matrix = self.matrix.copy()
        matrix[:, 2] *= factor
        return Motion(matrix, self.sure)


NO_MOTION = Motion(np.eye(2, 3), sure=False)


def small_image(rgb: np.ndarray) -> np.ndarray:
    """Return an image, uint8 [H, W, 3], reduced to a longer side of at most SMALL_SIDE; a small one as it is."""
    while max(rgb.shape[:2]) >= 2 * SMALL_SIDE and min(rgb.shape[:2]) > 1:  # halving is fastest
        rgb = np.asarray(cv2.resize(rgb, (rgb.shape[1] // 2, rgb.shape[0] // 2), interpolation=cv2.INTER_AREA))
    height, width = rgb.shape[:2]
    factor = SMALL_SIDE / max(height, width)
    if factor >= 1:
        return rgb
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))


def small_gray(rgb: np.ndarray) -> np.ndarray:
    """Return the small image of an RGB image in gray, uint8 [h, w]."""
    return np.asarray(cv2.cvtColor(small_image(rgb), cv2.COLOR_RGB2GRAY))


def differs(before: np.ndarray, after: np.ndarray, levels: float) -> bool:
    """Return whether two small images, uint8 [h, w, 3], differ by more than noise anywhere.

    ``levels`` is the least mean difference over 3x3 pixels of one channel, 0 to 255, that is not noise.
    """
    if before.shape != after.shape:
        return True
    return bool(cv2.blur(cv2.absdiff(before, after), (3, 3)).max() >= levels)


@dataclass(frozen=True)
class EncodedImage:
    """An image that a describer encoded.

    Attributes:
        image_id: `Describer.image_id` of the image.
        shape: Its shape.
        small: Its `small_image`, uint8 [h, w, 3].
    """

    image_id: int
    shape: tuple[int, ...]
    small: np.ndarray

    def shows_same(self, before: EncodedImage | None, levels: float) -> bool:
        """Return whether an earlier image has the same id and shows the same, except for noise (see `differs`)."""
        if before is None or (before.image_id, before.shape) != (self.image_id, self.shape):
            return False
        return not differs(before.small, self.small, levels)


def camera_motion(before: np.ndarray, after: np.ndarray, foreground: np.ndarray | None = None) -> Motion:
    """Return the motion between two gray images, uint8 [h, w] each; not sure if they differ in size.

    ``foreground``, bool [h, w], is where the first image shows objects, which may move by themselves.
    """
    if before.shape != after.shape or min(before.shape) < 32:
        return NO_MOTION
    if np.count_nonzero(cv2.absdiff(before, after) > _SAME_LEVELS) < _SAME_SHARE * before.size:
        return Motion(np.eye(2, 3), sure=True)
    background = np.full(before.shape, 255, np.uint8)
    if foreground is not None:
        background[foreground] = 0
    start, end = _tracked(before, after, background, _CORNERS[0])
    matrix = _fit(start, end, _FLOW_ERROR, _MIN_SHARE)
    if matrix is None and foreground is not None:
        there, then = _tracked(before, after, ~background, _CORNERS[1])
        matrix = _fit(np.concatenate([start, there]), np.concatenate([end, then]), _FLOW_ERROR, _MIN_SHARE)
    if matrix is None:
        start, end = _matched(before, after)
        across, down = start.astype(np.intp).T
        behind = background[down, across] > 0
        matrix = _fit(start[behind], end[behind], _MATCH_ERROR, _MIN_SHARE_MATCHED)
        if matrix is None:
            matrix = _fit(start, end, _MATCH_ERROR, _MIN_SHARE_MATCHED)
    return NO_MOTION if matrix is None else Motion(matrix, sure=True)


def _tracked(before: np.ndarray, after: np.ndarray, where: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return corners in both images, float32 [n, 2] each, by optical flow. ``where`` is 255 where they may be."""
    corners = cv2.goodFeaturesToTrack(before, most, 0.01, 5, mask=where)
    if corners is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    start = corners.reshape(-1, 2)
    end, seen, _ = cv2.calcOpticalFlowPyrLK(before, after, start, np.empty_like(start), winSize=(15, 15), maxLevel=3)
    again, seen_again, _ = cv2.calcOpticalFlowPyrLK(
        after, before, end, np.empty_like(end), winSize=(15, 15), maxLevel=3
    )
    good = (np.asarray(seen).reshape(-1) == 1) & (np.asarray(seen_again).reshape(-1) == 1)
    good &= np.abs(again - start).max(axis=1) < _RETURN_ERROR
    return start[good], end[good]


def _matched(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return places in both images, float32 [n, 2] each, of ORB features that are mutual nearest neighbors."""
    orb = cv2.ORB_create(_FEATURES, fastThreshold=8)  # type: ignore[attr-defined]
    first, descriptors = orb.detectAndCompute(before, None)
    second, others = orb.detectAndCompute(after, None)
    if descriptors is None or others is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(descriptors, others)
    start = np.array([first[match.queryIdx].pt for match in matches], np.float32).reshape(-1, 2)
    end = np.array([second[match.trainIdx].pt for match in matches], np.float32).reshape(-1, 2)
    return start, end


def _fit(start: np.ndarray, end: np.ndarray, error: float, share: float) -> np.ndarray | None:
    """Return the similarity, float64 [2, 3], on which points [n, 2] agree; None if too few of them agree.

    ``error`` is the largest error of an inlier in pixels, ``share`` the least share of inliers.
    """
    if len(start) < _MIN_INLIERS:
        return None
    matrix, inliers = cv2.estimateAffinePartial2D(start, end, method=cv2.RANSAC, ransacReprojThreshold=error)
    if matrix is None or inliers.sum() < _MIN_INLIERS or inliers.mean() < share:
        return None
    if not 1 / _MAX_SCALE < np.hypot(matrix[0, 0], matrix[1, 0]) < _MAX_SCALE:
        return None
    return np.asarray(matrix, np.float64)
