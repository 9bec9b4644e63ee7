"""Objects that were clicked, found again in every later image."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import cv2
import numpy as np

from osprey_ros.regions.masks import MaskCrop
from osprey_ros.segmenter.segmenter import Segmenter
from osprey_ros.segmenter.stable_ids import MEMORY, MIN_OVERLAP, common_area, crops_of
from osprey_ros.system.cancellation import CancellationToken

SAME = 0.7  # IoU above which two masks are one object
MAX_CHANGE = 40  # levels by which the mean color of an object changes from one image to the next at most
MOST_CLICKED = 16  # objects that are followed; the one clicked first is given up for a new one


class ClickedObjects:
    """Follows clicked objects: the most interior pixel and the box of the latest mask are the prompt in the next image.

    An object counts as missed if its new mask does not overlap its latest one, or has another mean color: where an
    object is gone, its box still has a mask. It is given up after MEMORY images.
    """

    def __init__(self) -> None:
        self._masks: dict[int, MaskCrop] = {}
        self._colors: dict[int, np.ndarray] = {}  # float64 [3]
        self._missed: dict[int, int] = {}

    def add(self, mask: MaskCrop, rgb: np.ndarray, new_id: Callable[[], int]) -> int:
        """Follow an object of an image, uint8 [H, W, 3]. Return its id: a new one, unless it is followed already."""
        same = (number for number, known in self._masks.items() if mask_overlap(known, mask) > SAME)
        number = next(same, None) or new_id()
        self._see(number, mask, _color(mask, rgb))
        while len(self._masks) > MOST_CLICKED:
            self._drop(next(iter(self._masks)))
        return number

    def clear(self) -> None:
        """Follow none any more."""
        self._masks.clear()
        self._colors.clear()
        self._missed.clear()

    def find(
        self, segmenter: Segmenter, rgb: np.ndarray, cancel: CancellationToken | None = None
    ) -> dict[int, MaskCrop]:
        """Return the masks in the image that is set, uint8 [H, W, 3], by id. Raises as `Segmenter.segment` does."""
        ids = list(self._masks)
        if not ids:
            return {}
        points = [[interior_point(self._masks[number])] for number in ids]
        boxes = [_box(self._masks[number]) for number in ids]
        found = segmenter.segment(points=points, boxes=boxes, cancel=cancel)
        crops = dict(zip((int(i) - 1 for i in found.ids), crops_of(found), strict=True))
        seen = {}
        for index, number in enumerate(ids):
            crop = crops.get(index)
            if crop is not None and mask_overlap(self._masks[number], crop) >= MIN_OVERLAP:
                color = _color(crop, rgb)
                if np.abs(color - self._colors[number]).max() <= MAX_CHANGE:
                    self._see(number, crop, color)
                    seen[number] = crop
                    continue
            self._missed[number] += 1
            if self._missed[number] > MEMORY:
                self._drop(number)
        return seen

    def _see(self, number: int, mask: MaskCrop, color: np.ndarray) -> None:
        self._masks[number], self._colors[number], self._missed[number] = mask, color, 0

    def _drop(self, number: int) -> None:
        del self._masks[number], self._colors[number], self._missed[number]


def interior_point(crop: MaskCrop) -> tuple[float, float]:
    """Return x and y of the pixel of a mask that is farthest from its edge."""
    distances = cv2.distanceTransform(np.pad(crop.mask.view(np.uint8), 1), cv2.DIST_L2, 5)
    row, column = np.unravel_index(int(distances.argmax()), distances.shape)
    return float(crop.left + column - 1), float(crop.top + row - 1)


def mask_overlap(a: MaskCrop, b: MaskCrop) -> float:
    """Return the IoU of two masks, 0 to 1."""
    common = common_area(a, b)
    return common / max(1, int(np.count_nonzero(a.mask)) + int(np.count_nonzero(b.mask)) - common)


def without_copies(crops: Sequence[MaskCrop], others: Collection[MaskCrop]) -> list[int]:
    """Return the indices of the masks that are the object of none of the others."""
    return [n for n, crop in enumerate(crops) if all(mask_overlap(crop, other) <= SAME for other in others)]


def _color(crop: MaskCrop, rgb: np.ndarray) -> np.ndarray:
    """Return the mean color of a mask, float64 [3]."""
    height, width = crop.mask.shape
    part = rgb[crop.top : crop.top + height, crop.left : crop.left + width]
    mean: np.ndarray = part[crop.mask].mean(axis=0)
    return mean


def _box(crop: MaskCrop) -> tuple[int, int, int, int]:
    height, width = crop.mask.shape
    return crop.left, crop.top, width, height
