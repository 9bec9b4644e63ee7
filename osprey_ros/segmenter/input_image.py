"""Images as the encoder of a segmenter reads them, and where their pixels lie in its input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from osprey_ros.segmenter.spec import SegmenterSpec
from osprey_ros.vision.image_io import check_rgb
from osprey_ros.vision.preprocess import normalized_values

_PILLOW = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}  # type: ignore[attr-defined]  # Pillow 9.0 has no enum


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the encoder's input: it begins at the top left corner.

    Attributes:
        shape: (height, width) of the image in pixels.
        size: (height, width) that it covers in the input, in pixels of the input.
        input_size: (height, width) of the input.
    """

    shape: tuple[int, int]
    size: tuple[int, int]
    input_size: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the input for one pixel of the image, along x and y."""
        return self.size[1] / self.shape[1], self.size[0] / self.shape[0]

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """Return the (rows, columns) of a map [height, width] over the input whose centers lie in the image."""
        rows, columns = self.size[0] * height / self.input_size[0], self.size[1] * width / self.input_size[1]
        return max(1, min(height, round(rows))), max(1, min(width, round(columns)))

    def pixels_of(self, height: int, width: int) -> float:
        """Return how many pixels of the image a cell of a map [height, width] over the input covers."""
        across, down = self.scale
        return self.input_size[0] * self.input_size[1] / (height * width * across * down)


class InputImage:
    """Makes the encoder's input from one image after another. Use it from one thread at a time.

    Attributes:
        pixels: float32 [1, 3, H, W], the latest result. It is always the same array.
        placement: Where the latest image lies in it.
    """

    def __init__(self, spec: SegmenterSpec) -> None:
        self._spec = spec
        self._normalized = normalized_values(spec.image_mean, spec.image_std)
        self.pixels = np.zeros((1, 3, *spec.input_size), np.float32)
        self.placement = Placement((1, 1), spec.input_size, spec.input_size)

    def set(self, rgb: np.ndarray) -> None:
        """Set `pixels` and `placement` for an image, uint8 [H, W, 3]. Raises ImageError for another kind of array."""
        check_rgb(rgb)
        shape = (rgb.shape[0], rgb.shape[1])
        size = resized_size(shape, self._spec)
        resized = np.ascontiguousarray(rgb) if shape == size else _resize(rgb, size, self._spec.interpolation)
        height, width = size
        if size != self.placement.size:
            self.pixels.fill(0)
        for plane, values, target in zip(cv2.split(resized), self._normalized, self.pixels[0], strict=True):
            target[:height, :width] = cv2.LUT(plane, values)
        self.placement = Placement(shape, size, self._spec.input_size)


def resized_size(shape: Sequence[int], spec: SegmenterSpec) -> tuple[int, int]:
    """Return the (height, width) in the encoder's input of an image of (height, width) pixels."""
    height, width = spec.input_size
    if spec.resize == "stretch":
        return height, width
    scale = min(height / shape[0], width / shape[1])
    rows, columns = (int(side * scale + 0.5) for side in shape)
    return max(1, min(height, rows)), max(1, min(width, columns))


def _resize(rgb: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    if interpolation == "area":
        shrinks = size[0] <= rgb.shape[0] and size[1] <= rgb.shape[1]
        return cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).resize(size[::-1], _PILLOW[interpolation]))
