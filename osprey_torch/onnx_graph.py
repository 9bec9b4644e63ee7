"""A small writer of ONNX graphs: nodes, constants and weights in, a checked model file out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from osprey_ros.errors import InputError
from osprey_ros.file_errors import native_path
from osprey_torch.weight_files import WeightFile

# Opset 17 is the newest that all supported runtimes read (TensorRT 10.3, onnxruntime from 1.17).
OPSET = 17
# The IR version that goes with an opset.
_IR_VERSIONS = {17: 8, 21: 10, 23: 11}
MICROSOFT = "com.microsoft"

# Weights of at least this size go into the external file, if there is one.
_EXTERNAL_FROM_BYTES = 1024
# Weights of at least this number of values are stored as float16 where that changes none of them.
_HALF_FROM = 1024
# Since opset 18 these take their axes as an input; ReduceSum has done so since 13.
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2")


class GraphBuilder:
    """Collects the parts of one graph in the order in which they run.

    With `external` every weight goes to that file as soon as it is added and does not stay in memory, so a model of
    any size is written with the memory of its largest tensor. Without it weights lie inside the `.onnx`.
    With `half` the graph computes in float16: constants and weights are float16 by default.
    With `compact` large weights that float16 holds exactly are stored as float16 and widened when the graph is loaded.
    Nodes have the form of opset 17; operators that it lacks have the form of the opset that they require.
    """

    def __init__(self, name: str, external: Path | None = None, half: bool = False, compact: bool = False) -> None:
        self.dtype = np.dtype(np.float16 if half else np.float32)
        self.compact = compact
        self._name = name
        self._external = None if external is None else WeightFile(external)
        self._opset = OPSET
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._domains = {""}
        self._notes: dict[str, str] = {}

    @property
    def onnx_type(self) -> int:
        """ONNX's name of the type in which the graph computes."""
        return helper.np_dtype_to_tensor_dtype(self.dtype)

    def note(self, key: str, value: str) -> None:
        """Add a line to the metadata of the model."""
        self._notes[key] = value

    def input(self, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> str:
        """Declare a graph input; a string in `shape` names a dynamic dimension. Returns the name."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(self, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> None:
        """Declare that the value called `name` is a graph output."""
        self._outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))

    def node(self, op: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: object) -> str:
        """Add a node with one output and returns the output's name."""
        return self.split_node(op, inputs, [output], domain, **attributes)[0]

    def split_node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs and returns their names."""
        self._domains.add(domain)
        self._nodes.append(
            helper.make_node(op, list(inputs), list(outputs), name=outputs[0], domain=domain, **attributes)
        )
        return list(outputs)

    def cast(self, states: str, name: str, dtype: np.dtype | type) -> str:
        """Add a Cast of `states` to a numpy type."""
        return self.node("Cast", [states], name, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def wide(self, states: str) -> str:
        """Cast the states to float32."""
        return self.cast(states, f"{states}.wide", np.float32) if self.dtype == np.float16 else states

    def narrow(self, states: str) -> str:
        """Cast float32 states to the type in which the graph computes."""
        return self.cast(states, f"{states}.narrow", np.float16) if self.dtype == np.float16 else states

    def constant(
        self, values: np.ndarray | Sequence[int] | Sequence[float] | int | float, dtype: np.dtype | type | None = None
    ) -> str:
        """Return the name of a small constant; equal ones are shared.

        dtype: by default int64 for integers and the type in which the graph computes for reals.
        """
        array = np.asarray(values)
        array = array.astype(dtype or (np.int64 if array.dtype.kind in "iu" else self.dtype))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant.{len(self._constants)}"
            self._initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def weight(self, name: str, array: np.ndarray, half: bool = False, dtype: np.dtype | type | None = None) -> str:
        """Store a weight and returns the name under which nodes read it.

        dtype: the type in which nodes read real numbers, by default the one in which the graph computes. With `half`
        a weight that is read as float32 is stored as float16 and widened by a Cast, which runtimes fold away when
        they load the graph: half the bytes on disk, arithmetic in float32. A compact graph stores weights so that
        float16 holds exactly.
        Raises InputError for values that float16 cannot hold.
        """
        if array.dtype.kind != "f":
            return self.tensor(name, array)
        wanted = np.dtype(dtype or self.dtype)
        if wanted == np.float32 and (half or (self.compact and fits_half(array))):
            return self.cast(self.tensor(f"{name}.half", to_half(name, array)), name, np.float32)
        array = to_half(name, array) if wanted == np.float16 else array.astype(wanted, copy=False)
        return self.tensor(name, array)

    def tensor(self, name: str, array: np.ndarray) -> str:
        """Store a tensor of any type under a name, which is returned."""
        if self._external is not None and array.nbytes >= _EXTERNAL_FROM_BYTES:
            self._initializers.append(self._external.add(name, array))
        else:
            self._initializers.append(numpy_helper.from_array(array, name))
        return name

    def stored(self, tensor: TensorProto) -> str:
        """Add a tensor that lies in a file beside the graph already; it is not read. Returns the name."""
        self._initializers.append(tensor)
        return tensor.name

    def require_opset(self, opset: int) -> None:
        """Raise the opset of the graph, for an operator that needs it: 17, 21 or 23."""
        if opset not in _IR_VERSIONS:
            raise ValueError(f"opset must be one of {', '.join(map(str, _IR_VERSIONS))}, not {opset}")
        self._opset = max(self._opset, opset)

    def save(self, path: Path) -> None:
        """Write the model to `path` after onnx's checker has accepted it. A second call is not possible."""
        if self._external is not None:
            self._external.close()
        if self._opset >= 18:
            for node in self._nodes:
                self._respell(node)
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._initializers)
        opsets = [helper.make_opsetid(domain, self._opset if domain == "" else 1) for domain in sorted(self._domains)]
        model = helper.make_model(
            graph, producer_name="osprey_ros", ir_version=_IR_VERSIONS[self._opset], opset_imports=opsets
        )
        helper.set_model_props(model, self._notes)
        onnx.save_model(model, os.fspath(path))
        onnx.checker.check_model(native_path(path))

    def _respell(self, node: onnx.NodeProto) -> None:
        """Write what opset 18 has changed in the new way: axes of reductions, Split into equal parts."""
        if node.op_type in _REDUCTIONS:
            for index, attribute in enumerate(node.attribute):
                if attribute.name == "axes":
                    node.input.append(self.constant(list(attribute.ints)))
                    del node.attribute[index]
                    break
        elif node.op_type == "Split" and len(node.input) == 1:
            node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))


def fits_half(array: np.ndarray) -> bool:
    """Return whether a weight is large, and float16 holds each of its values exactly."""
    if array.size < _HALF_FROM:
        return False
    with np.errstate(over="ignore"):
        return bool((array.astype(np.float16) == array).all())


def to_half(name: str, array: np.ndarray) -> np.ndarray:
    """Return the array as float16. Raises InputError for values that it cannot hold."""
    limit = float(np.finfo(np.float16).max)
    # Not np.abs: that would copy the array.
    if max(float(array.max(initial=0.0)), -float(array.min(initial=0.0))) > limit:
        raise InputError(f"weight {name} has values beyond float16 (|x| > {limit:.0f}): store it as fp32")
    return array.astype(np.float16)


def linear(graph: GraphBuilder, states: str, name: str, weight: np.ndarray, bias: np.ndarray, half: bool) -> str:
    """Add states @ weight.T + bias for weight [out, in] and bias [out] as torch stores them.

    half: store the weight as float16 (see `GraphBuilder.weight`); the bias has the type in which the graph computes.
    """
    matrix = graph.weight(f"{name}.weight", weight.T, half)
    product = graph.node("MatMul", [states, matrix], f"{name}.product")
    return graph.node("Add", [product, graph.weight(f"{name}.bias", bias)], name)


def gelu(graph: GraphBuilder, states: str, name: str) -> str:
    """Add the exact GELU, x * (1 + erf(x / sqrt 2)) / 2, in the spelling that runtimes fuse into one kernel."""
    scaled = graph.node("Div", [states, graph.constant(np.sqrt(2.0))], f"{name}.scaled")
    erf = graph.node("Erf", [scaled], f"{name}.erf")
    shifted = graph.node("Add", [erf, graph.constant(1.0)], f"{name}.shifted")
    product = graph.node("Mul", [states, shifted], f"{name}.product")
    return graph.node("Mul", [product, graph.constant(0.5)], name)
