"""Builds the graphs of `osprey_torch.small_segmenter`: its encoder, and its decoder for any number of prompts.

image [1, 3, H, W] -> image_embeddings [1, C, H / 8, W / 8], high_res_features_0 [1, F, H / 4, W / 4],
    objectness [1, 1, H / 8, W / 8]
image_embeddings, high_res_features_0, point_coords [P, N, 2], point_labels [P, N]
 -> mask_logits [P, 3, H / 4, W / 4], iou_scores [P, 3]

All numbers are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import nn

from osprey_ros.segmenter.spec import BACKGROUND, BOTTOM_RIGHT, DECODER, ENCODER, OBJECT, OBJECTNESS, TOP_LEFT
from osprey_torch.onnx_graph import GraphBuilder, linear
from osprey_torch.segmenter_model import SegmenterModel
from osprey_torch.small_segmenter import (
    CANDIDATES,
    COARSE_STRIDE,
    FEATURE_SCALE,
    MIN_HALF_SIDE,
    NORM_EPS,
    POINT_SCALE,
    REACH,
    STRIDE,
    SURE,
    Block,
    Mix,
    SmallSegmenter,
    SmallSegmenterModel,
)


def build_tower(model: SmallSegmenter, path: Path) -> None:
    """Write a graph of the tower alone: image -> its four maps, level4 to level32."""
    graph = _Layers("segmenter_tower", model)
    maps = graph.tower(graph.image())
    for name, states in zip(("level4", "level8", "level16", "level32"), maps, strict=True):
        graph.named(states, name, [1, "C", "h", "w"])
    graph.save(path)


def build_small_segmenter(model: SegmenterModel, folder: Path) -> dict[str, onnx.ModelProto]:
    """Return the graphs of a `SmallSegmenterModel` by their roles; `folder`: for files that are removed."""
    assert isinstance(model, SmallSegmenterModel)
    graphs = {}
    for role, build in ((ENCODER, build_segmenter_encoder), (DECODER, build_segmenter_decoder)):
        path = folder / f"{role}.onnx"
        build(model.model, path)
        graphs[role] = onnx.load(path)
        path.unlink()
    return graphs


def build_segmenter_encoder(model: SmallSegmenter, path: Path) -> None:
    """Write the graph of the encoder to `path`."""
    config = model.config
    graph = _Layers("segmenter_encoder", model)
    image = graph.image()
    coarse, fine, objectness = graph.neck(image, graph.tower(image))
    height, width = config.height // COARSE_STRIDE, config.width // COARSE_STRIDE
    graph.named(coarse, "image_embeddings", [1, config.coarse_channels, height, width])
    graph.named(fine, "high_res_features_0", [1, config.fine_channels, config.height // STRIDE, config.width // STRIDE])
    graph.named(graph.op("Sigmoid", objectness), OBJECTNESS, [1, 1, height, width])
    graph.save(path)


def build_segmenter_decoder(model: SmallSegmenter, path: Path) -> None:
    """Write the graph of the decoder to `path`; the numbers of prompts and of their points are free."""
    config = model.config
    layers = _Layers("segmenter_decoder", model)
    graph = layers.graph
    height, width = config.height // COARSE_STRIDE, config.width // COARSE_STRIDE
    fine_size = (config.height // STRIDE, config.width // STRIDE)
    coarse = graph.input("image_embeddings", [1, config.coarse_channels, height, width])
    fine = graph.input("high_res_features_0", [1, config.fine_channels, *fine_size])
    coords = graph.input("point_coords", ["P", "N", 2])
    labels = graph.input("point_labels", ["P", "N"], TensorProto.INT64)
    logits, scores = _Decoding(layers, (height, width)).add(coarse, fine, coords, labels)
    layers.named(logits, "mask_logits", ["P", CANDIDATES, *fine_size])
    layers.named(scores, "iou_scores", ["P", CANDIDATES])
    layers.save(path)


class _Layers:
    """Adds the layers of a model to a graph."""

    def __init__(self, name: str, model: SmallSegmenter) -> None:
        self.model = model
        self.graph = GraphBuilder(name)
        self._names = {id(module): name for name, module in model.named_modules()}
        self._count = 0

    def save(self, path: Path) -> None:
        """Write the graph."""
        self.graph.save(path)

    def image(self) -> str:
        """Add the input of the encoder."""
        config = self.model.config
        return self.graph.input("image", [1, 3, config.height, config.width])

    def named(self, states: str, name: str, shape: Sequence[int | str]) -> None:
        """Make a value an output."""
        self.graph.output(self.graph.node("Identity", [states], name), shape)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node under a name of its own."""
        self._count += 1
        return self.graph.node(kind, inputs, f"{kind.lower()}.{self._count}", **attributes)

    def const(self, values: float | Sequence[int] | Sequence[float] | np.ndarray) -> str:
        """Add a constant: whole numbers as int64."""
        return self.graph.constant(values)

    def conv(self, module: nn.Module, states: str, activation: str = "", scale: torch.Tensor | None = None) -> str:
        """Add a convolution; ``scale``: of its input channels."""
        assert isinstance(module, nn.Conv2d)
        name = self._names[id(module)]
        pads = getattr(module, "pads", None)
        if pads is None:
            rows, columns = (int(one) for one in module.padding)
            pads = (columns, columns, rows, rows)
        left, right, top, bottom = pads
        assert module.bias is not None
        kernel = module.weight if scale is None else module.weight * scale[:, None, None]
        found = self.graph.node(
            "Conv",
            [states, self._weight(f"{name}.weight", kernel), self._weight(f"{name}.bias", module.bias)],
            name,
            kernel_shape=list(module.kernel_size),
            strides=list(module.stride),
            pads=[top, left, bottom, right],
            group=module.groups,
        )
        if activation == "relu6":
            return self.op("Clip", found, self.const(0.0), self.const(6.0))
        return self.op(activation, found) if activation else found

    def linear(self, module: nn.Module, states: str) -> str:
        """Add a linear layer."""
        assert isinstance(module, nn.Linear)
        name = self._names[id(module)]
        weight, bias = (one.detach().float().cpu().numpy() for one in (module.weight, module.bias))
        return linear(self.graph, states, name, weight, bias, half=False)

    def sequence(self, modules: nn.Module, states: str) -> str:
        """Add linear layers with ReLUs."""
        assert isinstance(modules, nn.Sequential)
        for module in modules:
            states = self.op("Relu", states) if isinstance(module, nn.ReLU) else self.linear(module, states)
        return states

    def parameter(self, name: str, tensor: torch.Tensor) -> str:
        """Add a tensor of the model."""
        return self._weight(name, tensor)

    def _weight(self, name: str, tensor: torch.Tensor) -> str:
        return self.graph.weight(name, tensor.detach().float().cpu().numpy())

    def tower(self, image: str) -> list[str]:
        """Add the tower and return its maps."""
        states = self.conv(self.model.tower.stem, image, "relu6")
        maps = []
        for number, stage in enumerate(self.model.tower.stages):
            assert isinstance(stage, nn.Sequential)
            for block in stage:
                assert isinstance(block, Block)
                inner = states
                if block.expand is not None:
                    inner = self.conv(block.expand, inner, "relu6")
                inner = self.conv(block.project, self.conv(block.depthwise, inner, "relu6"))
                states = self.op("Add", states, inner) if block.residual else inner
            if number in self.model.tower.levels:
                maps.append(states)
        return maps

    def mix(self, module: nn.Module, states: str) -> str:
        """Add a residual block."""
        assert isinstance(module, Mix)
        inner = self.conv(module.pointwise, self.conv(module.depthwise, states, "Relu"), "Relu")
        return self.op("Add", states, inner)

    def neck(self, image: str, maps: Sequence[str]) -> tuple[str, str, str]:
        """Add the feature pyramid and return coarse and fine features and the logits of objectness."""
        neck = self.model.neck
        level4, level8, level16, level32 = maps
        coarse = self._mixed(neck.mix32, self.conv(neck.lateral[2], level32, scale=neck.scale32))
        level = self.conv(neck.lateral[1], level16, scale=neck.scale16)
        coarse = self._mixed(neck.mix16, self.op("Add", level, self._twice(coarse)))
        level = self.conv(neck.lateral[0], level8, scale=neck.scale8)
        coarse = self._normalized(self._mixed(neck.mix8, self.op("Add", level, self._twice(coarse))))
        # The 1x1 convolution of the cells of pixels, without moving them: a convolution with the stride of a cell.
        edges = self._cells(neck.pixels, image)
        fine = self.op("Add", self.conv(neck.lateral4, level4, scale=neck.scale4), edges)
        fine = self.op("Add", fine, self._twice(self.conv(neck.down, coarse)))
        fine = self._normalized(self._mixed(neck.mix4, self.op("Relu", fine)))
        objectness = self.conv(neck.objectness[1], self.mix(neck.objectness[0], coarse))
        return coarse, fine, objectness

    def _mixed(self, modules: nn.Module, states: str) -> str:
        assert isinstance(modules, nn.Sequential)
        for module in modules:
            states = self.mix(module, states)
        return states

    def _normalized(self, states: str) -> str:
        mean = self.op("ReduceMean", self.op("Mul", states, states), axes=[1])
        return self.op("Div", states, self.op("Sqrt", self.op("Add", mean, self.const(NORM_EPS))))

    def _cells(self, module: nn.Conv2d, image: str) -> str:
        name = self._names[id(module)]
        kernel = module.weight.detach().reshape(module.out_channels, 3, STRIDE, STRIDE)
        assert module.bias is not None
        weights = [self._weight(f"{name}.weight", kernel), self._weight(f"{name}.bias", module.bias)]
        return self.graph.node("Conv", [image, *weights], name, kernel_shape=[STRIDE] * 2, strides=[STRIDE] * 2)

    def _twice(self, states: str) -> str:
        scales = self.graph.constant(np.array([1, 1, 2, 2], np.float32), np.float32)
        return self.op("Resize", states, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")


class _Decoding:
    """Adds the steps of the decoder to a graph. P: prompts, K: candidates, h x w: coarse cells."""

    def __init__(self, layers: _Layers, size: tuple[int, int]) -> None:
        self.layers, self.decoder = layers, layers.model.decoder
        self.size = size
        self.op, self.const = layers.op, layers.const

    def add(self, coarse: str, fine: str, coords: str, labels: str) -> tuple[str, str]:
        """Add all steps and return logits [P, K, 2h, 2w] and scores [P, K]."""
        op, const = self.op, self.const
        cells = self.size[0] * self.size[1]
        fine8 = op("AveragePool", fine, kernel_shape=[2, 2], strides=[2, 2])
        both = op("Concat", coarse, fine8, axis=1)
        channels = self.layers.model.config.coarse_channels + self.layers.model.config.fine_channels
        flat = op("Transpose", op("Reshape", both, const([channels, cells])), perm=[1, 0])  # [hw, R]
        chosen = {label: self._chosen(labels, label) for label in (OBJECT, BACKGROUND, TOP_LEFT, BOTTOM_RIGHT)}
        low, high = (self._sum(coords, chosen[label]) for label in (TOP_LEFT, BOTTOM_RIGHT))  # [P, 2]
        has_box = op(
            "Mul", *(op("ReduceMax", chosen[one], axes=[1], keepdims=0) for one in (TOP_LEFT, BOTTOM_RIGHT))
        )  # [P, 1]
        points = self._bilinear(coords)
        read = [op("MatMul", self._mean(points, chosen[one]), flat) for one in (OBJECT, BACKGROUND)]
        read.append(op("MatMul", self._box_cells(low, high, has_box), flat))
        center, scale, geometry = self._geometry(coords, chosen, low, high, has_box)
        embedding = self.layers.sequence(self.decoder.prompt, op("Concat", *read, geometry, axis=1))
        weights = self._rows(self.layers.sequence(self.decoder.first, embedding))
        shortcut = self.layers.linear(self.decoder.first_shortcut, op("Concat", read[0], read[2], axis=1))
        weights = op("Add", weights, op("Unsqueeze", shortcut, const([1])))
        first = self._masks(weights, fine8, center, scale, COARSE_STRIDE)  # [P, K, h, w]
        inner, own = self._second(embedding, first, flat, cells)  # [P, K, hidden], [P, K, 2R]
        weights = self.layers.sequence(self.decoder.weights, inner)
        weights = op("Add", weights, self.layers.linear(self.decoder.second_shortcut, own))
        logits = self._masks(weights, fine, center, scale, STRIDE)
        return logits, self._scores(inner, logits)

    def _chosen(self, labels: str, label: int) -> str:
        """Return 1.0 for the points with a label, [P, N, 1]."""
        equal = self.op("Equal", labels, self.const([label]))
        return self.op("Unsqueeze", self.layers.graph.cast(equal, f"is.{label}", np.float32), self.const([2]))

    def _sum(self, values: str, chosen: str) -> str:
        """Return the sum of chosen rows: [P, N, C] -> [P, C]."""
        return self.op("ReduceSum", self.op("Mul", values, chosen), self.const([1]), keepdims=0)

    def _count(self, chosen: str) -> str:
        """Return the number of chosen points, at least 1, [P, 1]."""
        return self.op("Max", self.op("ReduceSum", chosen, self.const([1]), keepdims=0), self.const(1.0))

    def _mean(self, values: str, chosen: str) -> str:
        return self.op("Div", self._sum(values, chosen), self._count(chosen))

    def _axis(self, coords: str, axis: int) -> str:
        """Return one coordinate, keeping its dimension: the last one."""
        return self.op("Gather", coords, self.const([axis]), axis=-1)

    def _bilinear(self, coords: str) -> str:
        """Return how much each cell counts for each point, [P, N, hw]."""
        op, const = self.op, self.const
        scaled = op("Sub", op("Div", coords, const(float(COARSE_STRIDE))), const(0.5))
        parts = []
        for axis, count in ((1, self.size[0]), (0, self.size[1])):
            place = op("Clip", self._axis(scaled, axis), const(0.0), const(float(count - 1)))
            apart = op("Abs", op("Sub", place, const(np.arange(count, dtype=np.float32))))
            parts.append(op("Relu", op("Sub", const(1.0), apart)))
        rows, columns = op("Unsqueeze", parts[0], const([3])), op("Unsqueeze", parts[1], const([2]))
        return op("Reshape", op("Mul", rows, columns), const([0, 0, -1]))

    def _box_cells(self, low: str, high: str, has_box: str) -> str:
        """Return how much each cell counts for the box, [P, hw]; their sum is 1."""
        op, const = self.op, self.const
        parts = []
        for axis, count in ((1, self.size[0]), (0, self.size[1])):
            first, last = (op("Div", self._axis(one, axis), const(float(COARSE_STRIDE))) for one in (low, high))
            edges = np.arange(count, dtype=np.float32)
            covered = op("Sub", op("Min", last, const(edges + 1)), op("Max", first, const(edges)))
            parts.append(op("Clip", covered, const(0.0), const(1.0)))
        product = op("Mul", op("Unsqueeze", parts[0], const([2])), op("Unsqueeze", parts[1], const([1])))
        flat = op("Reshape", product, const([0, -1]))
        total = op("Max", op("ReduceSum", flat, const([1])), const(1e-3))
        return op("Mul", op("Div", flat, total), has_box)

    def _geometry(self, coords: str, chosen: dict[int, str], low: str, high: str, has_box: str) -> tuple[str, str, str]:
        """Return origin and unit of positions, [P, 2] each, and the facts about the prompts, [P, 7]."""
        op, const = self.op, self.const
        points = self._mean(coords, chosen[OBJECT])
        middle = op("Div", op("Add", low, high), const(2.0))
        half = op("Max", op("Div", op("Sub", high, low), const(2.0)), const(MIN_HALF_SIDE))
        center, scale = self._either(has_box, middle, points), self._either(has_box, half, const(POINT_SCALE))
        has_on, has_off = (op("ReduceMax", chosen[label], axes=[1], keepdims=0) for label in (OBJECT, BACKGROUND))
        offset = op("Mul", op("Div", op("Sub", points, center), scale), has_on)
        size = op("Mul", op("Log", op("Div", scale, const(POINT_SCALE))), has_box)
        return center, scale, op("Concat", has_on, has_off, has_box, offset, size, axis=1)

    def _either(self, condition: str, yes: str, no: str) -> str:
        op = self.op
        return op("Add", op("Mul", yes, condition), op("Mul", no, op("Sub", self.const(1.0), condition)))

    def _rows(self, weights: str) -> str:
        """Return weights [P, K * C] as [P, K, C]."""
        return self.op("Reshape", weights, self.const([0, CANDIDATES, -1]))

    def _second(self, embedding: str, first: str, flat: str, cells: int) -> tuple[str, str]:
        """Return what the second masks are made from, [P, K, hidden], and features in and around the first ones."""
        op, const = self.op, self.const
        soft = op("Reshape", op("Sigmoid", first), const([0, 0, -1]))  # [P, K, hw]
        area = op("ReduceSum", soft, const([2]))
        inside = op("MatMul", soft, flat)
        pooled = op("Div", inside, op("Add", area, const(1e-3)))
        total = op("ReduceSum", flat, const([0]))  # [1, R]
        rest = op("Add", op("Sub", const(float(cells)), area), const(1.0))
        around = op("Div", op("Sub", total, op("Mul", pooled, area)), rest)
        share = op("Div", area, const(float(cells)))
        prompt = op("Tile", op("Unsqueeze", embedding, const([1])), const([1, CANDIDATES, 1]))
        own = op("Concat", pooled, around, axis=2)
        facts = [prompt, own, share, op("Log", op("Add", share, const(1e-4)))]
        inner = self.layers.sequence(self.decoder.second, op("Concat", *facts, axis=2))
        return op("Add", inner, self.layers.parameter("decoder.candidate", self.decoder.candidate)), own

    def _masks(self, weights: str, features: str, center: str, scale: str, stride: int) -> str:
        """Return logits [P, K, h, w] of weights [P, K, 2C + 6] on features [1, C, h, w]."""
        op, const = self.op, self.const
        channels = self.layers.model.config.fine_channels
        factor = COARSE_STRIDE // stride
        height, width = self.size[0] * factor, self.size[1] * factor
        kernels = self._part(weights, 0, 2 * channels)
        c0, cx, cy, cxx, cyy, cxy = (self._part(weights, 2 * channels + n, 2 * channels + n + 1) for n in range(6))
        flat = op("Reshape", features, const([channels, height * width]))
        flat = op("Mul", op("Concat", flat, op("Mul", flat, flat), axis=0), const(FEATURE_SCALE))
        logits = op("Reshape", op("MatMul", kernels, flat), const([0, CANDIDATES, height, width]))
        x = self._positions(width, stride, self._axis(center, 0), self._axis(scale, 0))
        y = self._positions(height, stride, self._axis(center, 1), self._axis(scale, 1))
        columns, rows = op("Add", c0, self._parabola(cx, cxx, x)), self._parabola(cy, cyy, y)
        # The quadratic form of the position: [1, rows, cxy y] of each row times [columns, 1, x] of each column.
        ones_y, ones_x = (op("Add", op("Mul", one, const(0.0)), const(1.0)) for one in (rows, columns))
        wide_x = op("Mul", ones_x, x)
        left = op("Concat", *(op("Unsqueeze", one, const([3])) for one in (ones_y, rows, op("Mul", cxy, y))), axis=3)
        right = op("Concat", *(op("Unsqueeze", one, const([2])) for one in (columns, ones_x, wide_x)), axis=2)
        return op("Add", logits, op("MatMul", left, right))

    def _part(self, weights: str, start: int, stop: int) -> str:
        return self.op("Slice", weights, *(self.const([value]) for value in (start, stop, 2)))

    def _positions(self, count: int, stride: int, center: str, scale: str) -> str:
        """Return the positions of the centers of cells around a prompt, [P, 1, count]."""
        op, const = self.op, self.const
        places = const((np.arange(count, dtype=np.float32) + np.float32(0.5)) * np.float32(stride))
        placed = op("Clip", op("Div", op("Sub", places, center), scale), const(-REACH), const(REACH))
        return op("Unsqueeze", placed, const([1]))

    def _parabola(self, linear_weight: str, square_weight: str, positions: str) -> str:
        """Return a downward parabola of positions, [P, K, count]."""
        op = self.op
        square = op("Mul", op("Mul", op("Softplus", square_weight), positions), positions)
        return op("Sub", op("Mul", linear_weight, positions), square)

    def _scores(self, inner: str, logits: str) -> str:
        """Return the expected IoU of each mask, [P, K]."""
        op, const = self.op, self.const
        flat = op("Reshape", logits, const([0, CANDIDATES, -1]))
        soft = op("Sigmoid", flat)
        graph = self.layers.graph
        inside = graph.cast(op("Greater", flat, const(0.0)), "inside", np.float32)
        sure = graph.cast(op("Greater", flat, const(SURE)), "sure", np.float32)
        area = op("Add", op("ReduceSum", inside, const([2])), const(1.0))
        clear = op("Div", op("ReduceSum", op("Mul", soft, inside), const([2])), area)
        share = op("Div", op("ReduceSum", sure, const([2])), area)
        size = op("Div", op("Log", area), const(8.0))
        scored = self.layers.sequence(self.decoder.score, op("Concat", inner, clear, share, size, axis=2))
        return op("Squeeze", op("Sigmoid", scored), const([2]))
