"""ONNX nodes for operations of PyTorch that convolutional backbones use, by their names in ATen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from osprey_ros.errors import InputError
from osprey_torch.onnx_graph import GraphBuilder, gelu


class Trace(Protocol):
    """What operators need of `export.graph_backbone.BackboneTrace`."""

    graph: GraphBuilder

    def value_of(self, tensor: torch.Tensor) -> str: ...
    def node(self, op: str, inputs: Sequence[str], narrow: bool | None = None, **attributes: Any) -> str: ...
    def constant(self, values: Any, like: str | None = None) -> str: ...
    def unique(self, stem: str) -> str: ...
    def operand_of(self, tensor: torch.Tensor) -> str: ...
    def alike(self, *names: str) -> list[str]: ...
    def wide(self, name: str) -> str: ...
    def narrow(self, name: str) -> str: ...


class Arguments:
    """The arguments of one operation by their names in ATen. shape: of its first result."""

    def __init__(self, trace: Trace, bound: dict[str, Any], shape: tuple[int, ...]) -> None:
        self._trace, self._bound, self.shape = trace, bound, shape

    def __getitem__(self, name: str) -> Any:
        return self._bound[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument that not every form of the operation has."""
        return self._bound.get(name, default)

    def states(self, name: str = "self") -> str:
        """Return the name in the graph of a tensor argument."""
        return self._trace.value_of(self._bound[name])

    def rank(self, name: str = "self") -> int:
        """Return the number of axes of a tensor argument."""
        return int(self._bound[name].ndim)

    def axes(self, name: str = "dim") -> list[int]:
        """Return axes counted from the front; none given means all."""
        given, rank = self._bound[name], self.rank()
        if given is None or given == []:
            return list(range(rank))
        return [axis % rank for axis in (given if isinstance(given, list | tuple) else [given])]


Operator = Callable[[Trace, Arguments], str | list[str]]


def _unary(op: str, **attributes: Any) -> Callable[[Trace, Arguments], str]:
    return lambda trace, a: trace.node(op, [a.states()], **attributes)


def _clip(trace: Trace, a: Arguments, low: float | None, high: float | None) -> str:
    states = a.states()
    bounds = ["" if bound is None else trace.constant(float(bound), states) for bound in (low, high)]
    return trace.node("Clip", [states, *bounds])


def _silu(trace: Trace, a: Arguments) -> str:
    states = a.states()
    return trace.node("Mul", [states, trace.node("Sigmoid", [states])])


def _hardswish(trace: Trace, a: Arguments) -> str:
    states = a.states()
    return trace.node("Mul", [states, trace.node("HardSigmoid", [states], alpha=1 / 6, beta=0.5)])


def _mish(trace: Trace, a: Arguments) -> str:
    states = a.states()
    return trace.node("Mul", [states, trace.node("Tanh", [trace.node("Softplus", [states])])])


def _gelu(trace: Trace, a: Arguments) -> str:
    states = trace.narrow(a.states())
    if a.get("approximate", "none") == "none":
        # The identity records the type of what the shared helper has added.
        return trace.node("Identity", [gelu(trace.graph, states, trace.unique("gelu"))], narrow=True)
    cubed = trace.node("Mul", [trace.node("Mul", [states, states]), states])
    inner = trace.node("Add", [states, trace.node("Mul", [cubed, trace.constant(0.044715, states)])])
    tanh = trace.node("Tanh", [trace.node("Mul", [inner, trace.constant(math.sqrt(2 / math.pi), states)])])
    gate = trace.node("Add", [tanh, trace.constant(1.0, states)])
    return trace.node("Mul", [trace.node("Mul", [states, gate]), trace.constant(0.5, states)])


ELEMENTWISE: dict[str, Callable[[Trace, Arguments], str]] = {
    "relu": _unary("Relu"),
    "sigmoid": _unary("Sigmoid"),
    "tanh": _unary("Tanh"),
    "abs": _unary("Abs"),
    "neg": _unary("Neg"),
    "exp": _unary("Exp"),
    "sqrt": _unary("Sqrt"),
    "hardsigmoid": _unary("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hardswish": _hardswish,
    "silu": _silu,
    "mish": _mish,
    "gelu": _gelu,
    "leaky_relu": lambda trace, a: trace.node("LeakyRelu", [a.states()], alpha=a["negative_slope"]),
    "hardtanh": lambda trace, a: _clip(trace, a, a["min_val"], a["max_val"]),
    "clamp": lambda trace, a: _clip(trace, a, a["min"], a["max"]),
    "relu6": lambda trace, a: _clip(trace, a, 0.0, 6.0),
}


def _binary(op: str) -> Callable[[Trace, Arguments], str]:
    """Add, Sub, Mul or Div of two tensors or of a tensor and a number. Only products of float16 stay float16."""

    def add(trace: Trace, a: Arguments) -> str:
        states, other = a.states(), a["other"]
        scalar = not isinstance(other, torch.Tensor)
        number = float(other) * float(a.get("alpha", 1)) if scalar else None
        if number is not None:
            return trace.node(op, [states, trace.constant(number, states)])
        second = trace.value_of(other)
        if a.get("alpha", 1) != 1:
            second = trace.node("Mul", [second, trace.constant(float(a["alpha"]), second)])
        both = trace.alike(states, second) if op == "Mul" else [trace.wide(states), trace.wide(second)]
        return trace.node(op, both)

    return add


def _addcmul(trace: Trace, a: Arguments) -> str:
    product = trace.node("Mul", [trace.wide(a.states("tensor1")), trace.wide(a.states("tensor2"))])
    if a["value"] != 1:
        product = trace.node("Mul", [product, trace.constant(float(a["value"]), product)])
    return trace.node("Add", [trace.wide(a.states()), product])


def _pow(trace: Trace, a: Arguments) -> str:
    states = trace.wide(a.states())
    return trace.node("Pow", [states, trace.constant(float(a["exponent"]), states)])


def _reduce(op: str) -> Callable[[Trace, Arguments], str]:
    def add(trace: Trace, a: Arguments) -> str:
        return trace.node(op, [trace.wide(a.states())], axes=a.axes(), keepdims=int(a["keepdim"]))

    return add


def _sum(trace: Trace, a: Arguments) -> str:
    inputs = [trace.wide(a.states()), trace.constant(a.axes())]
    return trace.node("ReduceSum", inputs, keepdims=int(a["keepdim"]))


def _norm(trace: Trace, a: Arguments) -> str:
    if a["ord"] != 2:
        raise InputError(f"a vision tower computes a norm of order {a['ord']}; the export has order 2 only")
    return trace.node("ReduceL2", [trace.wide(a.states())], axes=a.axes(), keepdims=int(a["keepdim"]))


def _softmax(trace: Trace, a: Arguments) -> str:
    return trace.node("Softmax", [trace.wide(a.states())], axis=a["dim"])


def _layer_norm(trace: Trace, a: Arguments) -> str:
    width = len(a["normalized_shape"])
    shape = a["normalized_shape"]
    states = trace.wide(a.states("input"))
    weight, bias = (
        trace.wide(a.states(name)) if a[name] is not None else trace.constant(torch.full(shape, fill).numpy(), states)
        for name, fill in (("weight", 1.0), ("bias", 0.0))
    )
    return trace.node("LayerNormalization", [states, weight, bias], axis=-width, epsilon=a["eps"])


def _group_norm(trace: Trace, a: Arguments) -> str:
    """Normalize each group as one channel, then scale and shift the channels."""
    states, groups, channels = trace.wide(a.states("input")), int(a["group"]), int(a["C"])
    columns = trace.node("Reshape", [states, trace.constant([0, groups, -1])])
    ones, zeros = (trace.constant(torch.full((groups,), fill).numpy(), columns) for fill in (1.0, 0.0))
    normed = trace.node("InstanceNormalization", [columns, ones, zeros], epsilon=a["eps"])
    result = trace.node("Reshape", [normed, trace.constant([-1, *a.shape[1:]])])
    column = trace.constant([channels, *[1] * (len(a.shape) - 2)])
    for name, op in (("weight", "Mul"), ("bias", "Add")):
        if a[name] is not None:
            result = trace.node(op, [result, trace.node("Reshape", [trace.wide(a.states(name)), column])])
    return result


def _addmm(trace: Trace, a: Arguments) -> str:
    if (a["alpha"], a["beta"]) != (1, 1):
        raise InputError("a vision tower computes a scaled addmm, for which the export has no ONNX operator")
    return trace.node("Add", [_product(trace, a, "mat1", "mat2"), trace.operand_of(a["self"])])


def _product(trace: Trace, a: Arguments, first: str, second: str) -> str:
    return trace.node("MatMul", [trace.operand_of(a[first]), trace.operand_of(a[second])])


def _window(a: Arguments) -> dict[str, Any]:
    kernel, rank = _pair(a["kernel_size"]), a.rank() - 2
    padding = _pair(a["padding"], rank)
    return {
        "kernel_shape": _pair(kernel, rank),
        "strides": _pair(a["stride"] or kernel, rank),
        "pads": [*padding, *padding],
        "ceil_mode": int(a["ceil_mode"]),
    }


def _pair(value: Any, count: int = 2) -> list[int]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * count if len(values) == 1 else values


def _max_pool(trace: Trace, a: Arguments) -> str:
    return trace.node("MaxPool", [a.states()], dilations=_pair(a["dilation"]), **_window(a))


def _average_pool(trace: Trace, a: Arguments) -> str:
    if a["divisor_override"] is not None:
        raise InputError("a vision tower has an average pooling with a divisor of its own; the export has none")
    return trace.node("AveragePool", [a.states()], count_include_pad=int(a["count_include_pad"]), **_window(a))


def _adaptive_pool(trace: Trace, a: Arguments) -> str:
    """Average over equal windows; the sizes of images and of results are fixed."""
    sizes, wanted = a["self"].shape[-2:], a.shape[-2:]
    if any(size % out for size, out in zip(sizes, wanted, strict=True)):
        raise InputError(f"a vision tower pools {tuple(sizes)} to {tuple(wanted)}: windows of unequal size")
    window = [int(size // out) for size, out in zip(sizes, wanted, strict=True)]
    return trace.node("AveragePool", [a.states()], kernel_shape=window, strides=window)


def _pad(trace: Trace, a: Arguments) -> str:
    states, pads, rank = a.states(), list(a["pad"]), a.rank()
    axes = len(pads) // 2
    before = [0] * (rank - axes) + [pads[2 * i] for i in reversed(range(axes))]
    after = [0] * (rank - axes) + [pads[2 * i + 1] for i in reversed(range(axes))]
    # The graph's convention: "constant" mode with the value as an input.
    return trace.node("Pad", [states, trace.constant(before + after), trace.constant(float(a["value"]), states)])


def _reshape(trace: Trace, a: Arguments) -> str:
    # The length of the first axis follows from the others, so that a graph can have any number of images.
    return trace.node("Reshape", [a.states(), trace.constant([-1, *a.shape[1:]] if a.shape else [])])


def _permute(trace: Trace, a: Arguments) -> str:
    return trace.node("Transpose", [a.states()], perm=a.axes("dims"))


def _transpose(trace: Trace, a: Arguments) -> str:
    order, rank = list(range(a.rank())), a.rank()
    first, second = (a["dim0"] % rank, a["dim1"] % rank) if a.get("dim0") is not None else (0, 1)
    order[first], order[second] = order[second], order[first]
    return trace.node("Transpose", [a.states()], perm=order)


def _cat(trace: Trace, a: Arguments) -> str:
    return trace.node("Concat", trace.alike(*(trace.value_of(one) for one in a["tensors"])), axis=a["dim"])


def _stack(trace: Trace, a: Arguments) -> str:
    axis = a["dim"] % len(a.shape)
    parts = [trace.wide(trace.value_of(one)) for one in a["tensors"]]
    rows = [trace.node("Unsqueeze", [part, trace.constant([axis])]) for part in parts]
    return trace.node("Concat", rows, axis=axis)


def _split(trace: Trace, a: Arguments) -> list[str]:
    axis, size = a["dim"] % a.rank(), a.get("split_size")
    length = a["self"].shape[axis]
    sizes = a["split_sizes"] if size is None else [min(size, length - at) for at in range(0, length, size)]
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    return [_cut(trace, a, axis, end - width, end) for end, width in zip(ends, sizes, strict=True)]


def _cut(trace: Trace, a: Arguments, axis: int, start: int, end: int, step: int = 1) -> str:
    return trace.node("Slice", [a.states(), *(trace.constant([number]) for number in (start, end, axis, step))])


def _slice(trace: Trace, a: Arguments) -> str:
    axis = a["dim"] % a.rank()
    length = a["self"].shape[axis]
    start, end = a["start"] or 0, length if a["end"] is None else a["end"]
    start, end = (number + length if number < 0 else min(number, length) for number in (start, end))
    return _cut(trace, a, axis, start, end, a["step"])


def _select(trace: Trace, a: Arguments) -> str:
    axis = a["dim"] % a.rank()
    index = a["index"] % a["self"].shape[axis]
    return trace.node("Squeeze", [_cut(trace, a, axis, index, index + 1), trace.constant([axis])])


def _unbind(trace: Trace, a: Arguments) -> list[str]:
    axis = a["dim"] % a.rank()
    cuts = [_cut(trace, a, axis, n, n + 1) for n in range(a["self"].shape[axis])]
    return [trace.node("Squeeze", [cut, trace.constant([axis])]) for cut in cuts]


def _expand(trace: Trace, a: Arguments) -> str:
    kept = bool(a.shape) and a["self"].ndim == len(a.shape) and a["self"].shape[0] == a.shape[0]
    return trace.node("Expand", [a.states(), trace.constant([1, *a.shape[1:]] if kept else list(a.shape))])


def _upsample(mode: str) -> Operator:
    def add(trace: Trace, a: Arguments) -> str:
        corners = bool(a.get("align_corners", False))
        nearest: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        linear: dict[str, Any] = {"coordinate_transformation_mode": "align_corners" if corners else "half_pixel"}
        sizes, source = list(a.shape), a["self"].shape
        if any(size % length for size, length in zip(sizes, source, strict=True)):
            inputs = [a.states(), "", "", trace.constant(sizes)]
        else:  # factors, for any number of images
            factors = [size / length for size, length in zip(sizes, source, strict=True)]
            inputs = [a.states(), "", trace.graph.constant(factors, np.float32)]
        return trace.node("Resize", inputs, mode=mode, **(nearest if mode == "nearest" else linear))

    return add


def _same(trace: Trace, a: Arguments) -> str:
    return a.states()


OPERATORS: dict[str, Operator] = {
    "add": _binary("Add"),
    "sub": _binary("Sub"),
    "mul": _binary("Mul"),
    "div": _binary("Div"),
    "addcmul": _addcmul,
    "pow": _pow,
    "mean": _reduce("ReduceMean"),
    "amax": _reduce("ReduceMax"),
    "sum": _sum,
    "linalg_vector_norm": _norm,
    "_softmax": _softmax,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "addmm": _addmm,
    "mm": lambda trace, a: _product(trace, a, "self", "mat2"),
    "bmm": lambda trace, a: _product(trace, a, "self", "mat2"),
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _average_pool,
    "_adaptive_avg_pool2d": _adaptive_pool,
    "constant_pad_nd": _pad,
    "view": _reshape,
    "_unsafe_view": _reshape,
    "reshape": _reshape,
    "unsqueeze": _reshape,
    "squeeze": _reshape,
    "permute": _permute,
    "transpose": _transpose,
    "t": _transpose,
    "cat": _cat,
    "stack": _stack,
    "split": _split,
    "split_with_sizes": _split,
    "slice": _slice,
    "select": _select,
    "unbind": _unbind,
    "expand": _expand,
    "upsample_nearest2d": _upsample("nearest"),
    "upsample_bilinear2d": _upsample("linear"),
    "clone": _same,
    "alias": _same,
    "detach": _same,
    "_to_copy": _same,
}
