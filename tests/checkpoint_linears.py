"""Linears that go from a checkpoint straight into a graph, for tests of graphs without files beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from export.linears import DecoderPrecision, add_product, encode
from osprey_torch.onnx_graph import GraphBuilder
from osprey_torch.stored_linears import quantized_linear, stored_name


@dataclass(frozen=True)
class Linears:
    """As `export.linears.StoredLinears`. read(name) returns a tensor of the checkpoint as float32."""

    read: Callable[[str], np.ndarray]
    precision: DecoderPrecision

    def add(self, graph: GraphBuilder, states: str, layers: list[str], name: str, output: bool = False) -> str:
        stored = stored_name(layers)
        parts = encode(self.read, layers, self.precision, output)
        for part, tensor in parts.items():
            graph.tensor(f"{stored}.{part}", tensor)
        dims = {part: tensor.shape for part, tensor in parts.items()}
        return add_product(graph, states, stored, dims, name, self.precision, output)

    def vector(self, graph: GraphBuilder, name: str) -> str:
        return graph.weight(name, self.read(name), dtype=np.float32)


def decode(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the weight that `encode` has stored, float32 [out, in]."""
    if "weight" in parts:
        return np.ascontiguousarray(parts["weight"].astype(np.float32).T)
    return quantized_linear(parts).dequantize()
