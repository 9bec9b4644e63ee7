"""What the ONNX parsers of TensorRT 10.3 to 11 document, as far as our graphs need it, and a walk that checks a graph.

The table holds what all of these releases of docs/operators.md in onnx/onnx-tensorrt have in common: 10.1 (commit
96e7811), 10.6 (0137504), 10.15 and 11.1 (7c51a63). That of 10.3 lies between the first two, that of 10.13 between the
second and the third: what did not change around them holds for them. Of later restrictions only those are kept that
still bind the oldest; DequantizeLinear is IDequantizeLayer of NvInfer.h 10.3, and its block sizes are those of NVIDIA's
"Quantization Schemes". ArgMax, LogSoftmax and ReduceMax were looked up for 10.1 only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

FLOAT, HALF, INT32, INT64, BOOL = (
    *(TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT64),
    TensorProto.BOOL,
)
REALS = {FLOAT, HALF}
NUMBERS = REALS | {INT32, INT64}
ALL = NUMBERS | {BOOL}
INDICES = {INT32, INT64}

# Types of the tensors that an operator works on. BF16 is left out: onnxruntime has none of it on the CPU.
OPERATORS: dict[str, set[int]] = {
    "Add": NUMBERS,
    "ArgMax": NUMBERS,
    "Cast": ALL,
    "Concat": ALL,
    "Conv": REALS,
    "DequantizeLinear": {TensorProto.INT4, TensorProto.INT8},
    "Div": NUMBERS,
    "Erf": REALS,
    "Gather": ALL,
    "Identity": ALL,
    "LayerNormalization": REALS,  # only the first output
    "LogSoftmax": REALS,
    "MatMul": REALS,
    "Mul": NUMBERS,
    "Neg": NUMBERS,
    "Pow": REALS,  # integers only from 10.15 on
    "ReduceMax": NUMBERS,  # axes must be an initializer
    "ReduceMean": NUMBERS,  # axes must be an initializer
    "ReduceSum": NUMBERS,  # axes must be an initializer
    "Relu": NUMBERS,
    "Reshape": ALL,
    "Shape": ALL,
    "Sigmoid": REALS,
    "Slice": ALL,  # axes must be an initializer before 10.3
    "Softmax": REALS,
    "Split": ALL,
    "Sqrt": REALS,
    "Sub": NUMBERS,
    "Sum": NUMBERS,
    "Transpose": ALL,
    "Unsqueeze": ALL,  # axes must be an initializer
}
# Opsets that 10.1 documents; 10.6 documents 22. INT4 and blocks exist from 21 on: the parser of 10.1 reads both and
# compares the opset with no upper bound.
OPSETS = range(9, 21)
INT4_OPSET = 21
BLOCK_SIZES = (64, 128)

# Inputs that are lengths, axes or indices and not what the operator works on, and those of them that must be
# initializers. Sizes of a Split that are known at run time only are documented nowhere: our own rule.
_REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceSum")
_PARAMETERS = dict.fromkeys(("Reshape", "Slice", "Split", "Gather", "Unsqueeze", *_REDUCTIONS), 1)
_CONSTANT = {**dict.fromkeys(("Split", "Unsqueeze", *_REDUCTIONS), (1,)), "Slice": (3,), "Conv": (1, 2)}
# These take inputs of one type only, which a strongly typed network does not convert.
_SAME_TYPE = ("Add", "Concat", "Conv", "Div", "LayerNormalization", "MatMul", "Mul", "Pow", "Sub", "Sum")


def violations(path: Path) -> list[str]:
    """What in a graph is not in the table, by node."""
    walk = _Walk(onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True))
    walk.model()
    return walk.found


class _Walk:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.found: list[str] = []
        self.opsets = {opset.domain: opset.version for opset in model.opset_import}
        self.weights = {w.name: w for w in self.graph.initializer}
        values = (*self.graph.input, *self.graph.value_info, *self.graph.output)
        self.types = {v.name: v.type.tensor_type.elem_type for v in values}
        self.types |= {name: weight.data_type for name, weight in self.weights.items()}

    def model(self) -> None:
        int4 = TensorProto.INT4 in self.types.values()
        opset = self.opsets.get("", 0)
        if opset not in OPSETS and not (int4 and opset == INT4_OPSET):
            self.found.append(f"opset {opset}")
        for node in self.graph.node:
            if node.domain or node.op_type not in OPERATORS:
                self._say(node, "is in no parser's table")
            else:
                self._types(node)
                self._constants(node)
                self._special(node)

    def _types(self, node: NodeProto) -> None:
        first_parameter = _PARAMETERS.get(node.op_type, len(node.input))
        for index, name in enumerate(node.input):
            allowed = OPERATORS[node.op_type] if index < first_parameter else INDICES
            if name and node.op_type != "DequantizeLinear" and self.types.get(name) not in allowed:
                self._say(node, f"input {index} is {self._type(name)}")
        for name in node.output:
            if self.types.get(name) not in (REALS if node.op_type == "DequantizeLinear" else ALL):
                self._say(node, f"output is {self._type(name)}")
        kinds = {self.types.get(name) for name in node.input[:first_parameter] if name}
        if node.op_type in _SAME_TYPE and len(kinds) > 1:
            self._say(node, f"inputs are {', '.join(self._type(name) for name in node.input)}")

    def _constants(self, node: NodeProto) -> None:
        for index in _CONSTANT.get(node.op_type, ()):
            if index < len(node.input) and node.input[index] and node.input[index] not in self.weights:
                self._say(node, f"input {index} must be an initializer")

    def _special(self, node: NodeProto) -> None:
        if node.op_type == "LayerNormalization" and len(node.output) > 1:
            self._say(node, "has more than its first output")
        if node.op_type == "DequantizeLinear":
            self._dequantize(node)

    def _dequantize(self, node: NodeProto) -> None:
        levels, scales = (self.weights.get(name) for name in node.input[:2])
        if levels is None or scales is None:
            self._say(node, "levels and scales must be initializers")
            return
        if levels.data_type not in OPERATORS["DequantizeLinear"] or scales.data_type not in REALS:
            self._say(node, f"is of {self._type(levels.name)} with scales of {self._type(scales.name)}")
        if not (numpy_helper.to_array(scales).astype(np.float32) > 0).all():
            self._say(node, "scales must be positive")
        if len(node.input) > 2 and node.input[2]:
            self._say(node, "has a zero point")
        if len(levels.dims) != 2 or len(scales.dims) != 2:
            self._say(node, "blocks are for matrices with a matrix of scales")
            return
        attributes = {a.name: a.i for a in node.attribute}
        axis = attributes.get("axis", 1)
        sizes = [a / b for a, b in zip(levels.dims, scales.dims, strict=True)]
        if levels.data_type != TensorProto.INT4 or sizes[1 - axis] != 1 or sizes[axis] != attributes.get("block_size"):
            self._say(node, f"levels {list(levels.dims)} and scales {list(scales.dims)} make no blocks of axis {axis}")
        elif sizes[axis] not in BLOCK_SIZES:
            self._say(node, f"blocks of {sizes[axis]:g}, not of {' or '.join(map(str, BLOCK_SIZES))}")
        if levels.dims[-1] % 2:
            self._say(node, "INT4 needs an even last dimension")

    def _type(self, name: str) -> str:
        kind = self.types.get(name)
        return "unknown" if kind is None else TensorProto.DataType.Name(kind)

    def _say(self, node: NodeProto, what: str) -> None:
        self.found.append(f"{node.op_type} {node.name}: {what}")
