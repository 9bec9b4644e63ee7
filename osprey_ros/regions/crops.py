"""The crop of a region: a square window of the image around it, at the size of the model's second view.

Training and runtime cut crops with the same code. The side of a window is ``crop_margin`` times the longer side of the
region's box, at least LEAST_SIDE pixels. Its middle is the middle of the box, unless it has to be moved to lie inside
the image. If it is longer than the image along an axis, it contains the whole axis, and the rest has the model's mean
color.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.decoding.config import CROPS
from osprey_ros.errors import InputError
from osprey_ros.regions.regions import Regions
from osprey_ros.vision.preprocess import normalized_values

MOST_CROPS = 16  # in one run of the engine: more are not faster for each, and need memory
# A region is small if it is this many times larger in its crop than in the image that the vision engine reads. With a
# crop of 224 pixels that is a box of less than 96 pixels there. Larger regions gain little.
SMALL_GAIN = 1.8
LEAST_SIDE = 32  # pixels of the image; a smaller window would be enlarged seven times or more, which adds no detail


@dataclass(frozen=True)
class Window:
    """A square of an image in pixels, which can extend beyond it: first column, first row and side."""

    left: int
    top: int
    side: int


@dataclass(frozen=True)
class Crops:
    """Crops of N regions, the inputs of the crop engine.

    Attributes:
        pixels: float32 [N, 3, crop_size, crop_size], normalized as the image of the vision engine.
        masks: The masks of the regions in them at the sizes of the four feature maps, float32 [N, h, w] of 0 and 1.
    """

    pixels: np.ndarray
    masks: tuple[np.ndarray, ...]


def crop_window(box: Sequence[int], shape: tuple[int, int], margin: float) -> Window:
    """Return the window of a region with the box x, y, width, height in an image of (height, width) pixels."""
    x, y, width, height = (int(value) for value in box)
    side = max(LEAST_SIDE, round(margin * max(width, height)))
    # Doubled, so that halves of pixels are exact.
    left, top = ((2 * start + length - side) // 2 for start, length in ((x, width), (y, height)))
    rows, columns = shape
    return Window(_moved_inside(left, side, columns), _moved_inside(top, side, rows), side)


def cut_pixels(rgb: np.ndarray, window: Window, size: int, color: Sequence[int]) -> np.ndarray:
    """Return a window of an image, uint8 [H, W, 3], as uint8 [size, size, 3]; ``color`` fills what is outside."""
    part = _inside(rgb, window)
    top, bottom, left, right = _outside(window, rgb.shape[:2])
    if top or bottom or left or right:
        value = [int(one) for one in color]
        part = cv2.copyMakeBorder(part, top, bottom, left, right, cv2.BORDER_CONSTANT, value=value)
    # INTER_AREA is the mean over the source pixels; enlarged, it would be blocky.
    method = cv2.INTER_AREA if window.side > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(part, (size, size), interpolation=method))


def cut_mask(regions: Regions, row: int, window: Window, size: int) -> np.ndarray:
    """Return the mask of the region in a row inside a window, bool [size, size], resized by nearest neighbor."""
    x, y, width, height = (int(value) for value in regions.boxes[row])
    at = ((np.arange(size) + 0.5) * (window.side / size)).astype(np.intp)
    rows, columns = window.top + at - y, window.left + at - x  # of the box
    (top, bottom), (left, right) = np.searchsorted(rows, (0, height)), np.searchsorted(columns, (0, width))
    mask = np.zeros((size, size), np.bool_)
    # One axis after the other is faster than both at once.
    mask[top:bottom, left:right] = regions.crop(row)[rows[top:bottom]].take(columns[left:right], axis=1)
    return mask


def crop_rows(regions: Regions, crops: str | Collection[int], spec: ModelSpec) -> np.ndarray:
    """Return the row numbers, intp [n], of the regions that get a crop.

    crops: "none", "small" or "all" as in `GenerationConfig`, or the ids of these regions. Raises InputError for another
    text.
    """
    if not isinstance(crops, str):
        return np.flatnonzero(np.isin(regions.ids, [int(region) for region in crops]))
    if crops not in CROPS:
        raise InputError(f"crops is {crops!r}: choose one of {', '.join(CROPS)}")
    if crops == "none":
        return np.zeros(0, np.intp)
    if crops == "all":
        return np.arange(len(regions))
    height, width = regions.shape
    sides = regions.boxes[:, 2:] * np.array([spec.image_size / width, spec.image_size / height])
    return np.flatnonzero(sides.max(axis=1) < spec.crop_size / (SMALL_GAIN * spec.crop_margin))


class Cropper:
    """Cuts the crops of regions for a model with crops.

    Args:
        spec: Size, margin, mean and standard deviation of the model.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._size, self._margin, self._strides = spec.crop_size, spec.crop_margin, spec.feature_strides
        self._normalized = normalized_values(spec.image_mean, spec.image_std)
        self._color = [round(255 * min(max(value, 0.0), 1.0)) for value in spec.image_mean]

    def cut(
        self,
        rgb: np.ndarray,
        regions: Regions,
        rows: Sequence[int] | np.ndarray | None = None,
        memory: np.ndarray | None = None,
    ) -> Crops:
        """Return the crops of the regions in these rows, by default of all.

        Args:
            rgb: The image, uint8 [H, W, 3].
            regions: Regions of the image.
            rows: Row numbers, not ids.
            memory: float32 [at least N, 3, crop_size, crop_size], for the pixels; by default new memory.
        """
        rows = range(len(regions)) if rows is None else [int(row) for row in rows]
        size = self._size
        pixels = np.empty((len(rows), 3, size, size), np.float32) if memory is None else memory[: len(rows)]
        masks = np.empty((len(rows), size, size), np.bool_)
        for number, row in enumerate(rows):
            window = crop_window(regions.boxes[row], regions.shape, self._margin)
            self.normalize(cut_pixels(rgb, window, size, self._color), pixels[number])
            masks[number] = cut_mask(regions, row, window, size)
        return Crops(pixels, pooling_masks(masks, self._strides))

    def normalize(self, crop: np.ndarray, out: np.ndarray) -> None:
        """Write a crop, uint8 [crop_size, crop_size, 3], normalized to ``out``, float32 [3, crop_size, crop_size]."""
        for plane, values, target in zip(cv2.split(crop), self._normalized, out, strict=True):
            cv2.LUT(plane, values, target)


def pooling_masks(masks: np.ndarray, strides: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Return masks, bool [N, S, S], at the size S / stride of each feature map, float32 [N, h, w] of 0 and 1.

    They are those of `osprey_ros.regions.pooling`: resized bilinearly, which reads the two middle pixels of each even
    stride along an axis, and thresholded above 0.
    """
    found = []
    for stride in strides:
        low, high = stride // 2 - 1, stride // 2
        rows = masks[:, low::stride] | masks[:, high::stride]
        found.append((rows[:, :, low::stride] | rows[:, :, high::stride]).astype(np.float32))
    return tuple(found)


def _moved_inside(start: int, side: int, length: int) -> int:
    """Return the start of a window that is moved into an axis, or to contain it if the window is longer."""
    return min(max(start, min(0, length - side)), max(0, length - side))


def _inside(image: np.ndarray, window: Window) -> np.ndarray:
    """Return the part of a window that lies in the image, a view."""
    rows, columns = (
        slice(max(window.top, 0), window.top + window.side),
        slice(max(window.left, 0), window.left + window.side),
    )
    return image[rows, columns]


def _outside(window: Window, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return how many pixels of a window are outside the image: above, below, left, right."""
    height, width = shape[:2]
    below, right = window.top + window.side - height, window.left + window.side - width
    return max(0, -window.top), max(0, below), max(0, -window.left), max(0, right)
