"""Prompts for the objects of labeled images as users give them: clicks, boxes, and corrections; and their targets."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from osprey_ros.segmenter.spec import BACKGROUND, BOTTOM_RIGHT, OBJECT, TOP_LEFT, UNUSED
from osprey_torch.small_segmenter import COARSE_STRIDE, STRIDE
from training.segmenter.images import IGNORED

POINTS = 5  # of a prompt, at most
_CLICK, _BOX, _BOX_AND_CLICK = 0.5, 0.75, 0.8  # bounds of the shares; the rest are several clicks
_JITTER = 0.08  # of a box's corners, as a share of its sides


class Prompts(NamedTuple):
    """P prompts for an image of H x W pixels.

    Attributes:
        coords: float32 [P, POINTS, 2], x and y in pixels, centers of pixels at .5.
        labels: int64 [P, POINTS].
        targets: float32 [P, H / 4, W / 4], the share of each cell that the object covers.
        known: float32 [H / 4, W / 4], 0 where pixels are ignored.
    """

    coords: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    known: np.ndarray


class Objectness(NamedTuple):
    """What to learn about where to click.

    Attributes:
        target: float32 [H / 8, W / 8]: 1 at the most interior pixel of an object, 0 at its edge and outside.
        weight: float32 [H / 8, W / 8], 0 where nothing is known.
    """

    target: np.ndarray
    weight: np.ndarray


def depths(ids: np.ndarray) -> dict[int, np.ndarray]:
    """Return for each object how far its pixels lie from its edge, float32 [H, W], as a share of the greatest."""
    found = {}
    for number in np.unique(ids):
        if number in (0, IGNORED):
            continue
        # An image's edge is an edge: a click there shows little of the object.
        padded = np.pad((ids == number).astype(np.uint8), 1)
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
        found[int(number)] = depth / depth.max()
    return found


def objectness(ids: np.ndarray, depth: dict[int, np.ndarray], unlabeled: float) -> Objectness:
    """Return the targets of objectness; `unlabeled` is the weight of pixels that belong to no known object."""
    half = COARSE_STRIDE // 2
    target = np.zeros_like(ids[half::COARSE_STRIDE, half::COARSE_STRIDE], np.float32)
    for one in depth.values():
        # Of the pixels of a cell the most interior one counts: small objects have few cells.
        height, width = target.shape
        cells = one.reshape(height, COARSE_STRIDE, width, COARSE_STRIDE)[:, 2:6, :, 2:6].max((1, 3))
        target = np.maximum(target, cells)
    center = ids[half::COARSE_STRIDE, half::COARSE_STRIDE]
    weight = np.where(center == 0, np.float32(unlabeled), np.float32(1))
    weight[center == IGNORED] = 0
    weight[target > 0] = 1
    return Objectness(target, weight)


def sample_prompts(
    ids: np.ndarray, depth: dict[int, np.ndarray], count: int, rng: np.random.Generator
) -> Prompts | None:
    """Return prompts for random objects of an image; None if it has no object."""
    if not depth:
        return None
    numbers = np.array(list(depth))
    chosen = numbers[rng.integers(len(numbers), size=count)]
    height, width = ids.shape
    cells = (height // STRIDE, STRIDE, width // STRIDE, STRIDE)
    masks = {n: ids == n for n in {int(one) for one in chosen}}
    covered = {n: mask.reshape(cells).mean((1, 3), dtype=np.float32) for n, mask in masks.items()}
    coords, labels = zip(*(_prompt(masks[int(n)], depth[int(n)], ids, rng) for n in chosen), strict=True)
    known = ((ids == IGNORED).reshape(cells).mean((1, 3)) < 0.5).astype(np.float32)
    return Prompts(np.stack(coords), np.stack(labels), np.stack([covered[int(n)] for n in chosen]), known)


def _prompt(
    mask: np.ndarray, depth: np.ndarray, ids: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    points: list[tuple[float, float, int]] = []
    draw = rng.random()
    rows, columns = np.nonzero(mask)
    if draw < _CLICK:
        points.append(_click(rows, columns, depth, rng))
    elif draw < _BOX_AND_CLICK:
        points.extend(_box(rows, columns, mask.shape, rng))
        if draw >= _BOX:
            points.append(_click(rows, columns, depth, rng))
    else:
        points.extend(_click(rows, columns, depth, rng) for _ in range(int(rng.integers(1, 4))))
        points.extend(_off_clicks(rows, columns, ids, int(ids[rows[0], columns[0]]), rng))
    coords, labels = np.zeros((POINTS, 2), np.float32), np.full(POINTS, UNUSED, np.int64)
    for slot, (x, y, label) in enumerate(points[:POINTS]):
        coords[slot], labels[slot] = (x, y), label
    return coords, labels


def _click(
    rows: np.ndarray, columns: np.ndarray, depth: np.ndarray, rng: np.random.Generator
) -> tuple[float, float, int]:
    """Return a click on a random pixel, or, half of the time, on one well inside."""
    if rng.random() < 0.5:
        deep = depth[rows, columns] >= rng.uniform(0.3, 1.0)
        if deep.any():
            rows, columns = rows[deep], columns[deep]
    at = int(rng.integers(len(rows)))
    return float(columns[at]) + 0.5, float(rows[at]) + 0.5, OBJECT


def _box(
    rows: np.ndarray, columns: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator
) -> list[tuple[float, float, int]]:
    left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    moved = rng.normal(0, _JITTER / 2, 4).clip(-_JITTER, _JITTER) * np.array([right - left, bottom - top] * 2)
    if rng.random() < 0.3:  # a detector's box may be exact
        moved[:] = 0
    x0, y0 = max(0.0, left + moved[0]), max(0.0, top + moved[1])
    x1, y1 = min(float(shape[1]), right + moved[2]), min(float(shape[0]), bottom + moved[3])
    return [(x0, y0, TOP_LEFT), (max(x1, x0 + 1), max(y1, y0 + 1), BOTTOM_RIGHT)]


def _off_clicks(
    rows: np.ndarray, columns: np.ndarray, ids: np.ndarray, number: int, rng: np.random.Generator
) -> list[tuple[float, float, int]]:
    """Return up to two clicks near the object that are not on it."""
    height, width = ids.shape
    reach_x, reach_y = 10 + (columns.max() - columns.min()) // 3, 10 + (rows.max() - rows.min()) // 3
    found = []
    for _ in range(int(rng.integers(0, 3))):
        x = int(np.clip(rng.integers(columns.min() - reach_x, columns.max() + reach_x + 1), 0, width - 1))
        y = int(np.clip(rng.integers(rows.min() - reach_y, rows.max() + reach_y + 1), 0, height - 1))
        if ids[y, x] not in (number, IGNORED):
            found.append((x + 0.5, y + 0.5, BACKGROUND))
    return found
