"""From images to the vision engine's input, exact as published or fast.

Exact preprocessing is the published one, number for number: ``CLIPImageProcessor`` (shortest edge, bicubic, no crop)
followed by a bilinear resize of the normalised tensor to a square. Nearly all its time is Pillow's resize. Fast
preprocessing comes near it with OpenCV.
"""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from math import gcd

import numpy as np
from PIL import Image

from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.errors import ImageError
from osprey_ros.vision.image_io import check_rgb
from osprey_ros.vision.pixels import FastResizer, Squarer, short_edge_size

# A thinner picture would need more memory than it is worth: at 100 to 1 its short edge of 512 makes 26 million pixels,
# 79 MB of bytes and another 315 MB once they are normalised to float32.
MAX_ASPECT_RATIO = 100

MODES = ("exact", "fast")


class Preprocessor:
    """Turns pictures into the vision engine's input, one after another. Use it from one thread at a time.

    Args:
        spec: the model's picture size, mean and standard deviation.
        mode: "exact" for the published numbers; "fast" for about a quarter of the work, and 8-bit values that differ
            from the exact ones by 0.1 levels on average (`benchmarks/pixels.py` measures both).
        threads: how many share the work of exact mode (OpenCV sees to it in fast mode). Used are 1, 2 or 4.

    It keeps a plan, and memory, for the last size of picture. ``pixels`` is what it made last: always the same array.
    Raises ImageError for an unknown mode.
    """

    def __init__(self, spec: ModelSpec, mode: str = "exact", threads: int = 1) -> None:
        if mode not in MODES:
            raise ImageError(f"unknown mode of preprocessing {mode!r}: choose one of {', '.join(MODES)}")
        self._spec, self._mode = spec, mode
        self._strips = 4 if threads >= 4 else 2 if threads >= 2 else 1
        self._pool = ThreadPoolExecutor(self._strips - 1, "preprocess") if self._strips > 1 else None
        self.pixels = np.empty((1, 3, spec.image_size, spec.image_size), np.float32)
        self._plan: _ExactPlan | _FastPlan | None = None

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """The vision engine's input of a picture uint8 [H, W, 3]: float32 [1, 3, S, S], contiguous.

        The array belongs to the preprocessor, and its next call overwrites it: copy what must outlive that. Raises
        ImageError for other arrays.
        """
        check_rgb(rgb)
        _check_shape(rgb)
        if self._plan is None or self._plan.shape != rgb.shape:
            exact = self._mode == "exact"
            self._plan = (
                _ExactPlan(rgb.shape, self._spec, self._pool, self._strips)
                if exact
                else _FastPlan(rgb.shape, self._spec)
            )
        self._plan(np.ascontiguousarray(rgb), self.pixels[0])
        return self.pixels


def preprocess(rgb: np.ndarray, spec: ModelSpec, mode: str = "exact") -> np.ndarray:
    """What a `Preprocessor` makes of a single picture, in memory of its own."""
    return Preprocessor(spec, mode)(rgb)


def resize_shortest_edge(rgb: np.ndarray, size: int) -> np.ndarray:
    """Resizes uint8 [H, W, 3] bicubically so that its shorter edge is ``size``; the longer keeps the aspect ratio."""
    check_rgb(rgb)
    _check_shape(rgb)
    height, width = short_edge_size(rgb.shape, size)
    # Image.Resampling came with Pillow 9.1, Ubuntu 22.04 has 9.0; type checkers do not see the older name.
    image = Image.fromarray(np.ascontiguousarray(rgb)).resize((width, height), Image.BICUBIC)  # type: ignore[attr-defined]
    return np.asarray(image)


def normalise_and_square(rgb_small: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Scales, normalises and squeezes uint8 [h, w, 3], as `resize_shortest_edge` makes it, to float32 [3, S, S]."""
    pixels = np.empty((3, spec.image_size, spec.image_size), np.float32)
    Squarer(rgb_small.shape, (spec.image_size, spec.image_size), spec)(np.ascontiguousarray(rgb_small), pixels)
    return pixels


class _ExactPlan:
    """Exact preprocessing of pictures of one size, in strips across the shorter edge that threads work on.

    A strip can come out as it would in the whole picture: Pillow's filter sees the pixels beyond it, and positions are
    exact in its arithmetic where the scale is a fraction of a power of two. Newer versions of Pillow choose the order
    of their two passes by size, which may be another for a strip: whether it is, shows in a picture of noise. Sizes for
    which strips differ are done in one.
    """

    def __init__(self, shape: tuple[int, ...], spec: ModelSpec, pool: Executor | None, strips: int) -> None:
        self.shape = shape
        self._pool = pool
        # Its memory is kept: only the pixels are new each time. Pillow gives sizes as (width, height).
        self._image = Image.new("RGB", (shape[1], shape[0]))
        self._strips = [_Strip(shape, spec, 0, 1)]
        size = spec.image_size
        denominator = size // gcd(min(shape[:2]), size)
        if strips > 1 and denominator & (denominator - 1) == 0 and size % strips == 0:
            noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            whole, parts = (np.empty((3, size, size), np.float32) for _ in range(2))
            self(noise, whole)
            single, self._strips = self._strips, [_Strip(shape, spec, number, strips) for number in range(strips)]
            self(noise, parts)
            if not np.array_equal(whole, parts):
                self._strips = single

    def __call__(self, rgb: np.ndarray, out: np.ndarray) -> None:
        self._image.frombytes(rgb)
        others = [self._pool.submit(strip, self._image, out) for strip in self._strips[1:]] if self._pool else []
        self._strips[0](self._image, out)
        for other in others:
            other.result()


class _Strip:
    """Strip ``number`` of ``strips`` of a picture: rows of one that lies, columns of one that stands."""

    def __init__(self, shape: tuple[int, ...], spec: ModelSpec, number: int, strips: int) -> None:
        height, width = shape[:2]
        part = spec.image_size // strips
        between, target = list(short_edge_size(shape, spec.image_size)), [spec.image_size, spec.image_size]
        axis = 0 if height < width else 1
        between[axis] = target[axis] = part
        low, high = number / strips, (number + 1) / strips
        self._box = (0, height * low, width, height * high) if axis == 0 else (width * low, 0, width * high, height)
        rows, whole = slice(number * part, (number + 1) * part), slice(None)
        self._place = (whole, rows, whole) if axis == 0 else (whole, whole, rows)
        self._size = (between[1], between[0])
        self._square = Squarer(between, (target[0], target[1]), spec)

    def __call__(self, image: Image.Image, out: np.ndarray) -> None:
        small = image.resize(self._size, Image.BICUBIC, box=self._box)  # type: ignore[attr-defined]
        self._square(np.asarray(small), out[self._place])


class _FastPlan:
    def __init__(self, shape: tuple[int, ...], spec: ModelSpec) -> None:
        self.shape = shape
        square = (spec.image_size, spec.image_size)
        self._resize, self._square = FastResizer(shape, spec.image_size), Squarer(square, square, spec)

    def __call__(self, rgb: np.ndarray, out: np.ndarray) -> None:
        self._square(self._resize(rgb), out)


def _check_shape(rgb: np.ndarray) -> None:
    height, width = rgb.shape[:2]
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ImageError(f"a picture of {width}x{height} pixels is too thin: at most {MAX_ASPECT_RATIO} to 1")
