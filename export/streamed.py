"""Runs the language model in fp32 with one layer's weights in memory at a time, to verify models of any size."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from osprey_torch.config import OspreyConfig
from osprey_torch.readback import Read

log = logging.getLogger(__name__)

_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
LINEARS = (*_QKV, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
NORMS = ("input_layernorm", "post_attention_layernorm")
_LAYER_TENSORS = tuple(f"{part}.weight" for part in (*NORMS, *LINEARS))


@dataclass(frozen=True)
class PackedRows:
    """A prefix and its branches in one sequence, as `osprey_torch.packing` lays them out.

    embeds: float32 [S, H]. branches: int64 [S], 0 for the prefix, then 1, 2, ... for the branches, ascending. A row
    sees the prefix and its own branch, up to itself. One plain sequence is a prefix without branches.
    """

    embeds: torch.Tensor
    branches: torch.Tensor

    @classmethod
    def pack(cls, prefix: torch.Tensor, branches: Sequence[torch.Tensor] = ()) -> PackedRows:
        """Put branches [T_i, H] behind the prefix [P, H]."""
        lengths = torch.tensor([len(prefix), *(len(rows) for rows in branches)])
        return cls(torch.cat([prefix, *branches]), torch.repeat_interleave(torch.arange(len(lengths)), lengths))

    @property
    def positions(self) -> torch.Tensor:
        """int64 [S]: a branch goes on where the prefix ends."""
        index = torch.arange(len(self.branches))
        prefix = int((self.branches == 0).sum())
        first = torch.searchsorted(self.branches, self.branches)
        return torch.where(self.branches == 0, index, index - first + prefix)

    @property
    def visible(self) -> torch.Tensor:
        """bool [S, S]: whether the row sees the column."""
        query, key = self.branches[:, None], self.branches[None, :]
        return ((key == 0) | (key == query)) & torch.ones(len(query), len(query), dtype=torch.bool).tril()


class StreamedDecoder:
    """Runs the language model over whole sequences.

    read: gives tensors by their published names, `model.layers.N...`, `model.norm.weight` and `lm_head.weight`.
    layers: how many of the first layers there are, all of the config's by default.
    """

    def __init__(self, config: OspreyConfig, read: Read, layers: int | None = None) -> None:
        self.config = config
        self.layers = config.num_layers if layers is None else layers
        self._read = read

    def read_layer(self, index: int) -> dict[str, torch.Tensor]:
        """Return the weights of one layer by their names within it."""
        return {name: self._tensor(f"model.layers.{index}.{name}") for name in _LAYER_TENSORS}

    @torch.inference_mode()
    def run(self, sequences: Sequence[PackedRows]) -> list[torch.Tensor]:
        """Return the rows [S, H] of the last layer for every sequence."""
        states = [sequence.embeds for sequence in sequences]
        for index in range(self.layers):
            weights = self.read_layer(index)
            for number, sequence in enumerate(sequences):
                states[number] = _run_layer(self.config, weights, states[number], sequence)
            del weights  # before the next ones are read
            log.info("verify: layer %d of %d", index + 1, self.layers)
        return states

    @torch.inference_mode()
    def logits(self, rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the logits [R_i, V] of rows [R_i, H] of the last layer; reads the weights once."""
        norm, head = self._tensor("model.norm.weight"), self._tensor("lm_head.weight")
        return [functional.linear(_rms_norm(part, norm, self.config.rms_norm_eps), head) for part in rows]

    def _tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.require(self._read(name), np.float32, "W"))


@torch.inference_mode()
def _run_layer(
    config: OspreyConfig, weights: dict[str, torch.Tensor], states: torch.Tensor, sequence: PackedRows
) -> torch.Tensor:
    """Run one LLaMA layer: states [S, H] -> [S, H]."""

    def linear(part: str, rows: torch.Tensor) -> torch.Tensor:
        return functional.linear(rows, weights[f"{part}.weight"])

    def heads(rows: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = rows.view(len(rows), config.num_heads, config.head_dim).transpose(0, 1)
        return result

    rows = _rms_norm(states, weights["input_layernorm.weight"], config.rms_norm_eps)
    query, key, value = (heads(linear(part, rows)) for part in _QKV)
    cos, sin = _rotation(config, sequence.positions)
    attended = functional.scaled_dot_product_attention(
        _rotate(query, cos, sin)[None], _rotate(key, cos, sin)[None], value[None], attn_mask=sequence.visible
    )[0]
    rows = attended.transpose(0, 1).flatten(1)
    states = states + linear("self_attn.o_proj", rows)

    rows = _rms_norm(states, weights["post_attention_layernorm.weight"], config.rms_norm_eps)
    rows = functional.silu(linear("mlp.gate_proj", rows)) * linear("mlp.up_proj", rows)
    return states + linear("mlp.down_proj", rows)


def _rms_norm(rows: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + eps) * weight


def _rotation(config: OspreyConfig, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines [S, head_dim] of LLaMA's rotary embedding, whose pairs are (i, i + head_dim / 2)."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = positions[:, None].float() / config.rope_theta**exponents
    angles = torch.cat([angles, angles], dim=1)
    return angles.cos(), angles.sin()


def _rotate(rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = rows.chunk(2, dim=-1)
    return rows * cos + torch.cat([-second, first], dim=-1) * sin
