"""Symmetric block-wise quantization of linear weights, and its packing for onnxruntime's MatMulNBits.

Per output row, 32 neighboring input weights (64 for TensorRT, which takes no fewer) share one scale and have no zero
point: weight = scale * level. Scales are strictly positive and numbers that float16 holds, so that the same levels and
scales serve every runtime: those that read scales as float32, those that read them as float16, and those that demand
positive ones (TensorRT).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from osprey_ros.errors import InputError

BLOCK = 32
# TensorRT takes int4 weights in blocks of 64 or 128 only (its documentation, "Quantization Schemes").
TENSORRT_BLOCK = 64

# rtn: round to nearest, the largest magnitude of a block at the largest level. clip: search the scale with the least
# squared error.
METHODS = ("rtn", "clip")

# The levels at which the clip search tries to place a block's largest magnitude. Past the largest level it is clipped.
# Both largest levels themselves, top and top + 1 (on the negative side), are among them: a weight that is already
# quantized is found again exactly.
_PLACES = {
    4: (7.0, 6.75, 7.25, 7.5, 7.75, 8.0, 8.3, 8.6, 9.0, 9.4, 9.8, 10.3, 10.8, 11.4, 12.0, 12.7),
    8: (127.0, 128.0, 131.0, 134.0, 138.0),
}
# float16's smallest positive number, for blocks of zeros and of weights that float16 could not tell from zero.
_SMALLEST_SCALE = np.float32(2.0**-24)
_LARGEST_SCALE = float(np.finfo(np.float16).max)
# Blocks handled at a time: temporaries that stay in a core's cache, however large the matrix.
_BLOCKS_AT_A_TIME = 1 << 11


@dataclass(frozen=True)
class QuantizedLinear:
    """A quantized weight of a linear layer that maps `in_features` to `out_features`.

    levels: int8 [out_features, blocks, block], in [-2**(bits-1), 2**(bits-1) - 1]; columns past in_features are 0.
    scales: float32 [out_features, blocks], all > 0 and exact in float16.
    """

    levels: np.ndarray
    scales: np.ndarray
    in_features: int
    bits: int

    @property
    def out_features(self) -> int:
        return int(self.levels.shape[0])

    def dequantize(self) -> np.ndarray:
        """Return the weight that the levels and scales stand for, float32 [out_features, in_features]."""
        weight = np.multiply(self.levels, self.scales[:, :, None], dtype=np.float32)
        result: np.ndarray = weight.reshape(self.out_features, -1)[:, : self.in_features]
        return result

    def packed(self) -> np.ndarray:
        """Return MatMulNBits' B: uint8 [out_features, blocks, block / 2 for 4 bits or block for 8 bits].

        Levels are stored with the operator's default zero point added (8 or 128); of two int4 neighbors the first is
        in the low half of the byte.
        """
        if self.bits == 8:
            packed: np.ndarray = self.levels.view(np.uint8) ^ np.uint8(128)  # in two's complement that adds 128
            return packed
        unsigned = (self.levels + np.int8(8)).view(np.uint8)
        result: np.ndarray = unsigned[:, :, 0::2] | (unsigned[:, :, 1::2] << 4)
        return result

    @classmethod
    def from_packed(cls, packed: np.ndarray, scales: np.ndarray, in_features: int, bits: int) -> QuantizedLinear:
        """Read what `packed` has written, with scales [out_features, blocks]."""
        if bits == 8:
            return cls((packed ^ np.uint8(128)).view(np.int8), scales, in_features, bits)
        unsigned = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*scales.shape, -1)
        return cls(unsigned.view(np.int8) - np.int8(8), scales, in_features, bits)


def quantize_linear(
    weight: np.ndarray,
    bits: int = 4,
    method: str = "clip",
    name: str = "weight",
    threads: int | None = None,
    block: int = BLOCK,
) -> QuantizedLinear:
    """Quantize the weight of a linear layer to 4 or 8 bits.

    Args:
        weight: float [out_features, in_features].
        bits: 4 or 8.
        method: one of METHODS.
        name: name of the weight in error messages.
        threads: number of worker threads, by default one per core; the result does not depend on it.
        block: number of neighboring inputs that share a scale.

    Raises:
        InputError: unsupported bits, method or rank; values that are not finite or too large for a float16 scale.
    """
    if bits not in _PLACES:
        raise InputError(f"bits must be 4 or 8, not {bits}")
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if weight.ndim != 2:
        raise InputError(f"{name}: a linear weight has two dimensions, not {weight.ndim}")
    rows, columns = weight.shape
    blocks = -(-columns // block)
    places = _PLACES[bits][:1] if method == "rtn" else _PLACES[bits]
    levels = np.empty((rows, blocks, block), dtype=np.int8)
    scales = np.empty((rows, blocks), dtype=np.float32)
    row_step = max(1, _BLOCKS_AT_A_TIME // blocks)

    def quantize_rows(start: int) -> None:
        part = slice(start, start + row_step)
        found = _quantize_blocks(_as_columns(weight[part], block), places, bits, name)
        levels[part] = found[0].T.reshape(levels[part].shape)
        scales[part] = found[1].reshape(scales[part].shape)

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        list(pool.map(quantize_rows, range(0, rows, row_step)))  # taking the results raises what a thread has raised
    return QuantizedLinear(levels, scales, columns, bits)


def _as_columns(weight: np.ndarray, block: int) -> np.ndarray:
    """Return rows [n, in_features] as float32 [block, n * blocks], one block per column: long rows are fast."""
    missing = -weight.shape[1] % block
    if missing:
        weight = np.pad(weight, ((0, 0), (0, missing)))
    return np.ascontiguousarray(weight.reshape(-1, block).T, dtype=np.float32)


def _quantize_blocks(
    values: np.ndarray, places: tuple[float, ...], bits: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the levels (whole float32 numbers [block, n]) and scales [n] of blocks [block, n]."""
    largest = np.maximum(values.max(axis=0), -values.min(axis=0))
    if not np.isfinite(largest).all():
        raise InputError(f"{name} has values that are not finite: the checkpoint is damaged or has overflowed")
    if largest.max() > _LARGEST_SCALE * places[0]:
        raise InputError(
            f"{name} has a value of magnitude {largest.max():.3g}, its scale does not fit float16: "
            "leave this model in floating point"
        )
    work = np.empty_like(values)
    best = _rounded(largest / np.float32(places[0]))
    if len(places) == 1:
        _levels(values, best, bits, work)
        return work, best
    least = np.full(len(best), np.inf, dtype=np.float32)
    for place in places:
        scale = _rounded(largest / np.float32(place))
        _levels(values, scale, bits, work)
        np.multiply(work, scale, out=work)
        np.subtract(work, values, out=work)
        error = _dot(work, work)
        better = error < least
        np.copyto(best, scale, where=better)
        np.copyto(least, error, where=better)
    _levels(values, best, bits, work)
    # For given levels the best scale is known in closed form: (v.l) / (l.l). It may be no better once rounded.
    energy = _dot(work, work)
    scale = _dot(work, values) / np.where(energy > 0, energy, np.float32(1))
    scale = _rounded(np.maximum(scale, 0))
    rest = work * scale - values
    np.copyto(best, scale, where=_dot(rest, rest) < least)
    return work, best


def _rounded(scales: np.ndarray) -> np.ndarray:
    """Return scales rounded to positive numbers that float16 holds, as float32."""
    result: np.ndarray = np.maximum(scales.astype(np.float16).astype(np.float32), _SMALLEST_SCALE)
    return result


def _levels(values: np.ndarray, scales: np.ndarray, bits: int, out: np.ndarray) -> None:
    """Return the nearest levels of values [block, n] at scales [n], as whole float32 numbers."""
    top = np.float32(2 ** (bits - 1) - 1)
    np.multiply(values, np.float32(1) / scales, out=out)
    np.rint(out, out=out)
    np.minimum(out, top, out=out)
    np.maximum(out, -top - np.float32(1), out=out)


def _dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the inner products [n] of the columns of two arrays [block, n]."""
    result: np.ndarray = np.einsum("kn,kn->n", first, second)
    return result
