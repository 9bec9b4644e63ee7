"""Clicks and boxes as the decoder of a segmenter reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from osprey_ros.errors import InputError
from osprey_ros.segmenter.input_image import Placement
from osprey_ros.segmenter.spec import BACKGROUND, BOTTOM_RIGHT, OBJECT, TOP_LEFT, UNUSED, SegmenterSpec


@dataclass(frozen=True)
class Prompts:
    """P prompts in pixels of an image.

    Attributes:
        points: float64 [P, N, 2], x and y: the center of the first pixel is (0, 0).
        labels: int64 [P, N], 1 for points on the object, 0 for points on the background.
        corners: float64 [P, 2, 2], top left and bottom right corner of boxes: the first pixel reaches from 0 to 1; None
            for prompts without boxes.
    """

    points: np.ndarray
    labels: np.ndarray
    corners: np.ndarray | None

    def __len__(self) -> int:
        return len(self.points)

    def encoded(self, placement: Placement, spec: SegmenterSpec) -> tuple[np.ndarray, np.ndarray]:
        """Return ``point_coords`` float32 [P, N, 2] and ``point_labels`` int64 [P, N] for the decoder.

        Raises InputError for more points than the decoder takes.
        """
        scale = np.array(placement.scale)
        coords, labels = (self.points + spec.pixel_center) * scale, self.labels
        if self.corners is not None:
            coords = np.concatenate([coords, self.corners * scale], axis=1)
            labels = np.concatenate([labels, np.tile([TOP_LEFT, BOTTOM_RIGHT], (len(labels), 1))], axis=1)
        spare = spec.max_points - labels.shape[1] if spec.max_points else 0
        if spare < 0:
            raise InputError(
                f"a prompt has {labels.shape[1]} points (two of them for a box) and the segmenter takes "
                f"{spec.max_points}; give fewer points"
            )
        coords = np.pad(coords, ((0, 0), (0, spare), (0, 0)))
        labels = np.pad(labels, ((0, 0), (0, spare)), constant_values=UNUSED)
        return coords.astype(np.float32), labels.astype(np.int64)


def points_of_objects(points: np.ndarray) -> Prompts:
    """Return a prompt for each point of float [P, 2]: one click on each object."""
    return Prompts(points[:, None], np.full((len(points), 1), OBJECT, np.int64), None)


def prompts_from(points: Any, labels: Any, boxes: Any, shape: tuple[int, int]) -> Prompts:
    """Return the prompts of a call.

    Args:
        points: x and y in pixels, [N, 2] for one object or [P, N, 2] for P objects; None without points.
        labels: 1 for points on the object, 0 for points on the background, [N] or [P, N]; by default all 1.
        boxes: x, y, width, height in pixels, [4] for one object or [P, 4]; None without boxes.
        shape: (height, width) of the image.

    Raises InputError if there is no prompt, and for values that do not fit together or lie outside the image.
    """
    if points is None and labels is not None:
        raise InputError("there are labels and no points; give a point for each label")
    if points is None and boxes is None:
        raise InputError("there is no prompt; give points or boxes")
    corners = None if boxes is None else _corners(boxes, shape)
    count = 1 if corners is None else len(corners)
    found = np.zeros((count, 0, 2)) if points is None else _points(points)
    known = np.full(found.shape[:2], OBJECT) if labels is None else _numbers(labels, "labels", (1, 2), "[N] or [P, N]")
    if known.ndim == 1:
        known = known[None]
    if known.shape != found.shape[:2]:
        raise InputError(f"labels have shape {known.shape}, points {found.shape[:2]}; give a label for each point")
    if not np.isin(known, (BACKGROUND, OBJECT)).all():
        raise InputError("a label is not 0 or 1; give 1 for points on the object and 0 for points on the background")
    if corners is None and (known != OBJECT).all(axis=1).any():
        raise InputError("a prompt has no point on its object; give one with the label 1, or a box")
    if corners is not None and len(found) != count:
        raise InputError(f"there are points of {len(found)} objects and {count} boxes; give as many of each")
    outside = (found < -0.5) | (found > np.array(shape[::-1]) - 0.5)
    if outside.any():
        x, y = found[outside.any(axis=2)][0]
        raise InputError(f"the point {x:g}, {y:g} is outside the image of {shape[1]}x{shape[0]} pixels")
    return Prompts(found, known.astype(np.int64), corners)


def _points(points: Any) -> np.ndarray:
    """Return points, float64 [P, N, 2]."""
    form = "x and y in pixels, [N, 2] for one object or [P, N, 2]"
    found = _numbers(points, "points", (2, 3), form)
    if found.shape[-1] != 2:
        raise InputError(f"points have shape {found.shape}; give {form}")
    return found if found.ndim == 3 else found[None]


def _corners(boxes: Any, shape: tuple[int, int]) -> np.ndarray:
    """Return the corners of boxes inside an image, float64 [P, 2, 2]."""
    form = "x, y, width, height in pixels, [4] for one object or [P, 4]"
    found = np.atleast_2d(_numbers(boxes, "boxes", (1, 2), form))
    if found.shape[1] != 4:
        raise InputError(f"boxes have shape {found.shape}; give {form}")
    corners = np.stack([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
    corners = np.asarray(np.clip(corners, 0, np.array(shape[::-1])))
    empty = (corners[:, 1] <= corners[:, 0]).any(axis=1)
    if empty.any():
        box = ", ".join(f"{value:g}" for value in found[empty][0])
        raise InputError(f"the box {box} (x, y, width, height) has no pixel of the image of {shape[1]}x{shape[0]}")
    return corners


def _numbers(values: Any, name: str, axes: tuple[int, int], form: str) -> np.ndarray:
    """Return finite numbers as float64 with one of the numbers of axes; ``form`` says in errors what they must be."""
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} are not numbers, or differ in their count; give {form}") from error
    if found.size == 0 or found.ndim not in axes:
        raise InputError(f"{name} have shape {found.shape}; give {form}")
    if not np.isfinite(found).all():
        raise InputError(f"{name} are not finite; give {form}")
    return found
