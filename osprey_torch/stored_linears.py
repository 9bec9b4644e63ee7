"""Names and parts under which the decoder's linears are stored in its graph; `export.linears` writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from osprey_torch.language_models import Family
from osprey_torch.quantize import BLOCK, QuantizedLinear

# The linears of a layer that are stored side by side and multiplied in one product.
PRODUCTS: dict[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention_output": ("self_attn.o_proj",),
    "gate": ("mlp.gate_proj",),
    "up": ("mlp.up_proj",),
    "down": ("mlp.down_proj",),
}


def attention_vectors(family: Family) -> list[str]:
    """Return the vectors of a layer's attention: biases of queries, keys and values, and norms of their heads."""
    biases = [f"{linear}.bias" for linear in PRODUCTS["qkv"]] if family.qkv_bias else []
    return biases + (["self_attn.q_norm.weight", "self_attn.k_norm.weight"] if family.qk_norm else [])


def stored_name(layers: Iterable[str]) -> str:
    """Return the name of linears stored side by side: model.layers.0.self_attn.q_proj+k_proj+v_proj."""
    first, *others = layers
    return "+".join([first, *(other.rsplit(".", 1)[1] for other in others)])


def stored_members(name: str) -> list[str]:
    """Return the linears that `stored_name` joined."""
    first, *others = name.split("+")
    return [first, *(f"{first.rsplit('.', 1)[0]}.{other}" for other in others)]


def quantized_linear(parts: Mapping[str, np.ndarray]) -> QuantizedLinear:
    """Return the levels and scales of stored int4 or int8 linears, in either form.

    parts: `levels` and `scales` as `export.linears.encode` returns them.
    """
    levels, scales = parts["levels"], parts["scales"].astype(np.float32)
    if levels.ndim == 2:  # INT4 [in, out]
        columns, rows = levels.shape
        by_row = levels.astype(np.int8).T.reshape(rows, len(scales), -1)
        return QuantizedLinear(np.ascontiguousarray(by_row), np.ascontiguousarray(scales.T), columns, 4)
    rows, blocks, width = levels.shape
    return QuantizedLinear.from_packed(levels, scales.reshape(rows, blocks), blocks * BLOCK, 8 * width // BLOCK)
