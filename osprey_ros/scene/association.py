"""How well regions fit objects: by looks, by place in the picture and in space; and which is given to which.

All functions are pure. Similarities are [tracks, regions].
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

_SPREAD = 0.5  # of an object's size: how far off its place is counted as near
_MOST_COMMON = 0.85  # of the mean of looks that is taken away: where all look the same, the rest must not be noise
_MIN_FIT = 4  # points; a rigid motion through fewer fits anything
_FIT_SAMPLES = 40
_MIN_FIT_SHARE = 0.5  # of the points must agree on a rigid motion


def looks_center(appearances: np.ndarray) -> np.ndarray:
    """What objects [T, D] look like in common, [D]: what tells them apart is how they differ from it.

    It is their mean, less where there are so few that each of them is much of it.
    """
    count = len(appearances)
    return appearances.mean(axis=0) * min(count / (count + 1), _MOST_COMMON)


def cosines(a: np.ndarray, b: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Cosine of the angle between looks [T, D] and [N, D] as seen from a centre [D]: [T, N] in -1..1."""
    return _unit(a - center) @ _unit(b - center).T


def moved_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Boxes x, y, width, height [T, 4] after a similarity [2, 3]: their centres go with it, and their sizes."""
    centers = (boxes[:, :2] + boxes[:, 2:] / 2) @ matrix[:, :2].T + matrix[:, 2]
    sizes = boxes[:, 2:] * np.hypot(matrix[0, 0], matrix[1, 0])
    return np.concatenate([centers - sizes / 2, sizes], axis=1)


def centers(boxes: np.ndarray) -> np.ndarray:
    """Centres [N, 2] of boxes x, y, width, height [N, 4]."""
    return boxes[:, :2] + boxes[:, 2:] / 2


def box_nearness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """0 to 1: how much boxes [T, 4] and [N, 4] are in the same place.

    It is their intersection over union or, where that is more, how near their centres are for their size: small things
    leave their own box from one frame to the next.
    """
    ax, ay, aw, ah = a.T[:, :, None]
    bx, by, bw, bh = b.T[:, None, :]
    across = np.minimum(ax + aw, bx + bw) - np.maximum(ax, bx)
    down = np.minimum(ay + ah, by + bh) - np.maximum(ay, by)
    shared = np.clip(across, 0, None) * np.clip(down, 0, None)
    area_a, area_b = aw * ah, bw * bh
    overlap = shared / np.maximum(area_a + area_b - shared, 1e-9)
    distance = np.hypot(ax + aw / 2 - bx - bw / 2, ay + ah / 2 - by - bh / 2)
    size = np.maximum(area_a * area_b, 1.0) ** 0.25
    alike = np.sqrt(np.minimum(area_a, area_b) / np.maximum(np.maximum(area_a, area_b), 1e-9))
    return np.maximum(overlap, alike * np.exp(-0.5 * (distance / (_SPREAD * size)) ** 2))


def assign(scores: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pairs, none used twice, whose scores above ``least`` sum up to the most."""
    gains = np.maximum(scores - least, 0.0)
    rows, columns = linear_sum_assignment(gains, maximize=True)
    kept = gains[rows, columns] > 0
    return rows[kept], columns[kept]


def rigid_fit(source: np.ndarray, target: np.ndarray, tolerance: np.ndarray) -> np.ndarray | None:
    """The rotation and translation, float64 [3, 4], that takes most points of ``source`` to ``target``, [n, 3] each.

    ``tolerance`` [n]: how far off each may be, in metres. The best of some triples of points is refined on all that
    agree with it, by Kabsch's method. None where there are too few points or too few of them agree.
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
    """Points [n, 3] after a motion [3, 4]; unknown ones (nan) stay unknown."""
    return points @ motion[:, :3].T + motion[:, 3]


def _kabsch(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation and translation [3, 4] with the least squared error (Kabsch 1976)."""
    middle, onto = source.mean(axis=0), target.mean(axis=0)
    u, _, vt = np.linalg.svd((source - middle).T @ (target - onto))
    turn = np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T)) or 1.0])
    rotation = vt.T @ turn @ u.T
    return np.concatenate([rotation, (onto - rotation @ middle)[:, None]], axis=1)


def _errors(motion: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.linalg.norm(moved_points(source, motion) - target, axis=1)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
