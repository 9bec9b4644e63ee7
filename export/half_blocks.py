"""Float16 for some blocks of an ONNX graph, and the largest activation of each block.

Products (convolutions, matrix products) of a float16 block compute in float16, and what follows them until the next
norm, softmax or sum. These and all other blocks stay in float32, as does the residual stream. All casts are nodes of
the graph, for runtimes that follow its types.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from osprey_torch.onnx_graph import to_half

LARGEST = 65504.0  # of float16
# Of outputs that hold the largest activation of a block.
_PROBE = "largest/"
_PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum"}
# Operators that give float16 for float16 inputs, beside constants.
_ALIKE = {
    *("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Gather", "Concat"),
    *("Expand", "Tile", "Pad", "MaxPool", "Relu", "LeakyRelu", "Clip", "Erf", "Tanh", "Sigmoid", "HardSigmoid", "Mul"),
    *("Div", "Neg"),
}
# These do so if one of the inputs is a constant, such as a bias; sums of activations are float32.
_BIASES = {"Add", "Sub"}
# Weights of at least this number of values are stored as float16 where the caller asks for it.
_STORED_FROM = 1024


def block_of(node: onnx.NodeProto, blocks: Sequence[str]) -> str | None:
    """Return the block of a node: the longest path that its name begins with, None if there is none."""
    path = node.name.lstrip("/")
    found = [block for block in blocks if path == block or path.startswith(f"{block}/")]
    return max(found, key=len, default=None)


def blocks_of(model: onnx.ModelProto, blocks: Sequence[str]) -> frozenset[str]:
    """Return those blocks that a graph has nodes of."""
    return frozenset(found for node in model.graph.node if (found := block_of(node, blocks)) is not None)


def half_blocks(model: onnx.ModelProto, blocks: Sequence[str], chosen: Collection[str]) -> onnx.ModelProto:
    """Return a graph whose `chosen` blocks compute in float16. Inputs and outputs stay float32.

    blocks: all blocks. Raises InputError for weights beyond float16.
    """
    return _Narrowing(model, blocks, frozenset(chosen), rounds=False).model()


def rounded_blocks(model: onnx.ModelProto, blocks: Sequence[str], chosen: Collection[str]) -> onnx.ModelProto:
    """Return a float32 graph that rounds, and overflows, as the float16 blocks of `half_blocks` do.

    onnxruntime has no float16 kernels for the CPU: it computes the products of such graphs in float32 without rounding.
    """
    return _Narrowing(model, blocks, frozenset(chosen), rounds=True).model()


def half_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 graph whose large weights are stored as float16; runtimes widen them when they load it.

    Raises InputError for weights beyond float16.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    casts = []
    for tensor in result.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and int(np.prod(tensor.dims)) >= _STORED_FROM:
            name = tensor.name
            array = to_half(name, numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(array, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.wide", to=TensorProto.FLOAT))
    nodes = [*casts, *result.graph.node]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def with_largest(model: onnx.ModelProto, blocks: Sequence[str]) -> onnx.ModelProto:
    """Return the graph with one more output for each block: the largest absolute value of its activations."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    real = _real_values(model)
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        block = block_of(node, blocks)
        if block is not None and node.op_type != "Constant":
            found.setdefault(block, []).extend(name for name in node.output if name in real)
    nodes = result.graph.node
    for block, names in found.items():
        parts = []
        for name in names:
            absolute, largest = f"{_PROBE}{name}/abs", f"{_PROBE}{name}/max"
            nodes.append(helper.make_node("Abs", [name], [absolute]))
            nodes.append(helper.make_node("ReduceMax", [absolute], [largest], keepdims=0))
            parts.append(largest)
        nodes.append(helper.make_node("Max", parts, [f"{_PROBE}{block}"]))
        result.graph.output.append(helper.make_tensor_value_info(f"{_PROBE}{block}", TensorProto.FLOAT, []))
    return result


def largest_weights(model: onnx.ModelProto, blocks: Sequence[str]) -> dict[str, float]:
    """Return the largest absolute value of the weights that each block reads."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    found: dict[str, float] = {}
    for node in model.graph.node:
        block = block_of(node, blocks)
        for name in node.input:
            if block is not None and name in weights and weights[name].dims and 0 not in weights[name].dims:
                value = float(np.abs(numpy_helper.to_array(weights[name])).max())
                found[block] = max(found.get(block, 0.0), value)
    return found


def largest_activations(outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the largest activation of each block from the outputs of a graph of `with_largest`."""
    return {name.removeprefix(_PROBE): float(array) for name, array in outputs.items() if name.startswith(_PROBE)}


def _real_values(model: onnx.ModelProto) -> set[str]:
    """Return the names of the float32 values of a graph."""
    inferred = onnx.shape_inference.infer_shapes(_without_weights(model)).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    real = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return real | {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its large weights as inputs: type inference refuses graphs of more than 2 GiB."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.name = model.graph.name
    bare.graph.node.extend(model.graph.node)
    bare.graph.input.extend(model.graph.input)
    bare.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if int(np.prod(tensor.dims)) >= _STORED_FROM:
            bare.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            bare.graph.initializer.append(tensor)
    return bare


@dataclass
class _Narrowing:
    """One pass over a graph, in the order of its nodes."""

    source: onnx.ModelProto
    blocks: Sequence[str]
    chosen: frozenset[str]
    rounds: bool  # to float16 and back
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    half: set[str] = field(default_factory=set)  # values that are float16, or rounded to it
    casts: dict[tuple[str, bool], str] = field(default_factory=dict)

    def model(self) -> onnx.ModelProto:
        graph = self.source.graph
        self.real = _real_values(self.source)
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.constants = set(self.weights)  # and what is computed from weights alone
        self.stored: dict[str, TensorProto] = {}
        for node in graph.node:
            block = block_of(node, self.blocks)
            self._add(node, block in self.chosen)
        for value in graph.output:
            self._restore(value.name)
        result = onnx.ModelProto()
        result.CopyFrom(self.source)
        del result.graph.node[:]
        result.graph.node.extend(self.nodes)
        del result.graph.value_info[:]
        read = {name for node in self.nodes for name in node.input}
        del result.graph.initializer[:]
        result.graph.initializer.extend(t for t in [*graph.initializer, *self.stored.values()] if t.name in read)
        return result

    def _add(self, node: onnx.NodeProto, narrow: bool) -> None:
        reals = [name for name in node.input if name in self.real]
        if all(name in self.constants for name in node.input if name):
            self.constants.update(node.output)
        if node.op_type == "Shape" or not reals or all(name in self.constants for name in reals):
            self.nodes.append(node)
            return
        half = narrow and (node.op_type in _PRODUCTS or self._stays_half(node, reals))
        added = onnx.NodeProto()
        added.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name in self.real:
                added.input[index] = self._as(name, half)
        self.nodes.append(added)
        if half:
            outputs = [name for name in node.output if name in self.real]
            if self.rounds:
                self._round(added, outputs)
            self.half.update(outputs)

    def _stays_half(self, node: onnx.NodeProto, reals: Sequence[str]) -> bool:
        constant = [name for name in reals if name in self.constants]
        if node.op_type not in _ALIKE and not (node.op_type in _BIASES and constant):
            return False
        others = [name for name in reals if name not in self.constants]
        return all(name in self.half for name in others)

    def _as(self, name: str, half: bool) -> str:
        """Return the name of a value in a type."""
        if half == (name in self.half) or (self.rounds and not half):
            return name
        if (name, half) not in self.casts:
            self.casts[name, half] = self._cast(name, half)
        return self.casts[name, half]

    def _cast(self, name: str, half: bool) -> str:
        cast = f"{name}.{'half' if half else 'wide'}"
        if half and name in self.weights:
            array = to_half(name, numpy_helper.to_array(self.weights[name]))
            self.stored[cast] = numpy_helper.from_array(array.astype(np.float32) if self.rounds else array, cast)
        elif self.rounds:
            self._round_value(name, cast)
        else:
            kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
            self.nodes.append(helper.make_node("Cast", [name], [cast], name=cast, to=kind))
        return cast

    def _round(self, node: onnx.NodeProto, outputs: Sequence[str]) -> None:
        """Round the outputs of a node."""
        for index, name in enumerate(node.output):
            if name in outputs:
                node.output[index] = f"{name}.exact"
                self._round_value(f"{name}.exact", name)

    def _round_value(self, name: str, rounded: str) -> None:
        narrow = f"{rounded}.narrow"
        self.nodes.append(helper.make_node("Cast", [name], [narrow], name=narrow, to=TensorProto.FLOAT16))
        self.nodes.append(helper.make_node("Cast", [narrow], [rounded], name=rounded, to=TensorProto.FLOAT))

    def _restore(self, name: str) -> None:
        """Make an output of the graph float32."""
        if name not in self.half or self.rounds:
            return
        for node in self.nodes:
            for names in (node.input, node.output):
                for index, other in enumerate(names):
                    if other == name:
                        names[index] = f"{name}.half"
        self.nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.wide", to=TensorProto.FLOAT))
