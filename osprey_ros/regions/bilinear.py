"""Bilinear resizing as ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`` does it.

The published model was trained behind that function (no antialiasing), so its source positions, weights and order of
operations are repeated here, without torch, in the same float32 arithmetic, fused multiply-adds included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Axis:
    """Where the outputs of one axis come from: ``low_weight * source[low] + high_weight * source[high]``.

    All arrays have the output's length. ``high`` equals ``low`` at the far border, and a weight can be exactly 0.
    """

    low: np.ndarray  # intp
    high: np.ndarray  # intp
    low_weight: np.ndarray  # float32
    high_weight: np.ndarray  # float32


def axis(source: int, target: int) -> Axis:
    """Source indices and weights for resizing an axis from ``source`` to ``target`` pixels (both at least 1)."""
    scale = np.float32(source) / np.float32(target)
    # scale * (index + 0.5) - 0.5 is one fused multiply-add in torch: float64 holds the product exactly.
    exact = np.float64(scale) * (np.arange(target) + 0.5) - 0.5
    position = np.maximum(exact.astype(np.float32), np.float32(0))
    low = np.minimum(position.astype(np.intp), source - 1)
    high = np.minimum(low + 1, source - 1)
    high_weight = np.clip(position - low.astype(np.float32), np.float32(0), np.float32(1))
    return Axis(low, high, np.float32(1) - high_weight, high_weight)


def blend(low: np.ndarray, low_weight: np.ndarray, high: np.ndarray, high_weight: np.ndarray) -> np.ndarray:
    """``low * low_weight + high * high_weight`` in float32, the first product fused into the sum as in torch.

    There is no one last bit: torch fuses the other product, or none, in some sizes and numbers of threads.
    """
    total = low.astype(np.float64) * low_weight
    total += high * high_weight
    return total.astype(np.float32)
