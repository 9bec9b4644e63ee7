"""A small writer of ONNX graphs: nodes, constants and weights in, a checked model file out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Opset 17 is the newest that every runtime we aim at reads (TensorRT 10.3, onnxruntime from 1.17); IR 8 goes with it.
OPSET = 17
IR_VERSION = 8
MICROSOFT = "com.microsoft"

# Weights from this size on are stored beside the graph where a side file is asked for.
_EXTERNAL_FROM_BYTES = 1024
_EXTERNAL_ALIGNMENT = 4096


class GraphBuilder:
    """Collects the parts of one graph in the order in which they run.

    With `external` every weight is appended to that file as soon as it is added and does not stay in memory, so a
    model of any size is written with the memory of its largest tensor. Without it weights lie inside the `.onnx`.
    """

    def __init__(self, name: str, external: Path | None = None) -> None:
        self._name = name
        self._external = external
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._domains = {""}
        if external is not None:
            external.write_bytes(b"")

    def input(self, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> str:
        """Declares a graph input; a string in `shape` names a dynamic dimension. Returns the name."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(self, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> None:
        """Declares that the value called `name` is a graph output."""
        self._outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))

    def node(self, op: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: object) -> str:
        """Adds a node with one output and returns the output's name."""
        return self.split_node(op, inputs, [output], domain, **attributes)[0]

    def split_node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: object
    ) -> list[str]:
        """Adds a node with several outputs and returns their names."""
        self._domains.add(domain)
        self._nodes.append(
            helper.make_node(op, list(inputs), list(outputs), name=outputs[0], domain=domain, **attributes)
        )
        return list(outputs)

    def constant(self, values: np.ndarray | Sequence[int] | Sequence[float] | int | float) -> str:
        """Returns the name of a small constant: int64 for integers, float32 for reals; equal ones are shared."""
        array = np.asarray(values)
        array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant.{len(self._constants)}"
            self._initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def weight(self, name: str, array: np.ndarray, half: bool = False) -> str:
        """Stores a weight and returns the name under which nodes read it.

        With `half` a float32 array is stored as float16 and widened by a Cast, which runtimes fold away when they
        load the graph: half the bytes on disk, arithmetic in float32.
        """
        if not half:
            self._store(name, np.ascontiguousarray(array))
            return name
        limit = float(np.finfo(np.float16).max)
        if float(np.abs(array).max(initial=0.0)) > limit:
            raise ValueError(f"weight {name} has values beyond float16 (|x| > {limit:.0f}): store it as fp32")
        self._store(f"{name}.half", np.ascontiguousarray(array.astype(np.float16)))
        return self.node("Cast", [f"{name}.half"], name, to=TensorProto.FLOAT)

    def save(self, path: Path) -> None:
        """Writes the model to `path` after onnx's checker has accepted it."""
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._initializers)
        opsets = [helper.make_opsetid(domain, OPSET if domain == "" else 1) for domain in sorted(self._domains)]
        model = helper.make_model(graph, producer_name="osprey_ros", ir_version=IR_VERSION, opset_imports=opsets)
        onnx.save_model(model, os.fspath(path))
        onnx.checker.check_model(os.fspath(path))

    def _store(self, name: str, array: np.ndarray) -> None:
        if self._external is None or array.nbytes < _EXTERNAL_FROM_BYTES:
            self._initializers.append(numpy_helper.from_array(array, name))
            return
        with self._external.open("ab") as file:
            file.write(b"\0" * (-file.tell() % _EXTERNAL_ALIGNMENT))
            offset = file.tell()
            array.tofile(file)
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self._external.name), ("offset", offset), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self._initializers.append(tensor)


def linear(graph: GraphBuilder, states: str, name: str, weight: np.ndarray, bias: np.ndarray, half: bool) -> str:
    """Adds states @ weight.T + bias for weight [out, in] and bias [out] as torch stores them; biases stay float32."""
    matrix = graph.weight(f"{name}.weight", weight.T, half)
    product = graph.node("MatMul", [states, matrix], f"{name}.product")
    return graph.node("Add", [product, graph.weight(f"{name}.bias", bias)], name)


def gelu(graph: GraphBuilder, states: str, name: str) -> str:
    """Adds the exact GELU, x * (1 + erf(x / sqrt 2)) / 2, in the spelling that runtimes fuse into one kernel."""
    scaled = graph.node("Div", [states, graph.constant(np.sqrt(2.0))], f"{name}.scaled")
    erf = graph.node("Erf", [scaled], f"{name}.erf")
    shifted = graph.node("Add", [erf, graph.constant(1.0)], f"{name}.shifted")
    product = graph.node("Mul", [states, shifted], f"{name}.product")
    return graph.node("Mul", [product, graph.constant(0.5)], name)
