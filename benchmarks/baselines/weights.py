"""Read the language model of a bundle as plain arrays, to give all decoders the same quantized weights."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.manifest import DECODER
from osprey_ros.errors import InputError
from osprey_torch.config import OspreyConfig
from osprey_torch.quantize import BLOCK, QuantizedLinear
from osprey_torch.stored_linears import PRODUCTS, quantized_linear


@dataclass(frozen=True)
class LlamaWeights:
    """The LLaMA weights of a bundle.

    Attributes:
        config: Sizes and constants.
        embeddings: float16 [vocab, hidden].
        linears: PRODUCTS of the decoder by their names in its graph, such as "layers.0.qkv", and "logits": quantized,
            or float [out, in].
        norms: float32 [hidden] by their names in the checkpoint.
        levels: Accuracy level of MatMulNBits by product, without the products that the engine unpacks.
    """

    config: OspreyConfig
    embeddings: np.ndarray
    linears: dict[str, QuantizedLinear | np.ndarray]
    norms: dict[str, np.ndarray]
    levels: dict[str, int]

    def split(self, layer: int) -> dict[str, QuantizedLinear | np.ndarray]:
        """Return the separate linears of one layer by their names in the checkpoint ("self_attn.q_proj", ...)."""
        parts = {}
        for joined, names in PRODUCTS.items():
            weight = self.linears[f"layers.{layer}.{joined}"]
            rows = (weight.out_features if isinstance(weight, QuantizedLinear) else len(weight)) // len(names)
            for n, name in enumerate(names):
                parts[name] = rows_of(weight, np.arange(n * rows, (n + 1) * rows))
        return parts


def rows_of(weight: QuantizedLinear | np.ndarray, rows: np.ndarray) -> QuantizedLinear | np.ndarray:
    """Return a linear layer with these outputs only, in this order."""
    if isinstance(weight, QuantizedLinear):
        return QuantizedLinear(weight.levels[rows], weight.scales[rows], weight.in_features, weight.bits)
    selected: np.ndarray = weight[rows]
    return selected


def as_float(weight: QuantizedLinear | np.ndarray) -> np.ndarray:
    """Return the weight as float32 [out, in]."""
    if isinstance(weight, QuantizedLinear):
        return weight.dequantize()
    return np.asarray(weight, dtype=np.float32)


def _is(node: onnx.NodeProto | None, op: str) -> bool:
    return node is not None and node.op_type == op


def read_llama(bundle: Bundle) -> LlamaWeights:
    """Read the language model of a bundle. Raise InputError if the graph has other nodes than our exporter writes."""
    config = OspreyConfig.from_json(json.loads(bundle.path("config.json").read_text()))
    graph = onnx.load(bundle.path(DECODER)).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = {node.output[0]: node for node in graph.node}

    def array(name: str) -> np.ndarray:
        while name not in stored:  # half precision: skip the Cast to float32
            if name not in nodes or nodes[name].op_type != "Cast":
                raise InputError(f"{DECODER} does not store the weight {name}")
            name = nodes[name].input[0]
        return numpy_helper.to_array(stored[name])

    names = [f"layers.{layer}.{product}" for layer in range(config.num_layers) for product in PRODUCTS]
    linears: dict[str, QuantizedLinear | np.ndarray] = {}
    levels = {}
    for name in [*names, "logits"]:
        node = nodes.get(name)
        if node is not None and node.op_type == "MatMul" and _is(nodes.get(node.input[1]), "DequantizeLinear"):
            parts = zip(("levels", "scales"), map(array, nodes[node.input[1]].input), strict=True)
            linears[name] = quantized_linear(dict(parts))
        elif node is not None and node.op_type == "MatMul":
            linears[name] = np.ascontiguousarray(array(node.input[1]).T)
        elif node is not None and node.op_type == "MatMulNBits":
            attributes = {a.name: a.i for a in node.attribute}
            packed = array(node.input[1])
            scales = array(node.input[2]).astype(np.float32).reshape(len(packed), -1)
            if attributes["block_size"] != BLOCK:
                raise InputError(f"{name} of {DECODER} has blocks of {attributes['block_size']}, not {BLOCK}")
            linears[name] = QuantizedLinear.from_packed(packed, scales, attributes["K"], attributes["bits"])
            levels[name] = attributes.get("accuracy_level", 0)
        else:
            raise InputError(f"{DECODER} has no product {name} in a known form")
    norms = ["model.norm.weight"]
    for layer in range(config.num_layers):
        norms += [f"model.layers.{layer}.{part}_layernorm.weight" for part in ("input", "post_attention")]
    return LlamaWeights(config, bundle.embeddings(), linears, {name: array(name) for name in norms}, levels)
