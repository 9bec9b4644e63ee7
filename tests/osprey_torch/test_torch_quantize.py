"""Block-wise quantization: its error, its scales and its packing for MatMulNBits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from osprey_ros.errors import InputError
from osprey_torch.onnx_graph import MICROSOFT, GraphBuilder
from osprey_torch.quantize import BLOCK, QuantizedLinear, quantize_linear


def _weight(rows: int = 24, columns: int = 96, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.05, (rows, columns)).astype(np.float32)


def _round_to_nearest(weight: np.ndarray, bits: int) -> np.ndarray:
    """The textbook, scales kept in float32."""
    blocks = weight.reshape(len(weight), -1, BLOCK)
    scale = np.abs(blocks).max(-1, keepdims=True) / (2 ** (bits - 1) - 1)
    return (np.rint(blocks / scale) * scale).reshape(weight.shape)


def _block_errors(weight: np.ndarray, bits: int, method: str) -> np.ndarray:
    """Sum of squared errors of every block."""
    difference = weight - quantize_linear(weight, bits, method).dequantize()
    return (difference**2).reshape(len(weight), -1, BLOCK).sum(-1)


@pytest.mark.parametrize("method", ["rtn", "clip"])
@pytest.mark.parametrize(("bits", "lowest", "highest"), [(4, -8, 7), (8, -128, 127)])
def test_levels_fit_and_scales_are_positive_numbers_of_float16(
    bits: int, lowest: int, highest: int, method: str
) -> None:
    weight = _weight()
    weight[3] = 0.0
    weight[4] *= 1e-30
    weight[5] *= 1e6
    weight[6] = -np.abs(weight[6])
    weight[7] *= 1e-5  # scales that float16 holds with few bits or not at all
    quantized = quantize_linear(weight, bits, method)
    assert quantized.levels.min() >= lowest
    assert quantized.levels.max() <= highest
    assert (quantized.scales > 0).all()
    np.testing.assert_array_equal(quantized.scales.astype(np.float16).astype(np.float32), quantized.scales)
    dequantized = quantized.dequantize()
    np.testing.assert_array_equal(dequantized[3:5], 0.0)
    steps = np.repeat(quantized.scales, BLOCK, axis=1)
    # Rounding costs half a step. What the search clips costs more, and so do weights near float16's smallest numbers.
    bound = np.full((24, 1), 0.502 if method == "rtn" else 6.0)
    bound[7] = 6.0
    assert (np.abs(dequantized - weight) <= bound * steps).all()


def test_rounding_to_nearest_is_the_textbook_s_but_for_scales_in_float16() -> None:
    weight = _weight(seed=5)
    for bits, steps in ((4, 7), (8, 127)):
        found = quantize_linear(weight, bits, "rtn").dequantize()
        exact = _round_to_nearest(weight, bits)
        # float16 moves a scale by 2**-11 of it at most, so few levels change, by one.
        assert np.abs(found - exact).max() <= np.abs(weight).max() / steps * 1.1
        assert np.isclose(found, exact, rtol=2**-11, atol=0).mean() > (0.98 if bits == 4 else 0.9)


@pytest.mark.parametrize("bits", [4, 8])
def test_clip_search_never_loses_to_rounding_to_nearest(bits: int) -> None:
    weight = _weight(64, 128, seed=1)
    plain, searched = _block_errors(weight, bits, "rtn"), _block_errors(weight, bits, "clip")
    assert (searched <= plain * (1 + 1e-4) + 1e-12).all()
    assert searched.sum() < (0.85 if bits == 4 else 0.97) * plain.sum()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("method", ["rtn", "clip"])
def test_quantizing_what_is_quantized_changes_nothing(bits: int, method: str) -> None:
    weight = _weight(256, 192, seed=3)
    weight[:, ::7] *= 4  # blocks of all shapes: with outliers, one-sided, constant
    weight[10] = -np.abs(weight[10])
    weight[11] = 0.01
    weight[12, ::2] = 0.0
    once = quantize_linear(weight, bits, method).dequantize()
    np.testing.assert_array_equal(quantize_linear(once, bits, "clip").dequantize(), once)


def test_weights_settled_on_the_grid_in_training_stay_to_the_precision_of_float16_scales() -> None:
    settled = _round_to_nearest(_weight(64, 192, seed=2), 4)
    np.testing.assert_allclose(quantize_linear(settled).dequantize(), settled, rtol=2**-11, atol=1e-9)


def test_the_result_does_not_depend_on_threads_or_neighboring_rows() -> None:
    weight = _weight(600, 320, seed=6)  # several portions of work
    one = quantize_linear(weight, threads=1)
    many = quantize_linear(weight, threads=5)
    tail = quantize_linear(weight[577:], threads=1)
    np.testing.assert_array_equal(one.levels, many.levels)
    np.testing.assert_array_equal(one.scales, many.scales)
    np.testing.assert_array_equal(one.levels[577:], tail.levels)
    np.testing.assert_array_equal(one.scales[577:], tail.scales)


def test_rows_that_do_not_divide_into_blocks_quantize_as_if_zeros_followed() -> None:
    weight = _weight(8, 40, seed=7)
    padded = quantize_linear(np.pad(weight, ((0, 0), (0, 24))))
    quantized = quantize_linear(weight)
    assert quantized.dequantize().shape == (8, 40)
    np.testing.assert_array_equal(quantized.levels, padded.levels)


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
    ("weight", "bits", "method", "message"),
    [
        (np.zeros((2, 32), np.float32), 3, "clip", "4 or 8"),
        (np.zeros((2, 32), np.float32), 4, "gptq", "gptq"),
        (np.zeros(32, np.float32), 4, "clip", "layer 7: .*two dimensions"),
        (np.full((2, 32), np.nan, np.float32), 4, "rtn", "layer 7 .*not finite"),
        (np.full((2, 32), -np.inf, np.float32), 4, "clip", "layer 7 .*not finite"),
        (np.full((2000, 320), 1e30, np.float32), 4, "clip", "layer 7 .*1e\\+30.*float16"),
    ],
)
def test_what_cannot_be_quantized_is_said(weight: np.ndarray, bits: int, method: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        quantize_linear(weight, bits, method, name="layer 7")
