"""A segmenter whose masks are known: the pixels that have the color of the click, or those inside a box.

Its engines are small graphs, which onnxruntime runs. Candidates of a prompt, in the order of the outputs: the same mask
with weak logits (score 0.6), the mask (0.95), the whole image (0.3).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from osprey_ros.segmenter.bundle import write_segmenter_manifest
from osprey_ros.segmenter.spec import DECODER, ENCODER, EverythingSpec, SegmenterSpec

STRIDE, CELL = 4, 8  # pixels of the input for one of a mask, and for one cell of the objectness
WEAK, EXACT, WHOLE = 0.6, 0.95, 0.3
SPEC = SegmenterSpec(
    family="color",
    input_size=(96, 128),
    resize="stretch",
    interpolation="area",
    image_mean=(0.0, 0.0, 0.0),
    image_std=(1.0, 1.0, 1.0),
    everything=EverythingSpec(points_per_side=16, point_spacing=16, batch=32, min_score=0.5, min_area=16),
)
_Shape: TypeAlias = list[int | str | None]


class _Graph:
    """Adds nodes one after another."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def const(self, value: object, dtype: type = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def save(
        self,
        path: Path,
        inputs: dict[str, tuple[int, list[int | str | None]]],
        outputs: dict[str, _Shape],
    ) -> None:
        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model)
        onnx.save(model, path)


def _encoder(path: Path, size: tuple[int, int], objectness: bool) -> None:
    height, width = size
    graph = _Graph()
    graph.op("AveragePool", "image", name="image_embeddings", kernel_shape=[STRIDE] * 2, strides=[STRIDE] * 2)
    outputs: dict[str, _Shape] = {"image_embeddings": [1, 3, height // STRIDE, width // STRIDE]}
    if objectness:  # of colored pixels; black is background
        cells = graph.op("AveragePool", "image", kernel_shape=[CELL] * 2, strides=[CELL] * 2)
        total = graph.op("ReduceSum", cells, graph.const([1], np.int64), keepdims=1)
        graph.op("Clip", total, graph.const(0), graph.const(1), name="objectness")
        outputs["objectness"] = [1, 1, height // CELL, width // CELL]
    graph.save(path, {"image": (TensorProto.FLOAT, [1, 3, height, width])}, outputs)


def _decoder(path: Path, size: tuple[int, int], points: int | str) -> None:
    height, width = size
    rows, columns = height // STRIDE, width // STRIDE
    graph = _Graph()
    op, const = graph.op, graph.const
    grid = op("Sub", op("Mul", "point_coords", const([2 / width, 2 / height])), const(1))
    grid = op("Unsqueeze", grid, const([0], np.int64))  # [1, P, N, 2]
    color = op("GridSample", "image_embeddings", grid, mode="nearest", padding_mode="border")  # [1, 3, P, N]
    color = op("Unsqueeze", op("Transpose", color, perm=[2, 3, 1, 0]), const([4], np.int64))  # [P, N, 3, 1, 1]
    squares = op("Mul", *[op("Sub", "image_embeddings", color)] * 2)
    same = op("Sub", const(0.01), op("ReduceSum", squares, const([2], np.int64), keepdims=0))  # [P, N, h, w]

    def labeled(label: int) -> str:  # bool [P, N, 1, 1]
        return op("Unsqueeze", op("Equal", "point_labels", const(label, np.int64)), const([2, 3], np.int64))

    def best(label: int) -> str:  # of the points with a label, [P, h, w]
        chosen = op("Where", labeled(label), same, const(-1e3))
        return op("ReduceMax", chosen, const([1], np.int64), keepdims=0)

    def any_labeled(label: int) -> str:  # bool [P, 1, 1]
        count = op("ReduceSum", op("Cast", labeled(label), to=TensorProto.FLOAT), const([1], np.int64), keepdims=0)
        return op("Greater", count, const(0))

    def corner(label: int, axis: int) -> str:  # [P, 1, 1]
        along = op("Gather", "point_coords", const(axis, np.int64), axis=2)
        along = op("Unsqueeze", along, const([2, 3], np.int64))
        return op("ReduceSum", op("Where", labeled(label), along, const(0)), const([1], np.int64), keepdims=0)

    x = const((np.arange(columns) + 0.5)[None, None] * STRIDE)
    y = const((np.arange(rows) + 0.5)[None, :, None] * STRIDE)
    sides = [
        op("Sub", x, corner(2, 0)),
        op("Sub", corner(3, 0), x),
        op("Sub", y, corner(2, 1)),
        op("Sub", corner(3, 1), y),
    ]
    inside = op("Where", any_labeled(2), op("Min", *sides), const(1e3))
    clicked = op("Where", any_labeled(1), best(1), const(1e3))
    mask = op("Greater", op("Min", clicked, inside, op("Neg", best(0))), const(0))  # [P, h, w]
    strong = op("Where", mask, const(4), const(-4))
    whole = op("Add", op("Mul", strong, const(0)), const(4))
    candidates = [op("Unsqueeze", one, const([1], np.int64)) for one in (op("Mul", strong, const(0.1)), strong, whole)]
    op("Concat", *candidates, axis=1, name="mask_logits")
    first = op("ReduceMax", op("Mul", "point_coords", const(0)), const([1], np.int64), keepdims=0)  # zeros [P, 2]
    first = op("Slice", first, const([0], np.int64), const([1], np.int64), const([1], np.int64))
    op("Add", first, const([[WEAK, EXACT, WHOLE]]), name="iou_scores")
    graph.save(
        path,
        {
            "image_embeddings": (TensorProto.FLOAT, [1, 3, rows, columns]),
            "point_coords": (TensorProto.FLOAT, ["P", points, 2]),
            "point_labels": (TensorProto.INT64, ["P", points]),
        },
        {"mask_logits": ["P", 3, rows, columns], "iou_scores": ["P", 3]},
    )


def write_bundle(folder: Path, spec: SegmenterSpec = SPEC, objectness: bool = False) -> Path:
    """Write the bundle of a segmenter with these settings and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _encoder(folder / f"{ENCODER}.onnx", spec.input_size, objectness)
    _decoder(folder / f"{DECODER}.onnx", spec.input_size, spec.max_points or "N")
    write_segmenter_manifest(folder, name=folder.name, model=spec, precisions={}, verification={"verified": True})
    return folder


def with_everything(spec: SegmenterSpec = SPEC, **changes: Any) -> SegmenterSpec:
    """Return settings with another everything mode."""
    return replace(spec, everything=replace(spec.everything, **changes))
