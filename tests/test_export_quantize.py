"""Block-wise quantization: its error, its scales and its packing for MatMulNBits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from export.onnx_graph import MICROSOFT, GraphBuilder
from export.quantize import BLOCK, QuantizedLinear, quantize_linear


def _weight(rows: int = 24, columns: int = 96, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.05, (rows, columns)).astype(np.float32)


def _round_to_nearest(weight: np.ndarray, bits: int) -> np.ndarray:
    blocks = weight.reshape(len(weight), -1, BLOCK)
    scale = np.abs(blocks).max(-1, keepdims=True) / (2 ** (bits - 1) - 1)
    return (np.rint(blocks / scale) * scale).reshape(weight.shape)


@pytest.mark.parametrize(("bits", "lowest", "highest"), [(4, -8, 7), (8, -128, 127)])
def test_levels_fit_and_scales_are_positive(bits: int, lowest: int, highest: int) -> None:
    weight = _weight()
    weight[3] = 0.0
    weight[4] *= 1e-30
    weight[5] *= 1e30
    weight[6] = -np.abs(weight[6])
    quantized = quantize_linear(weight, bits)
    assert quantized.levels.min() >= lowest
    assert quantized.levels.max() <= highest
    assert (quantized.scales > 0).all()
    assert np.isfinite(quantized.scales).all()
    np.testing.assert_array_equal(quantized.dequantize()[3], 0.0)
    assert np.abs(quantized.dequantize() / np.where(weight == 0, 1, weight)).max() < 100


@pytest.mark.parametrize("bits", [4, 8])
def test_clip_search_never_loses_to_rounding_to_nearest(bits: int) -> None:
    weight = _weight(64, 128, seed=1)
    plain = ((weight - _round_to_nearest(weight, bits)) ** 2).reshape(64, -1, BLOCK).sum(-1)
    searched = ((weight - quantize_linear(weight, bits).dequantize()) ** 2).reshape(64, -1, BLOCK).sum(-1)
    assert (searched <= plain * (1 + 1e-4) + 1e-12).all()
    assert searched.sum() < (0.9 if bits == 4 else 1.0) * plain.sum()


def test_weights_already_on_the_grid_come_back_unchanged() -> None:
    settled = _round_to_nearest(_weight(seed=2), 4)
    np.testing.assert_allclose(quantize_linear(settled).dequantize(), settled, rtol=1e-6, atol=1e-9)
    once = quantize_linear(_weight(seed=3)).dequantize()
    np.testing.assert_allclose(quantize_linear(once).dequantize(), once, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("columns", [32, 96, 40])
@pytest.mark.parametrize("bits", [4, 8])
def test_runtime_unpacks_what_was_packed(tmp_path: Path, bits: int, columns: int) -> None:
    quantized = quantize_linear(_weight(20, columns, seed=4), bits)
    graph = GraphBuilder("product")
    graph.input("x", ["M", columns])
    packed = [graph.weight("levels", quantized.packed()), graph.weight("scales", quantized.scales)]
    attributes = {"K": columns, "N": 20, "bits": bits, "block_size": BLOCK, "accuracy_level": 0}
    graph.node("MatMulNBits", ["x", *packed], "y", domain=MICROSOFT, **attributes)
    graph.output("y", ["M", 20])
    graph.save(tmp_path / "product.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "product.onnx", providers=["CPUExecutionProvider"])
    (weight,) = session.run(None, {"x": np.eye(columns, dtype=np.float32)})
    np.testing.assert_allclose(weight.T, quantized.dequantize(), atol=1e-6)
    unpacked = QuantizedLinear.from_packed(quantized.packed(), quantized.scales, columns, bits)
    np.testing.assert_array_equal(unpacked.dequantize(), quantized.dequantize())


@pytest.mark.parametrize(
    ("weight", "bits", "message"),
    [
        (np.zeros((2, 32), np.float32), 3, "4 or 8"),
        (np.zeros(32, np.float32), 4, "two dimensions"),
        (np.full((2, 32), np.nan, np.float32), 4, "not finite"),
    ],
)
def test_what_cannot_be_quantized_is_said(weight: np.ndarray, bits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize_linear(weight, bits)
