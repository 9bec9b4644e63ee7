"""The decoder graph: one LLaMA step over packed rows that share a prefix and belong to separate branches.

There is no batch axis. Rows of all branches lie in one sequence; a mask says which rows of the branch buffer and of
this step each row may see, while the prefix is visible to all. Only attention scores are concatenated, never keys or
values: the prefix is read where it lies and the graph returns just the rows that are new.

Shapes: S rows in this step, P prefix rows, B rows of the branch buffer, R rows whose logits are wanted, H hidden size.
    inputs_embeds [S, H], position_ids int64 [S], mask [S, B+S] (0 visible, a large negative number hidden),
    logit_rows int64 [R], prefix_key.i, prefix_value.i [heads, P, D], branch_key.i, branch_value.i [heads, B, D]
 -> logits [R, V], new_key.i, new_value.i [heads, S, D] with the rotary embedding already applied to keys.
P and B may be 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto

from export.onnx_graph import MICROSOFT, GraphBuilder
from export.quantize import BLOCK, quantize_linear

# What a linear layer's weight may be stored as.
LINEAR_PRECISIONS = ("int4", "int8", "fp16", "fp32")


@dataclass(frozen=True)
class DecoderShape:
    """Sizes and constants of the language model that its weights do not tell."""

    hidden_size: int
    num_layers: int
    num_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    rms_norm_eps: float
    rope_theta: float


@dataclass(frozen=True)
class DecoderPrecision:
    """How weights are stored, one of LINEAR_PRECISIONS: `llm` for the layers, `lm_head` for the output layer."""

    llm: str = "int4"
    lm_head: str = "fp16"

    def __post_init__(self) -> None:
        for part, kind in (("llm", self.llm), ("lm_head", self.lm_head)):
            if kind not in LINEAR_PRECISIONS:
                raise ValueError(f"{part} precision must be one of {', '.join(LINEAR_PRECISIONS)}, not {kind!r}")


def accuracy_level(bits: int, in_features: int) -> int:
    """MatMulNBits' attribute: 4 multiplies in int8, 0 unpacks the weights and multiplies in float32.

    Measured on one AVX-512 core with onnxruntime 1.32: with 2048 inputs level 4 is 2.3 times as fast for one row and
    1.6 times for 16; with 192 to 512 inputs it is on a par for 16 rows and takes 2 to 3 times as long for 128 or more.
    For 8-bit weights level 0 has no fast kernel for few rows.
    """
    return 0 if bits == 4 and in_features < 1024 else 4


def rope_tables(shape: DecoderShape) -> tuple[np.ndarray, np.ndarray]:
    """Returns cosines and sines of every position's angles, float32 [max_positions, head_dim / 2]."""
    half = shape.head_dim // 2
    frequencies = shape.rope_theta ** (-np.arange(half, dtype=np.float64) / half)
    angles = np.arange(shape.max_positions, dtype=np.float64)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def build_decoder(
    shape: DecoderShape,
    read: Callable[[str], np.ndarray],
    path: Path,
    precision: DecoderPrecision | None = None,
    external: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Writes the decoder graph to `path`.

    read(name) returns one tensor of the checkpoint as float32; tensors are read one layer at a time and not kept.
    external: side file for the weights, beside `path`; needed where they come to 2 GB or more.
    progress is called with each layer's name before it is written.
    """
    _Decoder(shape, read, precision or DecoderPrecision(), GraphBuilder("decoder", external), progress).build(path)


class _Decoder:
    def __init__(
        self,
        shape: DecoderShape,
        read: Callable[[str], np.ndarray],
        precision: DecoderPrecision,
        graph: GraphBuilder,
        progress: Callable[[str], None] | None,
    ) -> None:
        self.shape = shape
        self.read = read
        self.precision = precision
        self.graph = graph
        self.progress = progress

    def build(self, path: Path) -> None:
        graph, shape = self.graph, self.shape
        hidden = graph.input("inputs_embeds", ["S", shape.hidden_size])
        graph.input("position_ids", ["S"], TensorProto.INT64)
        graph.input("mask", ["S", "B_plus_S"])
        graph.input("logit_rows", ["R"], TensorProto.INT64)
        for layer in range(shape.num_layers):
            for part, length in (("prefix", "P"), ("branch", "B")):
                for kind in ("key", "value"):
                    graph.input(f"{part}_{kind}.{layer}", [shape.num_heads, length, shape.head_dim])
        self._shared_values()
        for layer in range(shape.num_layers):
            if self.progress is not None:
                self.progress(f"layer {layer}")
            hidden = self._layer(layer, hidden)
        self._logits(hidden)
        graph.output("logits", ["R", shape.vocab_size])
        for layer in range(shape.num_layers):
            for kind in ("key", "value"):
                graph.output(f"new_{kind}.{layer}", [shape.num_heads, "S", shape.head_dim])
        graph.save(path)

    def _shared_values(self) -> None:
        """What every layer uses: rotary factors of this step's positions and the lengths of the three key blocks."""
        graph = self.graph
        cosines, sines = rope_tables(self.shape)
        for name, table in (("cos", cosines), ("sin", sines)):
            graph.node("Gather", [graph.weight(f"rope.{name}_table", table), "position_ids"], f"rope.{name}_half")
        graph.node("Neg", ["rope.sin_half"], "rope.minus_sin")
        graph.node("Concat", ["rope.cos_half", "rope.cos_half"], "rope.cos", axis=-1)
        # The halves of a head are swapped by the rotation; the sign goes with the sine.
        graph.node("Concat", ["rope.minus_sin", "rope.sin_half"], "rope.sin", axis=-1)
        lengths = []
        for source, axis in (("prefix_key.0", 1), ("branch_key.0", 1), ("inputs_embeds", 0)):
            lengths.append(graph.node("Shape", [source], f"{source}.rows", start=axis, end=axis + 1))
        graph.node("Concat", lengths, "lengths", axis=0)

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
        both = self._linear(normed, [f"{weights}.mlp.gate_proj", f"{weights}.mlp.up_proj"], f"{name}.gate_up")
        gate, up = graph.split_node("Split", [both], [f"{name}.gate", f"{name}.up"], axis=-1)
        sigmoid = graph.node("Sigmoid", [gate], f"{name}.sigmoid")
        silu = graph.node("Mul", [gate, sigmoid], f"{name}.silu")
        gated = graph.node("Mul", [silu, up], f"{name}.gated")
        down = self._linear(gated, [f"{weights}.mlp.down_proj"], f"{name}.down")
        return graph.node("Add", [hidden, down], f"{name}.output")

    def _attention(self, layer: int, normed: str) -> str:
        graph, shape, name = self.graph, self.shape, f"layers.{layer}"
        heads, dim = shape.num_heads, shape.head_dim
        projections = [f"model.layers.{layer}.self_attn.{part}_proj" for part in "qkv"]
        qkv = self._linear(normed, projections, f"{name}.qkv")
        qkv = graph.node("Reshape", [qkv, graph.constant([-1, 3 * heads, dim])], f"{name}.qkv_heads")
        qkv = graph.node("Transpose", [qkv], f"{name}.qkv_by_head", perm=[1, 0, 2])
        sizes = graph.constant([2 * heads, heads])
        unrotated, new_value = graph.split_node(
            "Split", [qkv, sizes], [f"{name}.query_key", f"new_value.{layer}"], axis=0
        )
        rotated = self._rotate(unrotated, f"{name}.rotate")
        query, new_key = graph.split_node("Split", [rotated], [f"{name}.query", f"new_key.{layer}"], axis=0)
        query = graph.node("Mul", [query, graph.constant(1.0 / np.sqrt(dim))], f"{name}.scaled_query")
        mask = "mask"
        if self._is_last(layer):
            # Behind the last keys and values only the rows whose logits are wanted go on.
            query = graph.node("Gather", [query, "logit_rows"], "logit_query", axis=1)
            mask = graph.node("Gather", [mask, "logit_rows"], "logit_mask", axis=0)

        keys = (f"prefix_key.{layer}", f"branch_key.{layer}", new_key)
        scores = [self._scores(query, key, f"{name}.scores_{i}") for i, key in enumerate(keys)]
        masked = graph.node("Concat", scores[1:], f"{name}.scores_own", axis=-1)
        masked = graph.node("Add", [masked, mask], f"{name}.scores_masked")
        scores_all = graph.node("Concat", [scores[0], masked], f"{name}.scores", axis=-1)
        weights = graph.node("Softmax", [scores_all], f"{name}.attention", axis=-1)
        parts = graph.split_node("Split", [weights, "lengths"], [f"{name}.attention_{i}" for i in range(3)], axis=-1)
        values = (f"prefix_value.{layer}", f"branch_value.{layer}", new_value)
        products = [
            graph.node("MatMul", [part, value], f"{name}.context_{i}")
            for i, (part, value) in enumerate(zip(parts, values, strict=True))
        ]
        context = graph.node("Add", products[:2], f"{name}.context_past")
        context = graph.node("Add", [context, products[2]], f"{name}.context")
        context = graph.node("Transpose", [context], f"{name}.context_by_row", perm=[1, 0, 2])
        context = graph.node("Reshape", [context, graph.constant([-1, heads * dim])], f"{name}.context_rows")
        return self._linear(context, [f"model.layers.{layer}.self_attn.o_proj"], f"{name}.attention_output")

    def _is_last(self, layer: int) -> bool:
        return layer == self.shape.num_layers - 1

    def _scores(self, query: str, key: str, name: str) -> str:
        transposed = self.graph.node("Transpose", [key], f"{name}.key", perm=[0, 2, 1])
        return self.graph.node("MatMul", [query, transposed], name)

    def _rotate(self, states: str, name: str) -> str:
        """Rotary embedding of [heads, S, D]: the halves of a head are the two coordinates of each rotated pair."""
        graph = self.graph
        first, second = graph.split_node("Split", [states], [f"{name}.first", f"{name}.second"], axis=-1)
        swapped = graph.node("Concat", [second, first], f"{name}.swapped", axis=-1)
        straight = graph.node("Mul", [states, "rope.cos"], f"{name}.straight")
        crossed = graph.node("Mul", [swapped, "rope.sin"], f"{name}.crossed")
        return graph.node("Add", [straight, crossed], f"{name}.rotated")

    def _rms_norm(self, states: str, weight: str, name: str) -> str:
        """Root-mean-square norm in the spelling that onnxruntime fuses into one kernel."""
        graph = self.graph
        square = graph.node("Pow", [states, graph.constant(2.0)], f"{name}.square")
        mean = graph.node("ReduceMean", [square], f"{name}.mean", axes=[-1], keepdims=1)
        shifted = graph.node("Add", [mean, graph.constant(self.shape.rms_norm_eps)], f"{name}.shifted")
        root = graph.node("Sqrt", [shifted], f"{name}.root")
        unit = graph.node("Div", [states, root], f"{name}.unit")
        return graph.node("Mul", [unit, graph.weight(weight, self.read(weight))], f"{name}.output")

    def _logits(self, hidden: str) -> None:
        normed = self._rms_norm(hidden, "model.norm.weight", "norm")
        self._linear(normed, ["lm_head"], "logits", self.precision.lm_head)

    def _linear(self, states: str, layers: list[str], name: str, precision: str | None = None) -> str:
        """Product with the weights of one or more bias-free linear layers, their outputs side by side."""
        graph, precision = self.graph, precision or self.precision.llm
        weight = np.concatenate([self.read(f"{layer}.weight") for layer in layers])
        if precision in ("fp16", "fp32"):
            matrix = graph.weight(f"{name}.weight", weight.T, half=precision == "fp16")
            return graph.node("MatMul", [states, matrix], name)
        quantized = quantize_linear(weight, bits=int(precision.removeprefix("int")))
        levels = graph.weight(f"{name}.weight_packed", quantized.packed())
        scales = graph.weight(f"{name}.weight_scales", quantized.scales.reshape(-1))
        return graph.node(
            "MatMulNBits",
            [states, levels, scales],
            name,
            domain=MICROSOFT,
            K=quantized.in_features,
            N=quantized.out_features,
            bits=quantized.bits,
            block_size=BLOCK,
            accuracy_level=accuracy_level(quantized.bits, quantized.in_features),
        )
