"""Every graph for TensorRT uses operators that the ONNX parsers of its versions 10.3 to 11 document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from checkpoint_linears import Linears
from onnx import TensorProto
from tiny import TINY

from export.graph_crop import build_crop
from export.graph_decoder import DecoderShape, build_decoder
from export.graph_mask_extractor import build_mask_extractor
from export.graph_vision import build_vision
from export.linears import DecoderPrecision
from export.plans import decoder_profiles
from export.tensorrt_plan import crop_profiles, mask_extractor_profiles, profile_shapes

CONFIG = replace(TINY.with_vocabulary(40), hidden_size=128, intermediate_size=192, crop_size=32)
# docs/operators.md of onnx/onnx-tensorrt, what its releases 10.1 to 11.1 have in common, as far as we need it.
OPERATORS = {
    *("Add", "ArgMax", "Cast", "Concat", "Conv", "DequantizeLinear", "Div", "Erf", "Gather", "Identity"),
    *("LayerNormalization", "LogSoftmax", "MatMul", "Mul", "Neg", "Pow", "ReduceMax", "ReduceMean", "ReduceSum"),
    *("Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Sub", "Sum", "Transpose"),
    "Unsqueeze",
}


@pytest.fixture(scope="module")
def read() -> Callable[[str], np.ndarray]:
    import torch

    from osprey_torch.model import Osprey

    torch.manual_seed(0)
    state = Osprey(CONFIG).eval().state_dict()
    return lambda name: state[name].numpy()


def _check(path: Path) -> onnx.ModelProto:
    """Assert that the graph has documented operators with constant kernels, blocks and axes."""
    model = onnx.load(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        assert node.op_type in OPERATORS, node.op_type
        assert node.domain == "", node.name
        if node.op_type in ("Conv", "ReduceMax", "ReduceMean", "ReduceSum", "Split", "Unsqueeze"):
            assert all(name in weights for name in node.input[1:]), f"{node.name}: inputs must be initializers"
        if node.op_type == "DequantizeLinear":
            levels, scales = (weights[name] for name in node.input[:2])
            attributes = {attribute.name: attribute.i for attribute in node.attribute}
            assert levels.data_type == TensorProto.INT4
            assert levels.dims[-1] % 2 == 0
            assert attributes["block_size"] == levels.dims[0] / scales.dims[0] == 64  # 64 and 128 are allowed
            assert (onnx.numpy_helper.to_array(scales) > 0).all()
    return model


@pytest.mark.parametrize("half_compute", [False, True])
def test_vision_mask_extractor_and_crops(read: Callable[[str], np.ndarray], tmp_path: Path, half_compute: bool) -> None:
    engines = {"vision": build_vision, "mask_extractor": build_mask_extractor, "crop": build_crop}
    for name, build in engines.items():
        path = tmp_path / f"{name}.onnx"
        build(CONFIG, read, path, half_compute=half_compute)
        stored = {tensor.data_type for tensor in _check(path).graph.initializer}
        assert (TensorProto.FLOAT16 in stored) == half_compute
    shapes = profile_shapes(tmp_path / "mask_extractor.onnx", mask_extractor_profiles(8)[0])
    assert shapes["mask_res2"] == ((1, 16, 16), (8, 16, 16), (8, 16, 16))
    assert set(shapes) == {"mask_res2", "mask_res3", "mask_res4", "mask_res5", "position"}
    shapes = profile_shapes(tmp_path / "crop.onnx", crop_profiles(64)[0])
    assert shapes["pixels"] == ((1, 3, 32, 32), (4, 3, 32, 32), (16, 3, 32, 32))
    assert set(shapes) == {"mask_res2", "mask_res3", "mask_res4", "mask_res5", "pixels"}


@pytest.mark.parametrize("llm", ["fp16", "int4"])
def test_decoder(read: Callable[[str], np.ndarray], tmp_path: Path, llm: str) -> None:
    path = tmp_path / "decoder.onnx"
    precision = DecoderPrecision(llm, "fp16", method="rtn", dialect="tensorrt", half=True)
    build_decoder(DecoderShape.of(CONFIG), Linears(read, precision), path)
    inputs = {value.name for value in _check(path).graph.input}
    for profile in decoder_profiles(CONFIG, max_regions=8):
        assert set(profile_shapes(path, profile)) == inputs
