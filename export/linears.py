"""Stores the decoder's linear layers and adds their products to a graph.

Quantized weights (`osprey_torch.quantize`) have two forms in a graph. MatMulNBits is for onnxruntime. Block-wise
DequantizeLinear of an INT4 weight with a MatMul is for TensorRT, which requires larger blocks, and for small decoders
in onnxruntime, which unpacks these weights when it loads the graph. Scales are stored as float16, which is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from osprey_ros.errors import InputError
from osprey_torch.onnx_graph import MICROSOFT, GraphBuilder, to_half
from osprey_torch.quantize import BLOCK, TENSORRT_BLOCK, QuantizedLinear, quantize_linear
from osprey_torch.stored_linears import stored_name
from osprey_torch.weight_files import load

# How the weight of a linear layer can be stored.
LINEAR_PRECISIONS = ("int4", "int8", "fp16", "fp32")

# The first opset whose DequantizeLinear has INT4 and blocks.
_BLOCK_OPSET = 21


@dataclass(frozen=True)
class DecoderPrecision:
    """How the decoder's weights are stored and multiplied.

    Attributes:
        llm: one of LINEAR_PRECISIONS, for the layers.
        lm_head: one of LINEAR_PRECISIONS, for the output layer.
        method: one of `osprey_torch.quantize.METHODS`.
        dialect: "onnxruntime" or "tensorrt", the runtime of the graph.
        half: the graph computes in float16.
        unpacked: onnxruntime on the CPU unpacks int4 layers when it loads the graph. It multiplies with the stored
            levels only for a single row. Faster for small decoders.
    """

    llm: str = "int4"
    lm_head: str = "fp16"
    method: str = "clip"
    dialect: str = "onnxruntime"
    half: bool = False
    unpacked: bool = False

    def __post_init__(self) -> None:
        for part, value in (("llm", self.llm), ("lm_head", self.lm_head)):
            if self.dialect == "tensorrt" and value == "int8":
                raise InputError(f"{part} int8: TensorRT multiplies block-wise quantized weights as int4 only")
            if self.half and value == "fp32":
                raise InputError(f"{part} fp32: this decoder computes in fp16, choose fp16 or int4")
        if self.unpacked and not (self.in_place and self.llm == "int4"):
            raise InputError("layers are unpacked where they are int4 and onnxruntime multiplies them in float32")

    @property
    def block(self) -> int:
        """Number of neighboring inputs that share a scale of a quantized weight."""
        return TENSORRT_BLOCK if self.dialect == "tensorrt" else BLOCK

    @property
    def in_place(self) -> bool:
        """Whether the graph writes keys and values into one buffer (see export/graph_attention.py)."""
        return self.dialect == "onnxruntime" and not self.half

    def transposed(self, output: bool) -> bool:
        """Return whether quantized layers are stored as an INT4 weight [in, out] for DequantizeLinear."""
        return self.dialect == "tensorrt" or (self.unpacked and not output)

    def kind(self, output: bool) -> str:
        """Return the precision of the output layer or of all others."""
        return self.lm_head if output else self.llm


def accuracy_level(bits: int, in_features: int) -> int:
    """Return MatMulNBits' attribute: 4 multiplies in int8, 0 unpacks the weights and multiplies in float32.

    Measured on one AVX-512 core with onnxruntime 1.32: with 2048 inputs level 4 is 2.3 times as fast for one row and
    1.6 times for 16; with 192 to 512 inputs it is on a par for 16 rows and takes 2 to 3 times as long for 128 or more.
    For 8-bit weights level 0 has no fast kernel for few rows.
    """
    return 0 if bits == 4 and in_features < 1024 else 4


def encode(
    read: Callable[[str], np.ndarray], layers: Iterable[str], precision: DecoderPrecision, output: bool = False
) -> dict[str, np.ndarray]:
    """Read the weights of linears and returns the tensors that hold them side by side, by the parts' names.

    read(name) returns a tensor of the checkpoint as float32; `layers` are names without ".weight". The parts are
    `weight` [in, out] or, for int4 and int8, `levels` and `scales`.
    Raises InputError for weights that cannot be stored so.
    """
    kind = precision.kind(output)
    if kind in ("fp16", "fp32"):
        matrices = []
        for layer in layers:
            weight = read(f"{layer}.weight").T
            matrices.append(to_half(layer, weight) if kind == "fp16" else weight)
        matrix = matrices[0] if len(matrices) == 1 else np.concatenate(matrices, axis=1)
        return {"weight": matrix}
    quantized = []
    for layer in layers:
        weight = read(f"{layer}.weight")
        if weight.shape[1] % precision.block:
            raise InputError(
                f"{layer} has {weight.shape[1]} inputs, not a multiple of the block size {precision.block}: "
                "store it as fp16"
            )
        bits = int(kind.removeprefix("int"))
        quantized.append(quantize_linear(weight, bits, precision.method, layer, block=precision.block))
    levels = np.concatenate([q.levels for q in quantized])
    scales = np.concatenate([q.scales for q in quantized])
    joined = QuantizedLinear(levels, scales, quantized[0].in_features, quantized[0].bits)
    if precision.transposed(output):
        return _transposed_int4(joined)
    return {"levels": joined.packed(), "scales": scales.reshape(-1).astype(np.float16)}


@dataclass(frozen=True)
class StoredLinears:
    """Adds weights to a graph that lie in files beside it: no weight is read, any number of graphs can share them.

    index: initializers by name. inline: folder of the weight files, to copy the weights into the graph.
    """

    index: Mapping[str, TensorProto]
    precision: DecoderPrecision
    inline: Path | None = None

    def add(self, graph: GraphBuilder, states: str, layers: list[str], name: str, output: bool = False) -> str:
        """Add the product of `states` with the weights of bias-free linears, their outputs side by side.

        states: in the type in which the graph computes; so is the product. layers: names in the checkpoint without
        ".weight". output: whether they are the output layer. Returns `name`.
        Raises ValueError for linears that are not stored, or not side by side.
        """
        stored = stored_name(layers)
        dims = {}
        for part in ("weight",) if self.precision.kind(output) in ("fp16", "fp32") else ("levels", "scales"):
            dims[part] = self._add(graph, f"{stored}.{part}").dims
        return add_product(graph, states, stored, dims, name, self.precision, output)

    def vector(self, graph: GraphBuilder, name: str) -> str:
        """Add a vector of the checkpoint, such as the weight of a norm, as float32 and return its name."""
        self._add(graph, name)
        return name

    def _add(self, graph: GraphBuilder, name: str) -> TensorProto:
        if name not in self.index:
            raise ValueError(f"the weight files of the decoder hold no {name}")
        weight = self.index[name]
        if self.inline is None:
            graph.stored(weight)
        else:
            graph.tensor(name, load(weight, self.inline))
        return weight


def add_product(
    graph: GraphBuilder,
    states: str,
    stored: str,
    dims: Mapping[str, Sequence[int]],
    name: str,
    precision: DecoderPrecision,
    output: bool,
) -> str:
    """Add the product of `states` with the weight whose parts the graph has as `stored`.part, of shapes `dims`."""
    kind = precision.kind(output)
    if kind in ("fp16", "fp32"):
        matrix = f"{stored}.weight"
        if kind == "fp16" and not precision.half:
            matrix = graph.cast(matrix, f"{stored}.widened", np.float32)
        return graph.node("MatMul", [states, matrix], name)
    scales = f"{stored}.scales"
    if not precision.half:
        scales = graph.cast(scales, f"{stored}.widened_scales", np.float32)
    levels = f"{stored}.levels"
    if precision.transposed(output):
        graph.require_opset(_BLOCK_OPSET)
        block = dims["levels"][0] // dims["scales"][0]
        matrix = graph.node("DequantizeLinear", [levels, scales], f"{stored}.weight", axis=0, block_size=block)
        return graph.node("MatMul", [states, matrix], name)
    rows, blocks, width = dims["levels"]
    bits = 8 * width // BLOCK
    return graph.node(
        "MatMulNBits",
        [states, levels, scales],
        name,
        domain=MICROSOFT,
        K=blocks * BLOCK,
        N=rows,
        bits=bits,
        block_size=BLOCK,
        accuracy_level=accuracy_level(bits, blocks * BLOCK),
    )


def _transposed_int4(quantized: QuantizedLinear) -> dict[str, np.ndarray]:
    """Return levels as INT4 [in, out], scales [in / block, out]: the form in which MatMul reads its second factor."""
    rows, columns = quantized.out_features, quantized.in_features
    if rows % 2:
        raise InputError(f"a linear with {rows} outputs: a transposed INT4 weight needs an even number of them")
    levels = quantized.levels.reshape(rows, columns).T.astype(helper.tensor_dtype_to_np_dtype(TensorProto.INT4))
    return {"levels": levels, "scales": quantized.scales.T.astype(np.float16)}
