"""From 8-bit pictures to the normalised planes that the vision engine takes: the arithmetic behind `preprocess`.

A plan is made for one size of picture and holds all memory it needs, because at these sizes getting memory afresh from
the system costs as much time as the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from osprey_ros.regions import bilinear

if TYPE_CHECKING:
    from osprey_ros.bundle.spec import ModelSpec

_ROWS_AT_ONCE = 128  # what is worked on stays in the processor's cache

# Weights of the nearest and the second neighbours before a picture is shrunk by a ratio: fitted to Pillow's bicubic
# resize of rendered scenes.
_TAPS = (
    (1.0, 1.125, 1.25, 1.4, 1.6, 2.0),
    (0.0, 0.06, 0.12, 0.17, 0.225, 0.295),
    (0.0, -0.01, -0.03, -0.04, -0.048, -0.05),
)


def short_edge_size(shape: Sequence[int], size: int) -> tuple[int, int]:
    """(height, width) of a picture (height, width, ...) whose shorter edge is made ``size``: CLIPImageProcessor's."""
    height, width = shape[:2]
    long = int(size * max(height, width) / min(height, width))
    return (long, size) if width <= height else (size, long)


class Squarer:
    """Scales and normalises pictures uint8 [height, width, 3], and squeezes one edge, to float32 [3, h, w].

    Equal to the published arithmetic: normalised values are looked up, and the longer edge is resized bilinearly in
    float32 as `osprey_ros.regions.bilinear` describes it.

    Args:
        shape: (height, width) of the pictures.
        target: (h, w), of which at least one is as in ``shape``.
        spec: mean and standard deviation.
    """

    def __init__(self, shape: Sequence[int], target: tuple[int, int], spec: ModelSpec) -> None:
        height, width = shape[:2]
        if height != target[0] and width != target[1]:
            raise ValueError(f"a picture of {width}x{height} pixels has no edge in common with {target[1]}x{target[0]}")
        self._values = _normalised_values(spec)
        self._planes = [np.empty((height, width), np.uint8) for _ in range(3)]
        self._squeezed = None if (height, width) == target else "columns" if width != target[1] else "rows"
        if self._squeezed == "columns":
            self._axis = bilinear.axis(width, target[1])
            self._turned, self._picked = np.empty((width, height), np.uint8), np.empty(target[::-1], np.uint8)
        elif self._squeezed == "rows":
            self._axis = bilinear.axis(height, target[0])
        if self._squeezed:
            weight_shape = (1, -1) if self._squeezed == "columns" else (-1, 1)
            self._high_weight = np.broadcast_to(self._axis.high_weight.reshape(weight_shape), target)
            low_weight = np.broadcast_to(self._axis.low_weight.reshape(weight_shape), target)
            self._low_weight = np.ascontiguousarray(low_weight)
            self._low, self._high = (np.empty(target, np.uint8) for _ in range(2))
            self._add_product = _ProductAdder(min(target[0], _ROWS_AT_ONCE), target[1])

    def __call__(self, rgb: np.ndarray, out: np.ndarray) -> None:
        """Writes the planes of ``rgb`` to ``out``, float32 [3, h, w], contiguous along the last axis."""
        for plane, values, target in zip(cv2.split(rgb, self._planes), self._values, out, strict=True):
            if not self._squeezed:
                cv2.LUT(plane, values, target)
                continue
            low, high = self._neighbours(plane)
            for start in range(0, len(target), _ROWS_AT_ONCE):
                rows = slice(start, start + _ROWS_AT_ONCE)
                total = cv2.LUT(high[rows], values, target[rows])
                total *= self._high_weight[rows]
                self._add_product(low[rows], values, self._low_weight[rows], total)

    def _neighbours(self, plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lower and the higher source pixel of each output pixel, uint8 [h, w] each."""
        if self._squeezed == "rows":
            np.take(plane, self._axis.low, axis=0, out=self._low, mode="clip")
            np.take(plane, self._axis.high, axis=0, out=self._high, mode="clip")
            return self._low, self._high
        # Copying whole rows is so much faster than picking columns that turning the picture twice pays.
        turned = cv2.transpose(plane, self._turned)
        np.take(turned, self._axis.low, axis=0, out=self._picked, mode="clip")
        low = cv2.transpose(self._picked, self._low)
        np.take(turned, self._axis.high, axis=0, out=self._picked, mode="clip")
        return low, cv2.transpose(self._picked, self._high)


class FastResizer:
    """Squeezes pictures uint8 [height, width, 3] to uint8 [S, S, 3], close to the published resize in less time.

    Both work through the same intermediate size, whose bilinear squeezing shapes the result most. Where Pillow widens
    its bicubic kernel, so that nothing finer than the result's pixels gets through, here the picture is halved as often
    as it can be and then filtered by five taps along each axis.
    """

    def __init__(self, shape: Sequence[int], size: int) -> None:
        height, width = shape[:2]
        self._halves: list[np.ndarray] = []
        while min(height, width) >= 2 * size:
            height, width = height // 2, width // 2
            self._halves.append(np.empty((height, width, 3), np.uint8))
        ratio = min(height, width) / size
        near, far = np.interp(ratio, *_TAPS[:2]), np.interp(ratio, _TAPS[0], _TAPS[2])
        self._taps = np.array([far, near, 1 - 2 * (near + far), near, far], np.float32) if ratio > 1 else None
        self._filtered = np.empty((height, width, 3), np.uint8)
        self._between = np.empty((*short_edge_size(shape, size), 3), np.uint8)
        self._square = np.empty((size, size, 3), np.uint8)

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """The squeezed picture, in memory that the next call overwrites."""
        for half in self._halves:
            rgb = cv2.resize(rgb, half.shape[1::-1], half, interpolation=cv2.INTER_AREA)
        if self._taps is not None:
            rgb = cv2.sepFilter2D(rgb, -1, self._taps, self._taps, self._filtered, borderType=cv2.BORDER_REPLICATE)
        rgb = cv2.resize(rgb, self._between.shape[1::-1], self._between, interpolation=cv2.INTER_CUBIC)
        return cv2.resize(rgb, self._square.shape[:2], self._square, interpolation=cv2.INTER_LINEAR)


class _ProductAdder:
    """Adds looked-up values times weights to float32 rows, each sum rounded once, as a fused multiply-add does it."""

    def __init__(self, rows: int, columns: int) -> None:
        self._looked_up = np.empty((rows, columns), np.float32)
        # OpenCV fuses where the processor can. (1 + 2^-12)^2 ends on 2^-24, which is lost if it is rounded on its own.
        factor = np.full((rows, columns), 1 + 2**-12, np.float32)
        total = np.full((rows, columns), -(1 + 2**-11), np.float32)
        cv2.accumulateProduct(factor, factor, total)
        self._total = None if (total == 2**-24).all() else np.empty((rows, columns), np.float64)

    def __call__(self, pixels: np.ndarray, values: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
        """``out += values[pixels] * weights``; float32 but for pixels, uint8; not more rows than given to the plan."""
        looked_up = cv2.LUT(pixels, values, self._looked_up[: len(pixels)])
        if self._total is None:
            cv2.accumulateProduct(looked_up, weights, out)
        else:
            # float64 holds the product exactly.
            total = self._total[: len(pixels)]
            np.copyto(total, out)
            cv2.accumulateProduct(looked_up, weights, total)
            np.copyto(out, total, casting="same_kind")


def _normalised_values(spec: ModelSpec) -> np.ndarray:
    # 256 possible inputs: [3, 256] float32, computed with the roundings of CLIPImageProcessor.
    scaled = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean = np.asarray(spec.image_mean, np.float32)[:, None]
    std = np.asarray(spec.image_std, np.float32)[:, None]
    return (scaled - mean) / std
