"""Preprocessing: images become the input of the vision engine.

Mode "exact" is the published preprocessing: ``CLIPImageProcessor`` resizes the shorter edge with Pillow's bicubic
filter, without a crop, and the normalized image is resized bilinearly to a square. Mode "fast" approximates the first
step with OpenCV.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.errors import ImageError
from osprey_ros.vision.image_io import check_rgb

MODES = ("exact", "fast")
# A thinner image would need too much memory: at 100 to 1 a short edge of 512 makes 26 million pixels, 79 MB as bytes
# and 315 MB as float32.
MAX_ASPECT_RATIO = 100
_BICUBIC = Image.BICUBIC  # type: ignore[attr-defined]  # Image.Resampling came with Pillow 9.1; Ubuntu 22.04 has 9.0

# Filter of mode "fast": by how much an image shrinks, the weights of the nearest and the second-nearest neighbors.
# Fitted to Pillow's bicubic filter on rendered scenes.
_SHRINK_RATIOS = (1.0, 1.125, 1.25, 1.4, 1.6, 2.0)
_NEAREST_WEIGHTS = (0.0, 0.06, 0.12, 0.17, 0.225, 0.295)
_SECOND_WEIGHTS = (0.0, -0.01, -0.03, -0.04, -0.048, -0.05)


class Preprocessor:
    """Makes the vision engine's input from one image after another. Use it from one thread at a time.

    Args:
        spec: Image size, mean and standard deviation of the model.
        mode: "exact" for the published preprocessing, "fast" for about a quarter of its time. Fast values differ from
            exact ones by 0.1 of 255 levels on average (`benchmarks/pixels.py` measures both).
        threads: Number of threads of mode "exact" for landscape images, at most 4. OpenCV chooses the threads of mode
            "fast".

    Attributes:
        pixels: float32 [1, 3, S, S], the latest result. It is always the same array.

    Raises ImageError for an unknown mode.
    """

    def __init__(self, spec: ModelSpec, mode: str = "exact", threads: int = 1) -> None:
        if mode not in MODES:
            raise ImageError(f"unknown preprocessing mode {mode!r}: choose one of {', '.join(MODES)}")
        self._size, self._mode = spec.image_size, mode
        # Positions in an image that is cut into 2 or 4 strips are exact in Pillow's float32.
        strips = next(number for number in (4, 2, 1) if number <= max(threads, 1) and spec.image_size % number == 0)
        self._strips = strips if mode == "exact" else 1
        self._pool = ThreadPoolExecutor(self._strips - 1, "preprocess") if self._strips > 1 else None
        self._normalized = normalized_values(spec.image_mean, spec.image_std)
        # Allocating large arrays for each image would take as long as computing them.
        self._buffers: dict[str, np.ndarray] = {}
        self.pixels = np.empty((1, 3, spec.image_size, spec.image_size), np.float32)

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """Return `pixels` for an image, uint8 [H, W, 3]. Copy what must survive the next call.

        Raises ImageError for another kind of array and for an image thinner than MAX_ASPECT_RATIO.
        """
        _check_image(rgb)
        rgb = np.ascontiguousarray(rgb)
        if self._mode == "fast":
            return self.square(self._resize_fast(rgb))
        if self._pool is None or rgb.shape[0] > rgb.shape[1]:
            return self.square(resize_shortest_edge(rgb, self._size))
        others = [self._pool.submit(self._exact_strip, rgb, number) for number in range(1, self._strips)]
        self._exact_strip(rgb, 0)
        for strip in others:
            strip.result()
        return self.pixels

    def square(self, rgb: np.ndarray) -> np.ndarray:
        """Return `pixels` for a contiguous image, uint8 [h, w, 3], whose shorter edge has the model's size already."""
        self._normalize(rgb, self.pixels[0], "")
        return self.pixels

    def _exact_strip(self, rgb: np.ndarray, number: int) -> None:
        """Compute some rows of `pixels` from a landscape image.

        Pillow resizes the width of a landscape image first. Of a portrait image or of a strip it may resize the height
        first, which rounds other values, so that both steps are separate here and portrait images have no strips.
        """
        height, width = _resized_shape(rgb, self._size)
        first, last = (height * cut // self._strips for cut in (number, number + 1))
        scale = rgb.shape[0] / height
        margin = math.ceil(2 * max(scale, 1)) + 2  # rows around a strip that the filter reads
        top, bottom = max(0, math.floor(first * scale) - margin), math.ceil(last * scale) + margin
        part = Image.fromarray(rgb[top:bottom])
        part = part.resize((width, part.height), _BICUBIC)
        box = (0, first * scale - top, width, last * scale - top)
        part = part.resize((width, last - first), _BICUBIC, box)
        self._normalize(np.asarray(part), self.pixels[0, :, first:last], f"strip {number} ")

    def _normalize(self, rgb: np.ndarray, out: np.ndarray, buffers: str) -> None:
        """Normalize an image, uint8 [h, w, 3], and resize it bilinearly to ``out``, float32 [3, H, W]."""
        planes = list(self._buffer(f"{buffers}planes", (3, *rgb.shape[:2]), np.uint8))
        cv2.split(rgb, planes)
        for plane, values, target in zip(planes, self._normalized, out, strict=True):
            if plane.shape == target.shape:
                cv2.LUT(plane, values, target)
            else:
                normalized = cv2.LUT(plane, values, self._buffer(f"{buffers}normalized", plane.shape, np.float32))
                cv2.resize(normalized, target.shape[::-1], target, interpolation=cv2.INTER_LINEAR)

    def _resize_fast(self, rgb: np.ndarray) -> np.ndarray:
        """Return the image resized to the model's square, uint8 [S, S, 3].

        Pillow widens its kernel when it shrinks an image. Here the image is halved as often as possible, and a filter
        of five taps along each axis removes the remaining detail that is finer than the pixels of the result.
        """
        size, resized, halvings = self._size, _resized_shape(rgb, self._size), 0
        while min(rgb.shape[:2]) >= 2 * size:
            height, width = rgb.shape[0] // 2, rgb.shape[1] // 2
            half = self._buffer(f"half {halvings}", (height, width, 3), np.uint8)
            rgb = cv2.resize(rgb, (width, height), half, interpolation=cv2.INTER_AREA)
            halvings += 1
        if min(rgb.shape[:2]) > size:
            taps = _taps(min(rgb.shape[:2]) / size)
            filtered = self._buffer("filtered", rgb.shape, np.uint8)
            rgb = cv2.sepFilter2D(rgb, -1, taps, taps, filtered, borderType=cv2.BORDER_REPLICATE)
        out = self._buffer("resized", (*resized, 3), np.uint8)
        rgb = cv2.resize(rgb, resized[::-1], out, interpolation=cv2.INTER_CUBIC)
        square = self._buffer("square", (size, size, 3), np.uint8)
        return cv2.resize(rgb, (size, size), square, interpolation=cv2.INTER_LINEAR)

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        known = self._buffers.get(name)
        if known is None or known.shape != shape:
            known = self._buffers[name] = np.empty(shape, dtype)
        return known


def preprocess(rgb: np.ndarray, spec: ModelSpec, mode: str = "exact") -> np.ndarray:
    """Return what a `Preprocessor` makes of a single image, in an array of its own."""
    return Preprocessor(spec, mode)(rgb)


def resize_shortest_edge(rgb: np.ndarray, size: int) -> np.ndarray:
    """Resize an image, uint8 [H, W, 3], bicubically so that its shorter edge is ``size``; keep the aspect ratio."""
    _check_image(rgb)
    height, width = _resized_shape(rgb, size)
    return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).resize((width, height), _BICUBIC))


def normalize_and_square(rgb: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Return float32 [3, S, S] for an image from `resize_shortest_edge`, uint8 [h, w, 3]."""
    result: np.ndarray = Preprocessor(spec).square(np.ascontiguousarray(rgb))[0]
    return result


def _resized_shape(rgb: np.ndarray, size: int) -> tuple[int, int]:
    """Return (height, width) of an image whose shorter edge becomes ``size``, rounded as CLIPImageProcessor does."""
    height, width = rgb.shape[:2]
    longer = int(size * max(height, width) / min(height, width))
    return (longer, size) if width <= height else (size, longer)


@lru_cache
def _taps(ratio: float) -> np.ndarray:
    """Return the filter of mode "fast", float32 [5], before an image shrinks by a ratio of 1 to 2."""
    near, far = (np.interp(ratio, _SHRINK_RATIOS, weights) for weights in (_NEAREST_WEIGHTS, _SECOND_WEIGHTS))
    return np.array([far, near, 1 - 2 * (near + far), near, far], np.float32)


def normalized_values(means: Sequence[float], stds: Sequence[float]) -> np.ndarray:
    """Return float32 [3, 256], the normalized value of each 8-bit value in each channel, by means and deviations."""
    values = np.arange(256, dtype=np.float32) / 255
    mean, std = (np.asarray(part, np.float32)[:, None] for part in (means, stds))
    return (values - mean) / std


def _check_image(rgb: np.ndarray) -> None:
    check_rgb(rgb)
    height, width = rgb.shape[:2]
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ImageError(f"the image is {width}x{height}: its sides may differ by {MAX_ASPECT_RATIO} times at most")
