"""Exports a segmenter of PyTorch to two ONNX graphs, `segmenter_encoder` and `segmenter_decoder`.

The tracing exporter of PyTorch writes them: the lengths P (prompts) and N (points of a prompt) stay free. Names of
nodes keep the path of the module that they come from, by which `export.half_blocks` finds blocks.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from osprey_ros.segmenter.spec import DECODER, ENCODER, OBJECTNESS
from osprey_torch.onnx_graph import OPSET
from osprey_torch.segmenter_model import SegmenterModel

DECODER_OUTPUTS = ("mask_logits", "iou_scores")
_PROMPTS = ("point_coords", "point_labels")
# Axes of any length, by their names in the graphs.
_FREE = {**{name: {0: "P", 1: "N"} for name in _PROMPTS}, **{name: {0: "P"} for name in DECODER_OUTPUTS}}
# From this number of bytes on, weights are in a file beside the graph. protobuf ends at 2 GiB.
_EXTERNAL_FROM = 1 << 30


class _Encoder(nn.Module):
    def __init__(self, segmenter: SegmenterModel) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.segmenter.encode(image).values())


class _Decoder(nn.Module):
    def __init__(self, segmenter: SegmenterModel) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        *features, coords, labels = inputs
        return self.segmenter.decode(dict(zip(self.segmenter.features, features, strict=True)), coords, labels)


def trace_graphs(segmenter: SegmenterModel, folder: Path) -> dict[str, onnx.ModelProto]:
    """Return the float32 graphs by their roles. Weights pass through files in `folder`, which are removed."""
    height, width = segmenter.spec.input_size
    image = torch.zeros(1, 3, height, width)
    with torch.no_grad():
        encoded = segmenter.encode(image)
    names = [*segmenter.features, *([OBJECTNESS] if OBJECTNESS in encoded else [])]
    if list(encoded) != names:
        raise ValueError(f"encode gives {', '.join(encoded)} instead of {', '.join(names)}")
    coords, labels = torch.full((2, 3, 2), width / 2.0), torch.ones(2, 3, dtype=torch.int64)
    features = {name: encoded[name] for name in segmenter.features}
    with torch.no_grad():
        decoded = dict(zip(DECODER_OUTPUTS, segmenter.decode(features, coords, labels), strict=True))
    prompts = dict(zip(_PROMPTS, (coords, labels), strict=True))
    return {
        ENCODER: _trace(_Encoder(segmenter), {"image": image}, encoded, folder),
        DECODER: _trace(_Decoder(segmenter), {**features, **prompts}, decoded, folder),
    }


def _trace(
    module: nn.Module, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], folder: Path
) -> onnx.ModelProto:
    """Return the graph of a module. inputs, outputs: by name, examples of their shapes."""
    path = folder / "traced" / "graph.onnx"  # large models are traced into many files
    path.parent.mkdir()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Shapes of this model are fixed where the trace fixes them; and PyTorch advertises its other exporter,
            # which needs one more package.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                path,
                dynamo=False,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes={name: axes for name, axes in _FREE.items() if name in inputs or name in outputs},
            )
        model = onnx.load(path)
    finally:
        shutil.rmtree(path.parent)
    for value in model.graph.output:  # the exporter does not know all lengths
        shape: list[int | str] = list(outputs[value.name].shape)
        for axis, name in _FREE.get(value.name, {}).items():
            shape[axis] = name
        value.CopyFrom(helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, shape))
    return model


def save_graph(model: onnx.ModelProto, path: Path) -> list[Path]:
    """Write a graph after onnx's checker has accepted it, and return its files: weights of large graphs lie beside it.

    The model is not used afterwards.
    """
    model.producer_name = "osprey_ros"
    data = path.with_name(f"{path.stem}.data")
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) >= _EXTERNAL_FROM
    external: dict[str, Any] = {"save_as_external_data": True, "location": data.name} if large else {}
    onnx.save_model(model, path, **external)
    onnx.checker.check_model(path)
    return [path, data] if large else [path]
