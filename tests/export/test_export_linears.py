"""Linears of the decoder: one quantization in two spellings, stored in files that several graphs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from checkpoint_linears import Linears, decode
from onnx import TensorProto

from export.linears import (
    DecoderPrecision,
    StoredLinears,
    encode,
)
from osprey_ros.errors import BundleError, InputError
from osprey_torch.onnx_graph import GraphBuilder
from osprey_torch.quantize import quantize_linear
from osprey_torch.stored_linears import quantized_linear, stored_members, stored_name
from osprey_torch.weight_files import WeightFile, index_of_graph, load, read_index, write_index

IN, OUT = 64, 24
LAYERS = ["layers.0.q_proj", "layers.0.k_proj"]


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"{layer}.weight": rng.standard_normal((OUT, IN)).astype(np.float32) for layer in LAYERS}


def write_graph(path: Path, add: Callable[[GraphBuilder], str], half: bool = False) -> None:
    graph = GraphBuilder("linears", half=half)
    graph.input("states", ["S", IN], graph.onnx_type)
    add(graph)
    graph.output("product", ["S", 2 * OUT], graph.onnx_type)
    graph.save(path)


def run(path: Path, states: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"states": states})[0]


@pytest.mark.parametrize(
    ("kind", "dialect"),
    [*((kind, "onnxruntime") for kind in ("int4", "int8", "fp16", "fp32")), ("int4", "tensorrt"), ("fp16", "tensorrt")],
)
def test_every_precision_multiplies_with_the_weight_that_reads_back(
    weights: dict[str, np.ndarray], tmp_path: Path, kind: str, dialect: str
) -> None:
    precision = DecoderPrecision(llm=kind, dialect=dialect)
    linears = Linears(weights.__getitem__, precision)
    write_graph(tmp_path / "graph.onnx", lambda graph: linears.add(graph, "states", LAYERS, "product"))
    states = np.random.default_rng(1).standard_normal((5, IN)).astype(np.float32)
    stored = decode(encode(weights.__getitem__, LAYERS, precision))
    assert stored.shape == (2 * OUT, IN)
    product = run(tmp_path / "graph.onnx", states)
    # onnxruntime may multiply 4 and 8-bit weights with states rounded to int8.
    tolerance = 0.02 if kind.startswith("int") else 1e-5
    np.testing.assert_allclose(product, states @ stored.T, atol=tolerance * np.abs(product).max())
    original = np.concatenate([weights[f"{layer}.weight"] for layer in LAYERS])
    assert np.abs(stored - original).max() <= {"int4": 0.6, "int8": 0.02, "fp16": 2e-3, "fp32": 0}[kind]


@pytest.mark.parametrize("method", ["rtn", "clip"])
def test_both_spellings_hold_the_quantizers_levels_and_scales(weights: dict[str, np.ndarray], method: str) -> None:
    for dialect, block in (("onnxruntime", 32), ("tensorrt", 64)):
        precision = DecoderPrecision(dialect=dialect, method=method)
        quantized = quantized_linear(encode(weights.__getitem__, LAYERS, precision))
        one = [quantize_linear(weights[f"{layer}.weight"], 4, method, block=block) for layer in LAYERS]
        assert quantized.levels.shape[2] == block
        np.testing.assert_array_equal(quantized.levels, np.concatenate([q.levels for q in one]))
        np.testing.assert_array_equal(quantized.scales, np.concatenate([q.scales for q in one]))
        assert (quantized.in_features, quantized.bits) == (IN, 4)
        assert quantized.levels.min() < 0 < quantized.levels.max()
        assert (quantized.scales > 0).all()


def test_the_spelling_for_tensorrt_has_what_its_parser_documents(
    weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    linears = Linears(weights.__getitem__, DecoderPrecision(dialect="tensorrt", half=True))
    write_graph(tmp_path / "g.onnx", lambda graph: linears.add(graph, "states", LAYERS, "product"), half=True)
    model = onnx.load(tmp_path / "g.onnx")
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear", "MatMul"]
    dequantize, product = model.graph.node
    assert {a.name: a.i for a in dequantize.attribute} == {"axis": 0, "block_size": 64}
    assert len(dequantize.input) == 2  # no zero point
    levels, scales = model.graph.initializer
    assert (levels.data_type, list(levels.dims)) == (TensorProto.INT4, [IN, 2 * OUT])
    assert (scales.data_type, list(scales.dims)) == (TensorProto.FLOAT16, [IN // 64, 2 * OUT])
    assert (onnx.numpy_helper.to_array(scales) > 0).all()
    assert list(product.input) == ["states", dequantize.output[0]]
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 21}


@pytest.mark.parametrize("kind", ["int4", "int8", "fp16"])
def test_half_graphs_give_matmulnbits_half_scales(weights: dict[str, np.ndarray], tmp_path: Path, kind: str) -> None:
    precision = DecoderPrecision(llm=kind, half=True)
    linears = Linears(weights.__getitem__, precision)
    write_graph(tmp_path / "g.onnx", lambda graph: linears.add(graph, "states", LAYERS, "product"), half=True)
    assert "Cast" not in {node.op_type for node in onnx.load(tmp_path / "g.onnx").graph.node}
    states = np.random.default_rng(1).standard_normal((3, IN)).astype(np.float16)
    product = run(tmp_path / "g.onnx", states)
    assert product.dtype == np.float16
    expected = states.astype(np.float32) @ decode(encode(weights.__getitem__, LAYERS, precision)).T
    np.testing.assert_allclose(product, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("dialect", ["onnxruntime", "tensorrt"])
def test_stored_weights_serve_several_graphs_without_being_read(
    weights: dict[str, np.ndarray], tmp_path: Path, dialect: str
) -> None:
    precision = DecoderPrecision(dialect=dialect)
    norm = np.linspace(0.5, 2, IN, dtype=np.float32)
    with WeightFile(tmp_path / "weights.data") as file:
        for part, tensor in encode(weights.__getitem__, LAYERS, precision).items():
            file.add(f"{stored_name(LAYERS)}.{part}", tensor)
        file.add("norm.weight", norm)
    write_index(tmp_path / "index.json", file.index)
    index = read_index(tmp_path / "index.json")
    assert index == file.index

    def add(linears: Linears | StoredLinears) -> Callable[[GraphBuilder], str]:
        def build(graph: GraphBuilder) -> str:
            scaled = graph.node("Mul", ["states", linears.vector(graph, "norm.weight")], "scaled")
            return linears.add(graph, scaled, LAYERS, "product")

        return build

    read = {**weights, "norm.weight": norm}.__getitem__
    write_graph(tmp_path / "direct.onnx", add(Linears(read, precision)))
    write_graph(tmp_path / "inside.onnx", add(StoredLinears(index, precision, inline=tmp_path)))
    for name in ("one.onnx", "two.onnx"):
        write_graph(tmp_path / name, add(StoredLinears(index, precision)))
        assert (tmp_path / name).stat().st_size < 2000
    assert index_of_graph(tmp_path / "one.onnx") == index
    states = np.random.default_rng(1).standard_normal((5, IN)).astype(np.float32)
    expected = run(tmp_path / "direct.onnx", states)
    for name in ("inside.onnx", "one.onnx", "two.onnx"):
        np.testing.assert_array_equal(run(tmp_path / name, states), expected)


def test_weights_that_are_not_stored_are_named(tmp_path: Path) -> None:
    graph = GraphBuilder("linears")
    linears = StoredLinears({}, DecoderPrecision())
    with pytest.raises(ValueError, match=r"hold no layers\.0\.q_proj\+k_proj\.levels"):
        linears.add(graph, "states", LAYERS, "product")


def test_stored_names_tell_their_members() -> None:
    assert stored_members(stored_name(LAYERS)) == LAYERS
    assert stored_members(stored_name(["lm_head"])) == ["lm_head"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lm_head": "int8", "dialect": "tensorrt"}, "lm_head int8: TensorRT"),
        ({"llm": "fp32", "half": True}, "llm fp32: this decoder computes in fp16"),
    ],
)
def test_impossible_precisions_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DecoderPrecision(**options)


def test_widths_that_cannot_be_stored_are_named(weights: dict[str, np.ndarray]) -> None:
    narrow = {"a.weight": np.ones((8, 40), np.float32)}
    with pytest.raises(InputError, match="a has 40 inputs, not a multiple of the block size 32"):
        encode(narrow.__getitem__, ["a"], DecoderPrecision())
    odd = {"a.weight": np.ones((7, 64), np.float32)}
    with pytest.raises(InputError, match="7 outputs"):
        encode(odd.__getitem__, ["a"], DecoderPrecision(dialect="tensorrt"))
    large = {"a.weight": np.full((8, 32), 1e5, np.float32)}
    with pytest.raises(InputError, match="a has values beyond float16"):
        encode(large.__getitem__, ["a"], DecoderPrecision(llm="fp16"))


def test_a_weight_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    with WeightFile(tmp_path / "w.data") as file:
        file.add("a", np.arange(2000))
        with pytest.raises(ValueError, match="has a tensor a already"):
            file.add("a", np.arange(3))
    (tmp_path / "w.data").write_bytes((tmp_path / "w.data").read_bytes()[:-8])
    with pytest.raises(BundleError, match=r"w\.data is cut off"):
        load(file.index["a"], tmp_path)
