"""Build the decoder as a standard batched graph: whole prompts in a batch, each with its own keys and values.

Exporters of language models write such graphs for onnxruntime: a batch axis and GroupQueryAttention, which rotates,
masks and updates the cache in place. The weights and the kernels of the linear layers are those of the bundle.

Shapes: B prompts, S new rows of each, C rows of cache, H hidden size, D size of a head.
    inputs_embeds [B, S, H], last_rows int64 [B] (S - 1: the row of the logits), seqlens_k int32 [B] (rows of
    each prompt including the new ones, minus one), total_sequence_length int32 [] (rows including the new ones),
    past_key.i, past_value.i [B, heads, C, D]
 -> logits [B, V], present_key.i, present_value.i of the same shape, to be bound to the memory of the past.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto

from benchmarks.baselines.weights import LlamaWeights, as_float
from osprey_torch.onnx_graph import MICROSOFT, GraphBuilder
from osprey_torch.quantize import BLOCK, QuantizedLinear


def build_batched_decoder(weights: LlamaWeights, path: Path) -> None:
    """Write the graph to `path` and its weights to a file beside it."""
    _Batched(weights, GraphBuilder("batched_decoder", path.with_name(f"{path.name}.data"))).build(path)


class _Batched:
    def __init__(self, weights: LlamaWeights, graph: GraphBuilder) -> None:
        self.weights = weights
        self.config = weights.config
        self.graph = graph

    def build(self, path: Path) -> None:
        graph, config = self.graph, self.config
        hidden = graph.input("inputs_embeds", ["B", "S", config.hidden_size])
        graph.input("last_rows", ["B"], TensorProto.INT64)
        graph.input("seqlens_k", ["B"], TensorProto.INT32)
        graph.input("total_sequence_length", [], TensorProto.INT32)
        cache: list[int | str] = ["B", config.num_heads, "C", config.head_dim]
        for layer in range(config.num_layers):
            for kind in ("key", "value"):
                graph.input(f"past_{kind}.{layer}", cache)
                graph.output(f"present_{kind}.{layer}", cache)
        half = config.head_dim // 2
        angles = np.arange(config.max_positions)[:, None] * config.rope_theta ** (-np.arange(half) / half)
        graph.weight("rope.cos", np.cos(angles).astype(np.float32))
        graph.weight("rope.sin", np.sin(angles).astype(np.float32))
        for layer in range(config.num_layers):
            hidden = self._layer(layer, hidden)
        # Only the last row of each prompt goes through the output layer.
        rows = graph.node("Unsqueeze", ["last_rows", graph.constant([1])], "last_rows.column")
        hidden = graph.node("GatherND", [hidden, rows], "last_hidden", batch_dims=1)
        self._linear(self._norm(hidden, "model.norm.weight", "norm"), "logits")
        graph.output("logits", ["B", config.vocab_size])
        graph.save(path)

    def _layer(self, layer: int, hidden: str) -> str:
        graph, config, name = self.graph, self.config, f"layers.{layer}"
        normed = self._norm(hidden, f"model.layers.{layer}.input_layernorm.weight", f"{name}.input_norm")
        attended, _, _ = graph.split_node(
            "GroupQueryAttention",
            [
                self._linear(normed, f"{name}.qkv"),
                "",
                "",
                f"past_key.{layer}",
                f"past_value.{layer}",
                "seqlens_k",
                "total_sequence_length",
                "rope.cos",
                "rope.sin",
            ],
            [f"{name}.context", f"present_key.{layer}", f"present_value.{layer}"],
            domain=MICROSOFT,
            num_heads=config.num_heads,
            kv_num_heads=config.num_heads,
            scale=1.0 / config.head_dim**0.5,
            do_rotary=1,
        )
        attended = self._linear(attended, f"{name}.attention_output")
        hidden = graph.node("Add", [hidden, attended], f"{name}.after_attention")
        normed = self._norm(hidden, f"model.layers.{layer}.post_attention_layernorm.weight", f"{name}.mlp_norm")
        gate, up = (self._linear(normed, f"{name}.{part}") for part in ("gate", "up"))
        silu = graph.node("Mul", [gate, graph.node("Sigmoid", [gate], f"{name}.sigmoid")], f"{name}.silu")
        down = self._linear(graph.node("Mul", [silu, up], f"{name}.gated"), f"{name}.down")
        return graph.node("Add", [hidden, down], f"{name}.output")

    def _norm(self, states: str, weight: str, name: str) -> str:
        """Add a root-mean-square norm in the form that onnxruntime fuses, with the sum before it, into one kernel."""
        graph = self.graph
        square = graph.node("Pow", [states, graph.constant(2.0)], f"{name}.square")
        mean = graph.node("ReduceMean", [square], f"{name}.mean", axes=[-1], keepdims=1)
        shifted = graph.node("Add", [mean, graph.constant(self.config.rms_norm_eps)], f"{name}.shifted")
        root = graph.node("Sqrt", [shifted], f"{name}.root")
        unit = graph.node("Div", [states, root], f"{name}.unit")
        return graph.node("Mul", [unit, graph.weight(weight, self.weights.norms[weight])], f"{name}.output")

    def _linear(self, states: str, name: str) -> str:
        graph, weight = self.graph, self.weights.linears[name]
        if name not in self.weights.levels:  # products that the engine unpacks are plain here as well
            weight = as_float(weight) if isinstance(weight, QuantizedLinear) else weight
            half = weight.dtype == np.float16
            return graph.node("MatMul", [states, graph.weight(f"{name}.weight", weight.T, half=half)], name)
        assert isinstance(weight, QuantizedLinear)
        packed = graph.weight(f"{name}.weight_packed", weight.packed())
        scales = graph.weight(f"{name}.weight_scales", weight.scales.reshape(-1))
        return graph.node(
            "MatMulNBits",
            [states, packed, scales],
            name,
            domain=MICROSOFT,
            K=weight.in_features,
            N=weight.out_features,
            bits=weight.bits,
            block_size=BLOCK,
            accuracy_level=self.weights.levels[name],
        )
