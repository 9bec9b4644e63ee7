"""Float16 block by block: what fits and keeps the masks computes in float16, and the rest stays in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from segmenter_checkpoints import FAMILIES, sample_images, tiny_model, write_tiny

from export.half_blocks import block_of, half_blocks, rounded_blocks
from export.segmenter_build import SegmenterOptions, build_segmenter
from export.segmenter_precision import LARGEST_ACTIVATION
from export.traced_segmenter import save_graph, trace_graphs
from osprey_ros.engines.base import load_engine
from osprey_ros.errors import InputError
from osprey_ros.segmenter.spec import DECODER, ENCODER
from osprey_torch.segmenters import open_segmenter

GPU = SegmenterOptions(device="cuda")  # fp16 by default; built here, and not run


def _products(graph: onnx.ModelProto, blocks: tuple[str, ...]) -> dict[str, set[int]]:
    """Return the types in which the matrix products and convolutions of each block compute."""
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    found: dict[str, set[int]] = {}
    for node in inferred.node:
        block = block_of(node, blocks)
        if block is not None and node.op_type in ("MatMul", "Conv", "ConvTranspose", "Gemm"):
            found.setdefault(block, set()).add(types.get(node.output[0], TensorProto.FLOAT))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_all_blocks_of_a_tame_model_compute_in_half(family: str, tmp_path: Path) -> None:
    checkpoint = write_tiny(tmp_path / "checkpoint", tiny_model(family))
    manifest = build_segmenter(checkpoint, tmp_path / "bundle", verify=False, options=GPU, samples=sample_images())
    blocks = manifest.verification["blocks"]
    assert {one["precision"] for one in blocks.values()} == {"fp16"}
    assert all(0 < one["largest"] < LARGEST_ACTIVATION for one in blocks.values())
    assert manifest.precisions == {ENCODER: "fp16", DECODER: "fp16"}
    names = open_segmenter(checkpoint).blocks
    for role in (ENCODER, DECODER):
        products = _products(onnx.load(tmp_path / "bundle" / f"{role}.onnx"), names)
        assert products
        assert all(kinds == {TensorProto.FLOAT16} for kinds in products.values())


def test_blocks_that_overflow_stay_in_float32(tmp_path: Path) -> None:
    model = tiny_model("sam")
    layer, decoder = model.vision_encoder.layers[1].mlp, model.mask_decoder.transformer.layers[0].mlp
    with torch.no_grad():
        for block, scale in ((layer, 1e5), (decoder, 1e6)):
            block.lin1.weight.mul_(scale)
            block.lin1.bias.mul_(scale)
            block.lin2.weight.div_(scale)
    checkpoint = write_tiny(tmp_path / "checkpoint", model)
    output = tmp_path / "bundle"
    manifest = build_segmenter(checkpoint, output, verify=False, options=GPU, samples=sample_images())
    blocks = manifest.verification["blocks"]
    kept = {"vision_encoder/layers.1", "mask_decoder/transformer/layers.0"}
    assert {block for block, one in blocks.items() if one["precision"] == "fp32"} == kept
    for block in kept:
        assert blocks[block]["largest"] > LARGEST_ACTIVATION
        assert blocks[block]["reason"] in ("activations", "weights")
        assert f"{block} | fp32" in (output / "report.md").read_text()
    assert manifest.precisions[ENCODER] == "fp16, but fp32 in vision_encoder/layers.1"
    names = open_segmenter(checkpoint).blocks
    for role in (ENCODER, DECODER):
        for block, kinds in _products(onnx.load(output / f"{role}.onnx"), names).items():
            assert kinds == {TensorProto.FLOAT if block in kept else TensorProto.FLOAT16}


def test_blocks_that_change_the_masks_stay_in_float32(tmp_path: Path) -> None:
    model = tiny_model("sam")
    block = model.vision_encoder.layers[0].mlp
    with torch.no_grad():  # the hidden values nearly cancel: float16 leaves only their rounding
        block.lin1.weight.mul_(1e-2)
        block.lin1.bias.fill_(1e3)
        block.lin2.weight[:, ::2] = 30.0
        block.lin2.weight[:, 1::2] = -30.0
    checkpoint = write_tiny(tmp_path / "checkpoint", model)
    manifest = build_segmenter(checkpoint, tmp_path / "bundle", verify=False, options=GPU, samples=sample_images())
    one = manifest.verification["blocks"]["vision_encoder/layers.0"]
    assert one["largest"] < LARGEST_ACTIVATION
    assert (one["precision"], one["reason"]) == ("fp32", "masks")


def test_rounding_on_the_cpu_is_that_of_float16(tmp_path: Path) -> None:
    segmenter = open_segmenter(write_tiny(tmp_path / "checkpoint", tiny_model("sam")))
    graph = trace_graphs(segmenter, tmp_path)[ENCODER]
    image = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    found = {}
    for name, one in {
        "exact": graph,
        "rounded": rounded_blocks(graph, segmenter.blocks, segmenter.blocks),
        "half": half_blocks(graph, segmenter.blocks, segmenter.blocks),
        "none": half_blocks(graph, segmenter.blocks, ()),
    }.items():
        path = save_graph(one, tmp_path / f"{name}.onnx")[0]
        found[name] = load_engine(path).run({"image": image})["image_embeddings"]
    scale = np.abs(found["exact"]).max()
    differences = {name: float(np.abs(value - found["exact"]).max() / scale) for name, value in found.items()}
    assert differences["none"] < 1e-5
    assert 1e-4 < differences["rounded"] < 0.02
    assert differences["half"] < 0.02


def test_a_model_whose_numbers_are_not_finite_is_refused(tmp_path: Path) -> None:
    model = tiny_model("sam")
    with torch.no_grad():
        model.vision_encoder.layers[1].mlp.lin1.weight[0, 0] = float("nan")
    checkpoint = write_tiny(tmp_path / "checkpoint", model)
    with pytest.raises(InputError, match=r"vision_encoder/layers\.1 has activations that are not finite"):
        build_segmenter(checkpoint, tmp_path / "bundle", verify=False, options=GPU, samples=sample_images())
