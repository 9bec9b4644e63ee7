"""Similarity of objects and regions by appearance and place, and the best assignment. All functions are pure."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from osprey_ros.regions.geometry import box_overlap

_SPREAD = 0.5  # standard deviation of the distance at which boxes count as near, as a share of their size
_EXTRAPOLATED_FRAMES = 5  # missed frames over which an object is assumed to keep its velocity
_MAX_CENTERING = 0.85  # largest share of the mean that is subtracted: similar embeddings keep more than noise
_MIN_FIT = 4  # points; a rigid motion fits any three
_FIT_SAMPLES = 40
_MIN_FIT_SHARE = 0.5  # share of the points that must agree on a rigid motion


def embedding_center(embeddings: np.ndarray) -> np.ndarray:
    """Return the point [D] relative to which embeddings [T, D] are compared.

    It is their mean, shrunk if they are few, because each of them is then a large part of it.
    """
    count = len(embeddings)
    result: np.ndarray = embeddings.mean(axis=0) * min(count / (count + 1), _MAX_CENTERING)
    return result


def cosines(a: np.ndarray, b: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return the cosines, [T, N] in -1..1, between embeddings [T, D] and [N, D] relative to a center [D]."""
    result: np.ndarray = _unit(a - center) @ _unit(b - center).T
    return result


def moved_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return boxes x, y, width, height [T, 4] after a similarity [2, 3]: it moves their centers and scales them."""
    moved = centers(boxes) @ matrix[:, :2].T + matrix[:, 2]
    sizes = boxes[:, 2:] * np.hypot(matrix[0, 0], matrix[1, 0])
    return np.concatenate([moved - sizes / 2, sizes], axis=1)


def centers(boxes: np.ndarray) -> np.ndarray:
    """Return the centers [N, 2] of boxes x, y, width, height [N, 4]."""
    return boxes[:, :2] + boxes[:, 2:] / 2


def nearness(boxes: np.ndarray, velocities: np.ndarray, missed: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Return the `box_nearness` of tracks and boxes of regions [N, 4], float64 [T, N].

    An object may have stopped or have kept its velocity: the nearer of both places counts. ``boxes`` [T, 4],
    ``velocities`` [T, 2] and ``missed`` [T] are those of `TrackArrays`.
    """
    extrapolated = boxes.copy()
    extrapolated[:, :2] += velocities * np.minimum(missed + 1, _EXTRAPOLATED_FRAMES)[:, None]
    result: np.ndarray = np.maximum(box_nearness(boxes, regions), box_nearness(extrapolated, regions))
    return result


def box_nearness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return how much boxes [T, 4] and [N, 4] are in the same place, float64 [T, N] in 0..1.

    It is their intersection over union or, if larger, the distance of their centers relative to their size: small
    objects leave their own box from one frame to the next.
    """
    ax, ay, aw, ah = a.T[:, :, None]
    bx, by, bw, bh = b.T[:, None, :]
    area_a, area_b = aw * ah, bw * bh
    overlap = box_overlap(a[:, None], b[None])
    distance = np.hypot(ax + aw / 2 - bx - bw / 2, ay + ah / 2 - by - bh / 2)
    size = np.maximum(area_a * area_b, 1.0) ** 0.25
    alike = np.sqrt(np.minimum(area_a, area_b) / np.maximum(np.maximum(area_a, area_b), 1e-9))
    result: np.ndarray = np.maximum(overlap, alike * np.exp(-0.5 * (distance / (_SPREAD * size)) ** 2))
    return result


def assign(scores: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the pairs, none used twice, that maximize the sum of scores [T, N] above ``least``."""
    gains = np.maximum(scores - least, 0.0)
    rows, columns = linear_sum_assignment(gains, maximize=True)
    kept = gains[rows, columns] > 0
    return rows[kept], columns[kept]


def rigid_fit(source: np.ndarray, target: np.ndarray, tolerance: np.ndarray) -> np.ndarray | None:
    """Return the rotation and translation, float64 [3, 4], that takes most points of ``source`` to ``target``.

    Both are [n, 3]; ``tolerance`` [n] is the largest error of each point in meters. RANSAC: the best of some triples is
    refined on all points that agree with it. Return None for too few points, or if too few of them agree.
    """
    count = len(source)
    if count < _MIN_FIT:
        return None
    rng = np.random.default_rng(count)  # the same points, the same fit
    best = np.zeros(count, bool)
    for number in range(_FIT_SAMPLES):
        sample = np.arange(count) if number == 0 else rng.choice(count, 3, replace=False)
        agree = _errors(_kabsch(source[sample], target[sample]), source, target) < tolerance
        if agree.sum() > best.sum():
            best = agree
        if best.all():
            break
    if best.sum() < max(_MIN_FIT, _MIN_FIT_SHARE * count):
        return None
    return _kabsch(source[best], target[best])


def moved_points(points: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Return points [n, 3] after a motion [3, 4]; unknown ones (nan) stay unknown."""
    result: np.ndarray = points @ motion[:, :3].T + motion[:, 3]
    return result


def _kabsch(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the rotation and translation [3, 4] with the least squared error (Kabsch 1976)."""
    middle, onto = source.mean(axis=0), target.mean(axis=0)
    u, _, vt = np.linalg.svd((source - middle).T @ (target - onto))
    turn = np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T)) or 1.0])
    rotation = vt.T @ turn @ u.T
    return np.concatenate([rotation, (onto - rotation @ middle)[:, None]], axis=1)


def _errors(motion: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.linalg.norm(moved_points(source, motion) - target, axis=1)
    return result


def _unit(rows: np.ndarray) -> np.ndarray:
    result: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return result
