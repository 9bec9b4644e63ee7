"""Symmetric block-wise quantization of linear weights, and its packing for onnxruntime's MatMulNBits.

Per output row, 32 neighbouring input weights share one scale and have no zero point: weight = scale * level. Scales are
strictly positive, so that the same numbers also serve runtimes that demand it (TensorRT).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 32

# Fractions of a block's largest magnitude that the clip search tries as the largest representable magnitude.
_CLIP_RATIOS = np.linspace(1.0, 0.55, 16, dtype=np.float32)
# Blocks handled at a time: a few MB of temporaries, however large the matrix.
_BLOCKS_AT_A_TIME = 1 << 14


@dataclass(frozen=True)
class QuantizedLinear:
    """A quantized weight of a linear layer that maps `in_features` to `out_features`.

    levels: int8 [out_features, blocks, 32], in [-2**(bits-1), 2**(bits-1) - 1]; columns past in_features are 0.
    scales: float32 [out_features, blocks], all > 0.
    """

    levels: np.ndarray
    scales: np.ndarray
    in_features: int
    bits: int

    @property
    def out_features(self) -> int:
        return int(self.levels.shape[0])

    def dequantize(self) -> np.ndarray:
        """Returns the weight that the levels and scales stand for, float32 [out_features, in_features]."""
        weight = self.levels.astype(np.float32) * self.scales[:, :, None]
        return weight.reshape(self.out_features, -1)[:, : self.in_features]

    def packed(self) -> np.ndarray:
        """Returns MatMulNBits' B: uint8 [out_features, blocks, 16 for 4 bits or 32 for 8 bits].

        Levels are stored with the operator's default zero point added (8 or 128); of two int4 neighbours the first is
        in the low half of the byte.
        """
        unsigned = (self.levels.astype(np.int16) + (1 << (self.bits - 1))).astype(np.uint8)
        if self.bits == 8:
            return unsigned
        return unsigned[:, :, 0::2] | (unsigned[:, :, 1::2] << 4)

    @classmethod
    def from_packed(cls, packed: np.ndarray, scales: np.ndarray, in_features: int, bits: int) -> QuantizedLinear:
        """Reads what `packed` has written, with scales [out_features, blocks]."""
        unsigned = packed if bits == 8 else np.stack([packed & 15, packed >> 4], axis=-1).reshape(*scales.shape, BLOCK)
        levels = (unsigned.astype(np.int16) - (1 << (bits - 1))).astype(np.int8)
        return cls(levels, scales, in_features, bits)


def quantize_linear(weight: np.ndarray, bits: int = 4) -> QuantizedLinear:
    """Quantizes a linear layer's weight, float [out_features, in_features], to 4 or 8 bits.

    For each block every clip ratio is tried; the scale that minimises the squared error for the resulting levels is
    known in closed form, and the best pair of levels and scale is kept.
    Raises ValueError for other bit widths, other ranks and values that are not finite.
    """
    if bits not in (4, 8):
        raise ValueError(f"bits must be 4 or 8, not {bits}")
    if weight.ndim != 2:
        raise ValueError(f"a linear weight has two dimensions, not {weight.ndim}")
    if not np.isfinite(weight).all():
        raise ValueError("the weight has values that are not finite: the checkpoint is damaged or has overflowed")
    rows, columns = weight.shape
    blocks = -(-columns // BLOCK)
    padded = np.zeros((rows, blocks * BLOCK), dtype=np.float32)
    padded[:, :columns] = weight
    flat = padded.reshape(-1, BLOCK)
    levels = np.empty(flat.shape, dtype=np.int8)
    scales = np.empty(flat.shape[0], dtype=np.float32)
    for start in range(0, flat.shape[0], _BLOCKS_AT_A_TIME):
        part = slice(start, start + _BLOCKS_AT_A_TIME)
        levels[part], scales[part] = _quantize_blocks(flat[part], bits)
    return QuantizedLinear(levels.reshape(rows, blocks, BLOCK), scales.reshape(rows, blocks), columns, bits)


def _quantize_blocks(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantizes blocks, float32 [n, 32], to (levels int8 [n, 32], scales float32 [n])."""
    top = float(2 ** (bits - 1) - 1)
    largest = np.abs(values).max(axis=1)
    # A block of zeros, or of numbers too small to divide by, becomes zero levels with a harmless scale.
    empty = largest < np.finfo(np.float32).tiny * 2.0**20
    unit = np.where(empty, 1.0, largest).astype(np.float32)
    # Working on blocks scaled to magnitude 1 keeps squares within float32 whatever the weight's size.
    values = np.where(empty[:, None], 0.0, values / unit[:, None]).astype(np.float32)
    best_levels = np.zeros(values.shape, dtype=np.float32)
    best_scales = np.ones(len(values), dtype=np.float32)
    best_gain = np.zeros(len(values), dtype=np.float32)
    for ratio in _CLIP_RATIOS:
        levels = np.clip(np.rint(values * (top / ratio)), -top - 1.0, top)
        product = np.einsum("nk,nk->n", values, levels)
        energy = np.einsum("nk,nk->n", levels, levels)
        # min over scale of |v - scale*l|^2 = |v|^2 - (v.l)^2 / (l.l), reached at scale = (v.l) / (l.l), which is
        # positive because rounding keeps signs and the largest value never rounds to 0.
        safe = np.maximum(energy, 1.0)
        gain = product * product / safe
        better = gain > best_gain
        best_gain[better] = gain[better]
        best_levels[better] = levels[better]
        best_scales[better] = (product / safe)[better]
    scales = np.where(empty, 1.0, best_scales * unit).astype(np.float32)
    return best_levels.astype(np.int8), scales
