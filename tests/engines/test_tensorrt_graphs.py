"""Every graph that is exported for TensorRT keeps to what the parsers of all versions document (tensorrt_operators)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from tensorrt_operators import violations
from tiny import TINY

from export.graph_decoder import DecoderShape, build_decoder
from export.graph_mask_extractor import build_mask_extractor
from export.graph_vision import build_vision
from export.linears import DecoderPrecision, Linears
from export.plans import decoder_profiles
from export.tensorrt_plan import mask_extractor_profiles, profile_shapes
from osprey_torch.onnx_graph import MICROSOFT, GraphBuilder

CONFIG = replace(TINY.with_vocabulary(40), hidden_size=128, intermediate_size=192)


@pytest.fixture(scope="module")
def read() -> Callable[[str], np.ndarray]:
    import torch

    from osprey_torch.model import Osprey

    torch.manual_seed(0)
    state = Osprey(CONFIG).eval().state_dict()
    return lambda name: state[name].numpy()


def _decoder(read: Callable[[str], np.ndarray], path: Path, llm: str) -> Path:
    precision = DecoderPrecision(llm, "fp16", method="rtn", dialect="tensorrt", half=True)
    build_decoder(DecoderShape.of(CONFIG), Linears(read, precision), path)
    return path


@pytest.mark.parametrize("half_compute", [False, True])
def test_vision_and_mask_extractor(read: Callable[[str], np.ndarray], tmp_path: Path, half_compute: bool) -> None:
    for name, build in (("vision", build_vision), ("mask_extractor", build_mask_extractor)):
        path = tmp_path / f"{name}.onnx"
        build(CONFIG, read, path, half_compute=half_compute)
        assert violations(path) == []
        stored = {w.data_type for w in onnx.load(path).graph.initializer}
        assert (TensorProto.FLOAT16 in stored) == half_compute
    shapes = profile_shapes(tmp_path / "mask_extractor.onnx", mask_extractor_profiles(8)[0])
    assert shapes["mask_res2"] == ((1, 16, 16), (8, 16, 16), (8, 16, 16))
    assert set(shapes) == {"mask_res2", "mask_res3", "mask_res4", "mask_res5", "position"}


def test_float16_storage_alone_is_not_for_tensorrt(read: Callable[[str], np.ndarray], tmp_path: Path) -> None:
    """The kernel of a convolution would come out of a Cast, for which TensorRT has slower ways, if any."""
    build_vision(CONFIG, read, tmp_path / "vision.onnx", half=True)
    assert any("input 1 must be an initializer" in line for line in violations(tmp_path / "vision.onnx"))


def test_float16_decoder(read: Callable[[str], np.ndarray], tmp_path: Path) -> None:
    path = _decoder(read, tmp_path / "decoder.onnx", "fp16")
    assert violations(path) == []
    for profile in decoder_profiles(CONFIG, max_regions=8):
        shapes = profile_shapes(path, profile)
        assert set(shapes) == {value.name for value in onnx.load(path).graph.input}
        for least, usual, greatest in shapes.values():
            assert all(0 <= a <= b <= c for a, b, c in zip(least, usual, greatest, strict=True))


def test_int4_decoder(read: Callable[[str], np.ndarray], tmp_path: Path) -> None:
    path = _decoder(read, tmp_path / "decoder.onnx", "int4")
    assert {o.version for o in onnx.load(path).opset_import} == {21}
    assert violations(path) == []


def _toy(tmp_path: Path, fill: Callable[[GraphBuilder], str], dtype: int = TensorProto.FLOAT) -> list[str]:
    graph = GraphBuilder("toy")
    graph.input("x", ["S", 128])
    graph.input("n", [2], TensorProto.INT64)
    graph.output(fill(graph), ["a", "b"], dtype)
    graph.save(tmp_path / "toy.onnx")
    return violations(tmp_path / "toy.onnx")


def _dequantize(block: int, sign: float = 1.0) -> Callable[[GraphBuilder], str]:
    def fill(graph: GraphBuilder) -> str:
        from osprey_torch.weight_files import Tensor

        graph.require_opset(21)
        levels = graph.tensor("levels", Tensor(np.zeros(128 * 2, np.uint8), TensorProto.INT4, (128, 4)))
        scales = graph.weight("scales", sign * np.ones((128 // block, 4), np.float32))
        matrix = graph.node("DequantizeLinear", [levels, scales], "matrix", axis=0, block_size=block)
        return graph.node("MatMul", ["x", matrix], "y")

    return fill


@pytest.mark.parametrize(
    ("fill", "found"),
    [
        (lambda g: g.node("Tan", ["x"], "y"), ["Tan y: is in no parser's table"]),
        (lambda g: g.node("FastGelu", ["x"], "y", domain=MICROSOFT), ["FastGelu y: is in no parser's table"]),
        (lambda g: g.split_node("Split", ["x", "n"], ["y", "z"], axis=1)[0], ["Split y: input 1 must be an init"]),
        (
            lambda g: g.cast(g.cast("x", "wide", np.float64), "y", np.float32),
            ["Cast wide: output is DOUBLE", "Cast y: input 0 is DOUBLE"],
        ),
        (_dequantize(64), []),
        (_dequantize(32), ["DequantizeLinear matrix: blocks of 32, not of 64 or 128"]),
        (_dequantize(128, -1.0), ["DequantizeLinear matrix: scales must be positive"]),
    ],
)
def test_what_the_table_does_not_have_is_found(
    tmp_path: Path, fill: Callable[[GraphBuilder], str], found: list[str]
) -> None:
    actual = _toy(tmp_path, fill)
    assert len(actual) == len(found)
    for line, expected in zip(actual, found, strict=True):
        assert line.startswith(expected)
