"""The families of language models that can be Osprey's language part: what sets them apart is data.

All are decoders of LLaMA's kind: RMS norms, rotary positions, gated linear units, and parameter names as in
transformers. They differ in key-value heads, biases, norms of queries and keys, and the scaling of positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from osprey_torch.config_values import part, positive_number, whole_number

MOST_POSITIONS = 8192
"""Of a context: a prompt has about 1,100 rows and some for each region; tables for 131,072 positions take 64 MB."""


@dataclass(frozen=True)
class Family:
    """A family by its `model_type` in transformers.

    Attributes:
        name: What its classes in transformers begin with: `LlamaModel` and `LlamaConfig`.
        qkv_bias: Whether the projections to queries, keys and values have biases.
        qk_norm: Whether queries and keys have an RMS norm over each head, before they are rotated.
    """

    name: str
    qkv_bias: bool = False
    qk_norm: bool = False


FAMILIES: Mapping[str, Family] = {
    "llama": Family("Llama"),  # and Vicuna, SmolLM2
    "mistral": Family("Mistral"),
    "qwen2": Family("Qwen2", qkv_bias=True),
    "qwen3": Family("Qwen3", qk_norm=True),
}


@dataclass(frozen=True)
class RopeScaling:
    """Scaling of rotary positions as in Llama 3.1 (Grattafiori et al., arXiv 2407.21783; "llama3" in transformers).

    Frequencies with a wavelength above `original_positions / low_frequency` are divided by the factor, those with one
    below `original_positions / high_frequency` stay, and those between are mixed.
    """

    factor: float
    low_frequency: float
    high_frequency: float
    original_positions: int

    def apply(self, frequencies: np.ndarray) -> np.ndarray:
        """Return the scaled frequencies, float64 as given."""
        turns = self.original_positions * frequencies / (2 * math.pi)
        share = np.clip((turns - self.low_frequency) / (self.high_frequency - self.low_frequency), 0.0, 1.0)
        scaled: np.ndarray = (1 - share) * frequencies / self.factor + share * frequencies
        return scaled

    def to_json(self) -> dict[str, Any]:
        """Return `rope_scaling` of a `config.json`."""
        return {
            "rope_type": "llama3",
            "factor": self.factor,
            "low_freq_factor": self.low_frequency,
            "high_freq_factor": self.high_frequency,
            "original_max_position_embeddings": self.original_positions,
        }


def rope_scaling_of(data: Mapping[str, Any]) -> RopeScaling | None:
    """Return the scaling in `rope_scaling` or `rope_parameters` of a `config.json`, None for plain positions.

    Raises ValueError for another kind than "llama3", and for values that are missing or invalid.
    """
    scaling = part(data, "rope_scaling") or part(data, "rope_parameters")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ValueError(f"rope_scaling is {scaling!r}: positions scaled by {kind!r} are not supported, only 'llama3'")
    try:
        found = RopeScaling(
            positive_number(scaling, "factor"),
            positive_number(scaling, "low_freq_factor"),
            positive_number(scaling, "high_freq_factor"),
            whole_number(scaling, "original_max_position_embeddings"),
        )
    except KeyError as error:
        raise ValueError(f"rope_scaling lacks {error}") from error
    if found.high_frequency <= found.low_frequency:
        raise ValueError(f"rope_scaling is {scaling!r}: high_freq_factor must be above low_freq_factor")
    return found


def context_of(data: Mapping[str, Any]) -> int:
    """Return the number of positions that a model of a `config.json` takes here.

    It ends where a sliding window would hide the first rows: they are the image. Raises ValueError and KeyError.
    """
    positions = min(whole_number(data, "max_position_embeddings"), MOST_POSITIONS)
    if data.get("sliding_window") is None or data.get("use_sliding_window") is False:
        return positions
    return min(positions, whole_number(data, "sliding_window"))
