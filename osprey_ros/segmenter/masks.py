"""Masks of a segmenter: judged at the resolution of the decoder, and only the chosen ones resized to the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from osprey_ros.regions.geometry import box_intersection
from osprey_ros.regions.masks import MaskCrop
from osprey_ros.segmenter.input_image import Placement


@dataclass(frozen=True)
class LowMask:
    """A mask at the resolution of the decoder's output, cut to its box.

    Attributes:
        score: Predicted IoU with the object.
        box: x, y, width, height of the pixels above the threshold.
        area: Number of these pixels.
        left, top: Where ``logits`` begins: at most one pixel outside the box.
        logits: float32 [h, w], the box and a margin of one pixel.
    """

    score: float
    box: tuple[int, int, int, int]
    area: int
    left: int
    top: int
    logits: np.ndarray

    def inside(self, box: Sequence[int], threshold: float) -> np.ndarray:
        """Return which pixels of a part of the own box are inside the mask, bool [height, width]."""
        x, y, width, height = box
        x, y = x - self.left, y - self.top
        result: np.ndarray = self.logits[y : y + height, x : x + width] > threshold
        return result


def low_mask(logits: np.ndarray, score: float, threshold: float) -> LowMask | None:
    """Return the mask of logits, float32 [h, w]; None if no pixel is above the threshold."""
    inside = logits > threshold
    x, y, width, height = cv2.boundingRect(inside.view(np.uint8))
    if not width:
        return None
    left, top = max(0, x - 1), max(0, y - 1)
    part = logits[top : y + height + 1, left : x + width + 1].astype(np.float32)
    return LowMask(float(score), (x, y, width, height), int(np.count_nonzero(inside)), left, top, part)


def stability(logits: np.ndarray, threshold: float, offset: float) -> float:
    """Return how little a mask changes with the threshold, 0 to 1, as Segment Anything defines it.

    It is the number of pixels above ``threshold + offset`` as a share of those above ``threshold - offset``.

    Args:
        logits: float32 [h, w].
        threshold: A pixel is inside above it.
        offset: Change of the threshold.
    """
    sure = int(np.count_nonzero(logits > threshold + offset))
    return sure / max(1, int(np.count_nonzero(logits > threshold - offset)))


def distinct(masks: Sequence[LowMask], max_overlap: float, threshold: float) -> list[LowMask]:
    """Return the masks by descending score, without those that overlap a better one by more than an IoU."""
    order = sorted(masks, key=lambda mask: -mask.score)
    if not order:
        return []
    boxes, areas = np.array([mask.box for mask in order]), np.array([mask.area for mask in order])
    alive, kept = np.ones(len(order), np.bool_), []
    for number, mask in enumerate(order):
        if not alive[number]:
            continue
        kept.append(mask)
        later = np.flatnonzero(alive[number + 1 :]) + number + 1
        # No IoU is larger than this one: the masks share at most their boxes' common part.
        common = np.minimum(box_intersection(boxes[number], boxes[later]), np.minimum(areas[number], areas[later]))
        for other in later[common > max_overlap * (areas[number] + areas[later] - common)]:
            if _overlap(mask, order[other], threshold) > max_overlap:
                alive[other] = False
    return kept


def _overlap(a: LowMask, b: LowMask, threshold: float) -> float:
    """Return the IoU of two masks whose boxes overlap."""
    left, top = max(a.box[0], b.box[0]), max(a.box[1], b.box[1])
    right = min(a.box[0] + a.box[2], b.box[0] + b.box[2])
    bottom = min(a.box[1] + a.box[3], b.box[1] + b.box[3])
    shared = (left, top, right - left, bottom - top)
    common = np.count_nonzero(a.inside(shared, threshold) & b.inside(shared, threshold))
    return float(common / (a.area + b.area - common))


def resized(mask: LowMask, placement: Placement, low_shape: tuple[int, int], threshold: float) -> MaskCrop:
    """Return a mask at the resolution of the image: its logits are interpolated bilinearly, then compared.

    Args:
        mask: The mask.
        placement: Where the image lies in the encoder's input.
        low_shape: (h, w) of the whole decoder output, which covers the input.
        threshold: A pixel is inside above it.
    """
    height, width = placement.shape
    # Pixels of the decoder output for one pixel of the image.
    across = placement.scale[0] * low_shape[1] / placement.input_size[1]
    down = placement.scale[1] * low_shape[0] / placement.input_size[0]
    rows, columns = mask.logits.shape
    left, right = _reach(mask.left, mask.left + columns, across, width)
    top, bottom = _reach(mask.top, mask.top + rows, down, height)
    if right <= left or bottom <= top:
        return MaskCrop(0, 0, np.zeros((0, 0), np.bool_))
    matrix = np.array(
        [
            [across, 0, (left + 0.5) * across - 0.5 - mask.left],
            [0, down, (top + 0.5) * down - 0.5 - mask.top],
        ]
    )
    logits = cv2.warpAffine(
        mask.logits,
        matrix,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return MaskCrop(left, top, logits > threshold)


def _reach(start: int, stop: int, scale: float, size: int) -> tuple[int, int]:
    """Return the first and the last (exclusive) pixel of an image axis that pixels start to stop of a mask cover."""
    return max(0, int(np.floor(start / scale))), min(size, int(np.ceil(stop / scale)))


def cleaned(mask: LowMask, threshold: float, min_area: float) -> LowMask:
    """Return a mask without holes and islands of fewer pixels than ``min_area``; its largest island is kept.

    Logits of other pixels stay as they are, and so does the box. That takes a fraction of the time that it would take
    at the resolution of the image.
    """
    if min_area <= 1:
        return mask
    # A margin connects everything outside the mask.
    inside = np.pad((mask.logits > threshold).view(np.uint8), 1)
    changed = np.zeros(inside.shape, np.bool_)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - inside, connectivity=4)
    if count > 2:
        holes = stats[:, cv2.CC_STAT_AREA] < min_area
        holes[[0, labels[0, 0]]] = False  # the mask itself, and the outside
        changed |= holes[labels]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside | changed.view(np.uint8), connectivity=8)
    if count > 2:
        areas = stats[:, cv2.CC_STAT_AREA]
        islands = areas < min_area
        islands[0] = False
        islands[1 + areas[1:].argmax()] = False
        changed ^= islands[labels]  # a filled hole of a removed island stays as it was
    changed = changed[1:-1, 1:-1]
    return replace(mask, logits=np.where(changed, 2 * threshold - mask.logits, mask.logits)) if changed.any() else mask
