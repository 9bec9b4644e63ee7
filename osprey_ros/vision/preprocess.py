"""Preprocessing: images become the input of the vision engine.

Mode "exact" is the published preprocessing: ``CLIPImageProcessor`` resizes the shorter edge with Pillow's bicubic
filter, without a crop, and the normalized image is resized bilinearly to a square. Mode "fast" approximates the first
step with OpenCV.
"""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
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
_MAX_THREADS = 4

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
        threads: Number of threads of mode "exact", at most 4. OpenCV chooses the threads of mode "fast".

    Attributes:
        pixels: float32 [1, 3, S, S], the latest result. It is always the same array.

    Raises ImageError for an unknown mode.
    """

    def __init__(self, spec: ModelSpec, mode: str = "exact", threads: int = 1) -> None:
        if mode not in MODES:
            raise ImageError(f"unknown preprocessing mode {mode!r}: choose one of {', '.join(MODES)}")
        self._size, self._mode = spec.image_size, mode
        threads = min(threads, _MAX_THREADS)
        self._pool = ThreadPoolExecutor(threads, "preprocess") if mode == "exact" and threads > 1 else None
        self._strips = threads
        self._normalized = _normalized_values(spec)
        # Allocating large arrays for each image would take as long as computing them.
        self._buffers: dict[str, np.ndarray] = {}
        self.pixels = np.empty((1, 3, spec.image_size, spec.image_size), np.float32)

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """Return `pixels` for an image, uint8 [H, W, 3]. Copy what must survive the next call.

        Raises ImageError for another kind of array and for an image thinner than MAX_ASPECT_RATIO.
        """
        _check_image(rgb)
        rgb = np.ascontiguousarray(rgb)
        fast = self._mode == "fast"
        return self.square(self._resize_fast(rgb) if fast else _resize_exact(rgb, self._size, self._pool, self._strips))

    def square(self, rgb: np.ndarray) -> np.ndarray:
        """Return `pixels` for a contiguous image, uint8 [h, w, 3], whose shorter edge has the model's size already."""
        size = (self._size, self._size)
        planes = list(self._buffer("planes", (3, *rgb.shape[:2]), np.uint8))
        cv2.split(rgb, planes)
        for plane, values, out in zip(planes, self._normalized, self.pixels[0], strict=True):
            if plane.shape == size:
                cv2.LUT(plane, values, out)
            else:
                normalized = cv2.LUT(plane, values, self._buffer("normalized", plane.shape, np.float32))
                cv2.resize(normalized, size, out, interpolation=cv2.INTER_LINEAR)
        return self.pixels

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
    return _resize_exact(np.ascontiguousarray(rgb), size)


def normalize_and_square(rgb: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Return float32 [3, S, S] for an image from `resize_shortest_edge`, uint8 [h, w, 3]."""
    result: np.ndarray = Preprocessor(spec).square(np.ascontiguousarray(rgb))[0]
    return result


def _resize_exact(rgb: np.ndarray, size: int, pool: Executor | None = None, strips: int = 1) -> np.ndarray:
    """As `resize_shortest_edge`. The threads of a pool share the work by strips of the image.

    Like Pillow, they resize the width first: strips of rows. Then follows the height: strips of columns.
    """
    height, width = _resized_shape(rgb, size)
    if pool is None:
        return _bicubic(rgb, width, height)

    def edges(length: int) -> tuple[list[int], list[int]]:
        count = min(strips, length)
        cuts = [length * strip // count for strip in range(count + 1)]
        return cuts[:-1], cuts[1:]

    rows = pool.map(lambda top, bottom: _bicubic(rgb[top:bottom], width, bottom - top), *edges(rgb.shape[0]))
    resized = np.concatenate(list(rows))
    columns = pool.map(lambda left, right: _bicubic(resized[:, left:right], right - left, height), *edges(width))
    return np.concatenate(list(columns), axis=1)


def _bicubic(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    # Image.Resampling came with Pillow 9.1; Ubuntu 22.04 has 9.0.
    image = Image.fromarray(np.ascontiguousarray(rgb)).resize((width, height), Image.BICUBIC)  # type: ignore[attr-defined]
    return np.asarray(image)


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


def _normalized_values(spec: ModelSpec) -> np.ndarray:
    """Return float32 [3, 256], the normalized value of each 8-bit value in each channel."""
    values = np.arange(256, dtype=np.float32) / 255
    mean, std = (np.asarray(part, np.float32)[:, None] for part in (spec.image_mean, spec.image_std))
    return (values - mean) / std


def _check_image(rgb: np.ndarray) -> None:
    check_rgb(rgb)
    height, width = rgb.shape[:2]
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ImageError(f"the image is {width}x{height}: its sides may differ by {MAX_ASPECT_RATIO} times at most")
