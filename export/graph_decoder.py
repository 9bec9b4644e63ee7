"""The decoder graph: one LLaMA step over packed rows that share a prefix and belong to separate branches.

There is no batch axis. Rows of all branches lie in one sequence; a mask says which rows of the branch buffer and of
this step each row may see, while the prefix is visible to all. Only attention scores are concatenated, never keys or
values: the prefix is read where it lies and the graph returns just the rows that are new.

Keys and values are laid out rows first, so that a runtime lets new rows be written straight behind the earlier ones.
The transposes around the products are part of them: onnxruntime reads the strided factors in place.

Shapes: S rows in this step, P prefix rows, B rows of the branch buffer, R rows whose logits are wanted, H hidden size.
    inputs_embeds [S, H], position_ids int64 [S], mask float32 [S, B+S] (0 visible, a large negative number hidden),
    logit_rows int64 [R], prefix_key.i, prefix_value.i [P, heads, D], branch_key.i, branch_value.i [B, heads, D]
 -> logits float32 [R, V], new_key.i, new_value.i [S, heads, D] with the rotary embedding already applied to keys.
P and B may be 0. The graph computes in float32 or float16, as do its keys, values and inputs_embeds; norms, rotation
and softmax are float32 in either case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from onnx import TensorProto

from export.linears import DecoderPrecision
from export.onnx_graph import GraphBuilder

_TO_THE_END = np.iinfo(np.int64).max  # as the end of a Slice
_SCORE_RANGE = 75.0  # exp(-75) = 3e-33: next to 1 it is nothing, divided by thousands of rows it is a normal number


class Weights(Protocol):
    """Where the weights come from: `export.linears.Linears` or `StoredLinears`."""

    @property
    def precision(self) -> DecoderPrecision: ...

    def add(self, graph: GraphBuilder, states: str, layers: list[str], name: str, output: bool = False) -> str: ...

    def vector(self, graph: GraphBuilder, name: str) -> str: ...


@dataclass(frozen=True)
class DecoderShape:
    """Sizes and constants of the language model that its weights do not tell.

    num_layers: how many layers the graph has, the first ones of the model.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    rms_norm_eps: float
    rope_theta: float


def rope_tables(shape: DecoderShape) -> tuple[np.ndarray, np.ndarray]:
    """Returns cosines and sines of every position's angles, float32 [max_positions, head_dim / 2]."""
    half = shape.head_dim // 2
    frequencies = shape.rope_theta ** (-np.arange(half, dtype=np.float64) / half)
    angles = np.arange(shape.max_positions, dtype=np.float64)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def build_decoder(
    shape: DecoderShape,
    linears: Weights,
    path: Path,
    external: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Writes the decoder graph to `path`.

    linears adds the weights, one layer after another, and says in which type the graph computes. external: side file
    for them, beside `path`; needed where they come to 2 GB or more and are not in files of their own.
    progress is called with each layer's name before it is written.
    """
    graph = GraphBuilder("decoder", external, half=linears.precision.half)
    _Decoder(shape, linears, graph, progress).build(path)


class _Decoder:
    def __init__(
        self,
        shape: DecoderShape,
        linears: Weights,
        graph: GraphBuilder,
        progress: Callable[[str], None] | None,
    ) -> None:
        self.shape = shape
        self.linears = linears
        self.graph = graph
        self.progress = progress

    def build(self, path: Path) -> None:
        graph, shape = self.graph, self.shape
        hidden = graph.input("inputs_embeds", ["S", shape.hidden_size], graph.onnx_type)
        graph.input("position_ids", ["S"], TensorProto.INT64)
        graph.input("mask", ["S", "B_plus_S"])
        graph.input("logit_rows", ["R"], TensorProto.INT64)
        for layer in range(shape.num_layers):
            for part, length in (("prefix", "P"), ("branch", "B")):
                for kind in ("key", "value"):
                    graph.input(f"{part}_{kind}.{layer}", [length, shape.num_heads, shape.head_dim], graph.onnx_type)
        self._shared_values()
        for layer in range(shape.num_layers):
            if self.progress is not None:
                self.progress(f"layer {layer}")
            hidden = self._layer(layer, hidden)
        self._logits(hidden)
        graph.output("logits", ["R", shape.vocab_size])
        for layer in range(shape.num_layers):
            for kind in ("key", "value"):
                graph.output(f"new_{kind}.{layer}", ["S", shape.num_heads, shape.head_dim], graph.onnx_type)
        graph.save(path)

    def _shared_values(self) -> None:
        """What every layer uses: rotary factors of this step's positions, and where the blocks of keys end."""
        graph = self.graph
        cosines, sines = rope_tables(self.shape)
        for name, table in (("cos", cosines), ("sin", sines)):
            weight = graph.weight(f"rope.{name}_table", table[:, None], dtype=np.float32)
            graph.node("Gather", [weight, "position_ids"], f"rope.{name}_half")
        graph.node("Neg", ["rope.sin_half"], "rope.minus_sin")
        graph.node("Concat", ["rope.cos_half", "rope.cos_half"], "rope.cos", axis=-1)
        # The halves of a head are swapped by the rotation; the sign goes with the sine.
        graph.node("Concat", ["rope.minus_sin", "rope.sin_half"], "rope.sin", axis=-1)
        for part in ("prefix", "branch"):
            lengths = graph.node("Shape", [f"{part}_key.0"], f"{part}.shape")
            graph.node("Gather", [lengths, graph.constant([0])], f"{part}.rows")
        graph.node("Add", ["prefix.rows", "branch.rows"], "past.rows")

    def _layer(self, layer: int, hidden: str) -> str:
        graph, name = self.graph, f"layers.{layer}"
        weights = f"model.layers.{layer}"
        normed = self._rms_norm(hidden, f"{weights}.input_layernorm.weight", f"{name}.input_norm")
        attended = self._attention(layer, normed)
        if self._is_last(layer):
            hidden = graph.node("Gather", [hidden, "logit_rows"], "logit_hidden", axis=0)
        hidden = graph.node("Add", [hidden, attended], f"{name}.after_attention")
        normed = self._rms_norm(hidden, f"{weights}.post_attention_layernorm.weight", f"{name}.mlp_norm")
        # Gate and up read the same rows: one product serves both.
        both = self.linears.add(
            graph, normed, [f"{weights}.mlp.gate_proj", f"{weights}.mlp.up_proj"], f"{name}.gate_up"
        )
        gate, up = graph.split_node("Split", [both], [f"{name}.gate", f"{name}.up"], axis=-1)
        sigmoid = graph.node("Sigmoid", [gate], f"{name}.sigmoid")
        silu = graph.node("Mul", [gate, sigmoid], f"{name}.silu")
        gated = graph.node("Mul", [silu, up], f"{name}.gated")
        down = self.linears.add(graph, gated, [f"{weights}.mlp.down_proj"], f"{name}.down")
        return graph.node("Add", [hidden, down], f"{name}.output")

    def _attention(self, layer: int, normed: str) -> str:
        graph, shape, name = self.graph, self.shape, f"layers.{layer}"
        heads, dim = shape.num_heads, shape.head_dim
        query = self._query_key_value(layer, normed)
        mask = "mask"
        if self._is_last(layer):
            # Behind the last keys and values only the rows whose logits are wanted go on.
            query = graph.node("Gather", [query, "logit_rows"], "logit_query", axis=0)
            mask = graph.node("Gather", [mask, "logit_rows"], "logit_mask", axis=0)
        query = graph.node("Transpose", [query], f"{name}.query_by_head", perm=[1, 0, 2])

        prefix, branch, new = (
            self._scores(query, f"{part}_key.{layer}", f"{name}.scores_{part}") for part in ("prefix", "branch", "new")
        )
        own = graph.node("Concat", [branch, new], f"{name}.scores_own", axis=-1)
        own = graph.node("Add", [self._wide(own), mask], f"{name}.scores_masked")
        scores = graph.node("Concat", [self._wide(prefix), own], f"{name}.scores", axis=-1)
        weights = self._narrow(graph.node("Softmax", [self._floored(scores, name)], f"{name}.attention", axis=-1))
        spans = ((graph.constant([0]), "prefix.rows"), ("prefix.rows", "past.rows"))
        spans = (*spans, ("past.rows", graph.constant([_TO_THE_END])))
        products = []
        for part, (start, end) in zip(("prefix", "branch", "new"), spans, strict=True):
            seen = graph.node("Slice", [weights, start, end, graph.constant([-1])], f"{name}.attention_{part}")
            by_head = graph.node("Transpose", [f"{part}_value.{layer}"], f"{name}.values_{part}", perm=[1, 0, 2])
            products.append(graph.node("MatMul", [seen, by_head], f"{name}.context_{part}"))
        context = graph.node("Sum", products, f"{name}.context")
        context = graph.node("Transpose", [context], f"{name}.context_by_row", perm=[1, 0, 2])
        context = graph.node("Reshape", [context, graph.constant([-1, heads * dim])], f"{name}.context_rows")
        return self.linears.add(graph, context, [f"model.layers.{layer}.self_attn.o_proj"], f"{name}.attention_output")

    def _query_key_value(self, layer: int, normed: str) -> str:
        """Makes new_key.i and new_value.i and returns the scaled query, all [S, heads, D]."""
        graph, name = self.graph, f"layers.{layer}"
        heads, dim = self.shape.num_heads, self.shape.head_dim
        projections = [f"model.layers.{layer}.self_attn.{part}_proj" for part in "qkv"]
        qkv = self.linears.add(graph, normed, projections, f"{name}.qkv")
        qkv = graph.node("Reshape", [qkv, graph.constant([-1, 3 * heads, dim])], f"{name}.qkv_heads")
        sizes = graph.constant([2 * heads, heads])
        unrotated, _ = graph.split_node("Split", [qkv, sizes], [f"{name}.query_key", f"new_value.{layer}"], axis=1)
        rotated = self._rotate(self._wide(unrotated), f"{name}.rotate")
        key = f"{name}.key" if self._half else f"new_key.{layer}"
        query, key = graph.split_node("Split", [rotated], [f"{name}.query", key], axis=1)
        if self._half:
            graph.cast(key, f"new_key.{layer}", np.float16)
        scale = graph.constant(1.0 / np.sqrt(dim), dtype=np.float32)
        return self._narrow(graph.node("Mul", [query, scale], f"{name}.scaled_query"))

    def _is_last(self, layer: int) -> bool:
        return layer == self.shape.num_layers - 1

    def _scores(self, query: str, key: str, name: str) -> str:
        transposed = self.graph.node("Transpose", [key], f"{name}.keys", perm=[1, 2, 0])
        return self.graph.node("MatMul", [query, transposed], name)

    def _floored(self, scores: str, name: str) -> str:
        """Scores with those of hidden rows raised to where their weight is nothing still, but no denormal number.

        The softmax of onnxruntime takes seven times as long on a CPU where most rows are hidden, because it computes
        weights below 1e-38. Raised, a hidden row gets 1e-33 of the largest weight, which changes no float32 sum.
        Graphs in float16 are for GPUs, which have no such trouble.
        """
        if self._half:
            return scores
        graph = self.graph
        largest = graph.node("ReduceMax", [scores], f"{name}.largest_score", axes=[-1], keepdims=1)
        floor = graph.node("Sub", [largest, graph.constant(_SCORE_RANGE)], f"{name}.score_floor")
        return graph.node("Max", [scores, floor], f"{name}.scores_floored")

    def _rotate(self, states: str, name: str) -> str:
        """Rotary embedding of [S, heads, D]: the halves of a head are the two coordinates of each rotated pair."""
        graph = self.graph
        first, second = graph.split_node("Split", [states], [f"{name}.first", f"{name}.second"], axis=-1)
        swapped = graph.node("Concat", [second, first], f"{name}.swapped", axis=-1)
        straight = graph.node("Mul", [states, "rope.cos"], f"{name}.straight")
        crossed = graph.node("Mul", [swapped, "rope.sin"], f"{name}.crossed")
        return graph.node("Add", [straight, crossed], f"{name}.rotated")

    def _rms_norm(self, states: str, weight: str, name: str) -> str:
        """Root-mean-square norm in the spelling that onnxruntime fuses into one kernel."""
        graph = self.graph
        states = self._wide(states)
        square = graph.node("Pow", [states, graph.constant(2.0, dtype=np.float32)], f"{name}.square")
        mean = graph.node("ReduceMean", [square], f"{name}.mean", axes=[-1], keepdims=1)
        epsilon = graph.constant(self.shape.rms_norm_eps, dtype=np.float32)
        root = graph.node("Sqrt", [graph.node("Add", [mean, epsilon], f"{name}.shifted")], f"{name}.root")
        unit = graph.node("Div", [states, root], f"{name}.unit")
        return self._narrow(graph.node("Mul", [unit, self.linears.vector(graph, weight)], f"{name}.output"))

    def _logits(self, hidden: str) -> None:
        normed = self._rms_norm(hidden, "model.norm.weight", "norm")
        name = "logits_half" if self._half else "logits"
        self.linears.add(self.graph, normed, ["lm_head"], name, output=True)
        if self._half:
            self.graph.cast(name, "logits", np.float32)

    @property
    def _half(self) -> bool:
        return self.graph.dtype == np.float16

    def _wide(self, states: str) -> str:
        """The states as float32."""
        return self.graph.cast(states, f"{states}.wide", np.float32) if self._half else states

    def _narrow(self, states: str) -> str:
        """Float32 states in the type in which the graph computes."""
        return self.graph.cast(states, f"{states}.narrow", np.float16) if self._half else states
