"""The attention of a decode step to earlier rows and within the new rows, in two forms.

`Apart` uses operators that every runtime documents. Prefix, branches and new rows are three blocks: only scores are
concatenated, never keys or values, and the prefix is not copied.

`InPlace` is for onnxruntime on the CPU, where a node costs as much as a small product and a step of `Apart` is mostly
nodes. Keys and values of all rows are one input each, and the outputs new_key.i and new_value.i must be bound to the
memory of its last S rows. They are written before they are read: the only node that reads them is Attention, which
takes the query, too; and the query comes out of the same node as the new keys and a later one than the new values.
onnxruntime runs the nodes of a session one after another.

In both, keys and values are laid out rows first, so that new rows are written straight behind the earlier ones.
onnxruntime's Attention reads the heads of such rows where they lie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from onnx import TensorProto

from osprey_torch.language_models import RopeScaling
from osprey_torch.onnx_graph import GraphBuilder

_ATTENTION_OPSET = 23  # the first with the operator Attention
_TO_THE_END = np.iinfo(np.int64).max  # as the end of a Slice
_SCORE_RANGE = 75.0  # exp(-75) = 3e-33 is negligible beside 1, and normal even if divided by thousands of rows


@dataclass(frozen=True)
class Heads:
    """Sizes and constants of the attention of all layers.

    layers: how many the graph has. count, kv_count: heads of queries, and of keys and values. dim: size of each.
    """

    layers: int
    count: int
    kv_count: int
    dim: int
    max_positions: int
    rope_theta: float
    rope_scaling: RopeScaling | None = None

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers in a row of queries, and in one of keys or values."""
        return self.count * self.dim, self.kv_count * self.dim

    @property
    def group(self) -> int:
        """Heads of queries that share one head of keys and values."""
        return self.count // self.kv_count


@dataclass(frozen=True)
class HeadNorm:
    """The norm of each head of queries and keys. scale: name of float32 [query heads + key heads, D]."""

    scale: str
    epsilon: float


class Attention(Protocol):
    """One form. `inputs`, `outputs` and `shared` are called once, then `layer` for each layer in order."""

    batch: bool  # whether states are a batch of one, [1, S, H], or [S, H]

    def inputs(self) -> None:
        """Declare position_ids, the mask, keys and values."""

    def outputs(self) -> None:
        """Declare new_key.i and new_value.i."""

    def shared(self) -> None:
        """Add what all layers use."""

    def layer(self, layer: int, qkv: str, pick: Callable[[str, str], str] | None, norm: HeadNorm | None = None) -> str:
        """Make new_key.i and new_value.i of the projections qkv [..., S, (heads + 2 * KV heads) * D].

        Returns the context. norm: of queries and keys before they are rotated.
        pick(states, name) selects the rows whose logits are computed; None keeps all rows.
        The context is [..., S or R, heads * D].
        """


def rope_tables(heads: Heads, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return `factor` times cosines and sines of every position's angles, float32 [max_positions, dim / 2]."""
    half = heads.dim // 2
    frequencies = heads.rope_theta ** (-np.arange(half, dtype=np.float64) / half)
    if heads.rope_scaling is not None:
        frequencies = heads.rope_scaling.apply(frequencies)
    angles = np.arange(heads.max_positions, dtype=np.float64)[:, None] * frequencies
    return (factor * np.cos(angles)).astype(np.float32), (factor * np.sin(angles)).astype(np.float32)


def rms_norm(graph: GraphBuilder, states: str, scale: str, epsilon: float, name: str) -> str:
    """Add a root-mean-square norm, float32, in the form that onnxruntime fuses into one kernel."""
    states = graph.wide(states)
    square = graph.node("Pow", [states, graph.constant(2.0, dtype=np.float32)], f"{name}.square")
    mean = graph.node("ReduceMean", [square], f"{name}.mean", axes=[-1], keepdims=1)
    shifted = graph.node("Add", [mean, graph.constant(epsilon, dtype=np.float32)], f"{name}.shifted")
    unit = graph.node("Div", [states, graph.node("Sqrt", [shifted], f"{name}.root")], f"{name}.unit")
    return graph.node("Mul", [unit, scale], f"{name}.output")


class InPlace:
    """Attention over keys and values in one tensor that includes the new rows; float32 only."""

    def __init__(self, graph: GraphBuilder, heads: Heads) -> None:
        self._graph, self._heads = graph, heads
        self._query_width, self._width = heads.widths
        self.batch = True

    def inputs(self) -> None:
        """See `Attention`."""
        graph, heads = self._graph, self._heads
        graph.require_opset(_ATTENTION_OPSET)
        graph.input("position_ids", ["S"], TensorProto.INT64)
        graph.input("mask", ["S", "T"])
        for layer in range(heads.layers):
            for kind in ("key", "value"):
                graph.input(f"{kind}.{layer}", [1, "T", self._width])

    def outputs(self) -> None:
        """See `Attention`."""
        for layer in range(self._heads.layers):
            for kind in ("key", "value"):
                self._graph.output(f"new_{kind}.{layer}", [1, "S", self._width])

    def shared(self) -> None:
        """See `Attention`."""
        graph = self._graph
        positions = graph.node("Unsqueeze", ["position_ids", graph.constant([0])], "rope.positions")
        # Scores are divided by the root of the dimension: half of that here for queries, half for keys. Then Attention
        # has nothing to scale, and only so does onnxruntime multiply a single row by its kernels for single rows.
        for name, table in zip(("cos", "sin"), rope_tables(self._heads, self._heads.dim**-0.25), strict=True):
            weight = graph.weight(f"rope.{name}_table", table, dtype=np.float32)
            graph.node("Gather", [weight, positions], f"rope.{name}")

    def layer(self, layer: int, qkv: str, pick: Callable[[str, str], str] | None, norm: HeadNorm | None = None) -> str:
        """See `Attention`."""
        graph, heads, name = self._graph, self._heads, f"layers.{layer}"
        both_width = self._query_width + self._width
        sizes = graph.constant([both_width, self._width])
        unrotated, _ = graph.split_node("Split", [qkv, sizes], [f"{name}.query_key", f"new_value.{layer}"], axis=-1)
        factors, both = ["rope.cos", "rope.sin"], heads.count + heads.kv_count  # queries and keys rotate alike
        if norm is not None:
            by_head = graph.constant([1, -1, both, heads.dim])
            split = graph.node("Reshape", [unrotated, by_head], f"{name}.query_key_heads")
            normed = rms_norm(graph, split, norm.scale, norm.epsilon, f"{name}.head_norm")
            unrotated = graph.node("Reshape", [normed, graph.constant([1, -1, both_width])], f"{name}.query_key_normed")
        rotated = graph.node("RotaryEmbedding", [unrotated, *factors], f"{name}.rotated", num_heads=both)
        parts = [rotated] if heads.group == 1 else [rotated, graph.constant([self._query_width, self._width])]
        query, _ = graph.split_node("Split", parts, [f"{name}.query", f"new_key.{layer}"], axis=-1)
        mask = "mask"
        if pick is not None:
            query, mask = pick(query, "logit_query"), graph.node("Gather", [mask, "logit_rows"], "logit_mask", axis=0)
        return graph.node(
            "Attention",
            [query, f"key.{layer}", f"value.{layer}", mask],
            f"{name}.context",
            q_num_heads=heads.count,
            kv_num_heads=heads.kv_count,
            scale=1.0,
        )


class Apart:
    """Attention over prefix, branches and new rows as three blocks, in plain operators; float32 or float16."""

    def __init__(self, graph: GraphBuilder, heads: Heads) -> None:
        self._graph, self._heads = graph, heads
        self._half = graph.dtype == np.float16
        self.batch = False

    def inputs(self) -> None:
        """See `Attention`."""
        graph, heads = self._graph, self._heads
        graph.input("position_ids", ["S"], TensorProto.INT64)
        graph.input("mask", ["S", "B_plus_S"])
        for layer in range(heads.layers):
            for part, length in (("prefix", "P"), ("branch", "B")):
                for kind in ("key", "value"):
                    graph.input(f"{part}_{kind}.{layer}", [length, heads.kv_count, heads.dim], graph.onnx_type)

    def outputs(self) -> None:
        """See `Attention`."""
        graph, heads = self._graph, self._heads
        for layer in range(heads.layers):
            for kind in ("key", "value"):
                graph.output(f"new_{kind}.{layer}", ["S", heads.kv_count, heads.dim], graph.onnx_type)

    def shared(self) -> None:
        """See `Attention`: rotary factors of this step's positions, and where the blocks of keys end."""
        graph = self._graph
        for name, table in zip(("cos", "sin"), rope_tables(self._heads), strict=True):
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

    def layer(self, layer: int, qkv: str, pick: Callable[[str, str], str] | None, norm: HeadNorm | None = None) -> str:
        """See `Attention`."""
        graph, name = self._graph, f"layers.{layer}"
        query, mask = self._query(layer, qkv, norm), "mask"
        if pick is not None:
            query, mask = pick(query, "logit_query"), pick(mask, "logit_mask")
        query = self._by_head(query, f"{name}.query")
        prefix, branch, new = (
            self._scores(query, f"{part}_key.{layer}", f"{name}.scores_{part}") for part in ("prefix", "branch", "new")
        )
        own = graph.node("Concat", [branch, new], f"{name}.scores_own", axis=-1)
        own = graph.node("Add", [graph.wide(own), mask], f"{name}.scores_masked")
        scores = graph.node("Concat", [graph.wide(prefix), own], f"{name}.scores", axis=-1)
        if not self._half:  # graphs in float16 are for GPUs, which have no trouble with denormal numbers
            scores = self._floored(scores, name)
        weights = graph.narrow(graph.node("Softmax", [scores], f"{name}.attention", axis=-1))
        spans = (
            (graph.constant([0]), "prefix.rows"),
            ("prefix.rows", "past.rows"),
            ("past.rows", graph.constant([_TO_THE_END])),
        )
        products = []
        for part, (start, end) in zip(("prefix", "branch", "new"), spans, strict=True):
            seen = graph.node("Slice", [weights, start, end, graph.constant([-1])], f"{name}.attention_{part}")
            by_head = graph.node("Transpose", [f"{part}_value.{layer}"], f"{name}.values_{part}", perm=[1, 0, 2])
            by_head = self._for_group(by_head, f"{name}.values_{part}_group")
            products.append(graph.node("MatMul", [seen, by_head], f"{name}.context_{part}"))
        context = graph.node("Sum", products, f"{name}.context")
        order = [1, 0, 2] if self._heads.group == 1 else [2, 0, 1, 3]
        context = graph.node("Transpose", [context], f"{name}.context_by_row", perm=order)
        width = self._heads.count * self._heads.dim
        return graph.node("Reshape", [context, graph.constant([-1, width])], f"{name}.context_rows")

    def _by_head(self, query: str, name: str) -> str:
        """Return queries [S, heads, D] as [heads, S, D], or in groups for each KV head: [KV heads, group, S, D]."""
        graph, heads = self._graph, self._heads
        if heads.group == 1:
            return graph.node("Transpose", [query], f"{name}_by_head", perm=[1, 0, 2])
        shape = graph.constant([-1, heads.kv_count, heads.group, heads.dim])
        grouped = graph.node("Reshape", [query, shape], f"{name}_grouped")
        return graph.node("Transpose", [grouped], f"{name}_by_head", perm=[1, 2, 0, 3])

    def _for_group(self, states: str, name: str) -> str:
        """Return keys or values of each KV head in a form that its whole group multiplies with."""
        if self._heads.group == 1:
            return states
        return self._graph.node("Unsqueeze", [states, self._graph.constant([1])], name)

    def _query(self, layer: int, qkv: str, norm: HeadNorm | None) -> str:
        """Make new_key.i and new_value.i, [S, KV heads, D], and return the scaled query, [S, heads, D]."""
        graph, name = self._graph, f"layers.{layer}"
        heads, others, dim = self._heads.count, self._heads.kv_count, self._heads.dim
        qkv = graph.node("Reshape", [qkv, graph.constant([-1, heads + 2 * others, dim])], f"{name}.qkv_heads")
        sizes = graph.constant([heads + others, others])
        unrotated, _ = graph.split_node("Split", [qkv, sizes], [f"{name}.query_key", f"new_value.{layer}"], axis=1)
        if norm is None:
            states = graph.wide(unrotated)
        else:
            states = rms_norm(graph, unrotated, norm.scale, norm.epsilon, f"{name}.head_norm")
        rotated = self._rotate(states, f"{name}.rotate")
        key = f"{name}.key" if self._half else f"new_key.{layer}"
        parts = [rotated] if self._heads.group == 1 else [rotated, graph.constant([heads, others])]
        query, key = graph.split_node("Split", parts, [f"{name}.query", key], axis=1)
        if self._half:
            graph.cast(key, f"new_key.{layer}", np.float16)
        scale = graph.constant(1.0 / np.sqrt(dim), dtype=np.float32)
        return graph.narrow(graph.node("Mul", [query, scale], f"{name}.scaled_query"))

    def _scores(self, query: str, key: str, name: str) -> str:
        transposed = self._graph.node("Transpose", [key], f"{name}.keys", perm=[1, 2, 0])
        transposed = self._for_group(transposed, f"{name}.keys_group")
        return self._graph.node("MatMul", [query, transposed], name)

    def _rotate(self, states: str, name: str) -> str:
        """Add the rotary embedding of [S, heads, D]; the halves of a head hold the two coordinates of each pair."""
        graph = self._graph
        first, second = graph.split_node("Split", [states], [f"{name}.first", f"{name}.second"], axis=-1)
        swapped = graph.node("Concat", [second, first], f"{name}.swapped", axis=-1)
        straight = graph.node("Mul", [states, "rope.cos"], f"{name}.straight")
        crossed = graph.node("Mul", [swapped, "rope.sin"], f"{name}.crossed")
        return graph.node("Add", [straight, crossed], f"{name}.rotated")

    def _floored(self, scores: str, name: str) -> str:
        """Raise the scores of hidden rows until their weights are negligible, but not denormal.

        On processors that are slow with denormal numbers, a softmax over mostly hidden rows takes seven times as long.
        A raised row gets 1e-33 of the largest weight, which changes no float32 sum.
        """
        graph = self._graph
        largest = graph.node("ReduceMax", [scores], f"{name}.largest_score", axes=[-1], keepdims=1)
        floor = graph.node("Sub", [largest, graph.constant(_SCORE_RANGE)], f"{name}.score_floor")
        return graph.node("Max", [scores, floor], f"{name}.scores_floored")
