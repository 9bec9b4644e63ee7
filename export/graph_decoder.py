"""Builds the decoder graph: one LLaMA step over packed rows that share a prefix and belong to separate branches.

One sequence contains the rows of all branches, and a mask selects the rows to which each new row attends. The two forms
of attention in export/graph_attention.py have different inputs:

Shapes: S rows in this step, P prefix rows, B rows of the branch buffer, R rows whose logits are wanted, H hidden size.
    inputs_embeds [S, H], position_ids int64 [S], logit_rows int64 [R], and
    in `Apart`: mask float32 [S, B+S], prefix_key.i, prefix_value.i [P, K, D], branch_key.i, branch_value.i
        [B, K, D] of K heads of keys and values
    in `InPlace`: mask float32 [S, T], key.i, value.i [1, T, K * D]: T rows in all, the last S of them the new ones
 -> logits float32 [R, V], of each row the likeliest token, best_token int64 [R], and its natural-log probability,
    best_logprob float32 [R]; new_key.i, new_value.i of the S rows, shaped as those, with keys rotated to their
    positions and, in `InPlace`, times D**-0.25.
The mask is 0 where a row is visible and a large negative number where it is hidden. P and B may be 0. The graph
computes in float32 or float16, as do its keys, values and inputs_embeds; norms, rotation and softmax are float32 in
either case.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
from onnx import TensorProto

from export.graph_attention import Apart, Attention, HeadNorm, Heads, InPlace, rms_norm
from export.linears import DecoderPrecision
from osprey_ros.engines.onnxruntime import FEW_ROWS
from osprey_torch.config import OspreyConfig
from osprey_torch.language_models import FAMILIES, Family, RopeScaling
from osprey_torch.onnx_graph import MICROSOFT, GraphBuilder
from osprey_torch.stored_linears import PRODUCTS, attention_vectors


class Weights(Protocol):
    """Source of the weights, such as `export.linears.StoredLinears`."""

    @property
    def precision(self) -> DecoderPrecision: ...

    def add(self, graph: GraphBuilder, states: str, layers: list[str], name: str, output: bool = False) -> str: ...

    def vector(self, graph: GraphBuilder, name: str) -> str: ...


@dataclass(frozen=True)
class DecoderShape:
    """Sizes and constants of the language model.

    num_layers: how many layers the graph has, the first ones of the model. family: what sets the model apart.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    rms_norm_eps: float
    rope_theta: float
    family: Family = FAMILIES["llama"]
    rope_scaling: RopeScaling | None = None

    @property
    def heads(self) -> Heads:
        """What attention needs to know."""
        return Heads(
            self.num_layers,
            self.num_heads,
            self.num_kv_heads,
            self.head_dim,
            self.max_positions,
            self.rope_theta,
            self.rope_scaling,
        )

    @classmethod
    def of(cls, config: OspreyConfig) -> DecoderShape:
        """Return the decoder's part of a model configuration."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})


def build_decoder(shape: DecoderShape, linears: Weights, path: Path) -> None:
    """Write the decoder graph to `path`.

    `linears` adds the weights, layer after layer; its precision determines the type of the graph and its runtime.
    """
    _Decoder(shape, linears, GraphBuilder("decoder", half=linears.precision.half)).build(path)


class _Decoder:
    def __init__(self, shape: DecoderShape, linears: Weights, graph: GraphBuilder) -> None:
        self.shape = shape
        self.linears = linears
        self.graph = graph
        self.attention: Attention = (InPlace if linears.precision.in_place else Apart)(graph, shape.heads)

    def build(self, path: Path) -> None:
        graph, shape = self.graph, self.shape
        hidden = graph.input("inputs_embeds", ["S", shape.hidden_size], graph.onnx_type)
        self.attention.inputs()
        graph.input("logit_rows", ["R"], TensorProto.INT64)
        self.attention.shared()
        if self.attention.batch:
            hidden = graph.node("Unsqueeze", [hidden, graph.constant([0])], "embeds")
        added = None  # the last update, not yet added to `hidden`
        for layer in range(shape.num_layers):
            hidden, added = self._layer(layer, hidden, added)
        self._logits(hidden, added)
        if self.linears.precision.unpacked:
            graph.note(FEW_ROWS, "inputs_embeds")
        graph.output("logits", ["R", shape.vocab_size])
        graph.output("best_token", ["R"], TensorProto.INT64)
        graph.output("best_logprob", ["R"])
        self.attention.outputs()
        graph.save(path)

    def _layer(self, layer: int, hidden: str, added: str | None) -> tuple[str, str]:
        graph, name = self.graph, f"layers.{layer}"
        weights = f"model.layers.{layer}"
        hidden, normed = self._norm_of_sum(hidden, added, f"{weights}.input_layernorm.weight", f"{name}.input_norm")
        qkv = self._product(layer, "qkv", normed)
        if self.shape.family.qkv_bias:
            biases = graph.node("Concat", self._attention_vectors(weights)[:3], f"{name}.qkv_bias", axis=0)
            qkv = graph.node("Add", [qkv, graph.narrow(biases)], f"{name}.qkv_biased")
        head_norm = self._head_norm(weights, name) if self.shape.family.qk_norm else None
        # After the last keys and values, only the rows whose logits are computed continue.
        is_last = layer == self.shape.num_layers - 1
        context = self.attention.layer(layer, qkv, self._pick if is_last else None, head_norm)
        if is_last:
            hidden = self._pick(hidden, "logit_hidden")
        attended = self._product(layer, "attention_output", context)
        norm = f"{weights}.post_attention_layernorm.weight"
        hidden, normed = self._norm_of_sum(hidden, attended, norm, f"{name}.mlp_norm")
        gate, up = (self._product(layer, part, normed) for part in ("gate", "up"))
        sigmoid = graph.node("Sigmoid", [gate], f"{name}.sigmoid")
        silu = graph.node("Mul", [gate, sigmoid], f"{name}.silu")
        gated = graph.node("Mul", [silu, up], f"{name}.gated")
        return hidden, self._product(layer, "down", gated)

    def _attention_vectors(self, weights: str) -> list[str]:
        """Add the biases and head norms of a layer's attention; return their names, in the order of the weights."""
        return [self.linears.vector(self.graph, f"{weights}.{one}") for one in attention_vectors(self.shape.family)]

    def _head_norm(self, weights: str, name: str) -> HeadNorm:
        """Add the scales of the norms of queries and keys, one row for each head."""
        graph, shape = self.graph, self.shape
        scales = [
            graph.node("Expand", [vector, graph.constant([count, shape.head_dim])], f"{name}.{part}_scale")
            for vector, count, part in zip(
                self._attention_vectors(weights)[-2:],
                (shape.num_heads, shape.num_kv_heads),
                ("query", "key"),
                strict=True,
            )
        ]
        return HeadNorm(graph.node("Concat", scales, f"{name}.head_scale", axis=0), shape.rms_norm_eps)

    def _product(self, layer: int, name: str, states: str) -> str:
        """Add the product `name` of PRODUCTS for a layer."""
        linears = [f"model.layers.{layer}.{part}" for part in PRODUCTS[name]]
        return self.linears.add(self.graph, states, linears, f"layers.{layer}.{name}")

    def _pick(self, states: str, name: str) -> str:
        return self.graph.node("Gather", [states, "logit_rows"], name, axis=int(self.attention.batch))

    def _norm_of_sum(self, hidden: str, added: str | None, weight: str, name: str) -> tuple[str, str]:
        """Add the sum of hidden states and an update, and the norm of the sum. Return both names."""
        graph = self.graph
        if added is None:
            return hidden, self._rms_norm(hidden, weight, name)
        if not self.linears.precision.in_place:
            total = graph.node("Add", [hidden, added], f"{name}.input")
            return total, self._rms_norm(total, weight, name)
        scale = self.linears.vector(graph, weight)
        outputs = [f"{name}.output", "", "", f"{name}.input"]
        graph.split_node(
            "SkipSimplifiedLayerNormalization",
            [hidden, added, scale],
            outputs,
            MICROSOFT,
            epsilon=self.shape.rms_norm_eps,
        )
        return outputs[3], outputs[0]

    def _rms_norm(self, states: str, weight: str, name: str) -> str:
        scale = self.linears.vector(self.graph, weight)
        return self.graph.narrow(rms_norm(self.graph, states, scale, self.shape.rms_norm_eps, name))

    def _logits(self, hidden: str, added: str | None) -> None:
        _, normed = self._norm_of_sum(hidden, added, "model.norm.weight", "norm")
        if self.attention.batch:
            normed = self.graph.node("Squeeze", [normed, self.graph.constant([0])], "norm.rows")
        half = self.graph.dtype == np.float16
        name = "logits_half" if half else "logits"
        self.linears.add(self.graph, normed, ["lm_head"], name, output=True)
        if half:
            self.graph.cast(name, "logits", np.float32)
        self.graph.node("ArgMax", ["logits"], "best_token", axis=-1, keepdims=0)
        logprobs = self.graph.node("LogSoftmax", ["logits"], "logprobs", axis=-1)
        self.graph.node("ReduceMax", [logprobs], "best_logprob", axes=[-1], keepdims=0)
