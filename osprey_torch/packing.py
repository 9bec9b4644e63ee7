"""Packed sequences: one image prefix and many region branches in one row, each branch blind to the others.

The same layout as at run time, so that training computes the prefix once for all regions of an image, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from osprey_ros.prompt import IMAGE, common_prefix

PREFIX = 0  # branch number of the shared prefix
PADDING = -1
NO_TARGET = -100


@dataclass(frozen=True)
class Sample:
    """One question about one region, with its answer."""

    region: int  # index of the region in its image
    prompt: tuple[int, ...]  # with placeholders, see osprey_ros.prompt
    answer: tuple[int, ...]  # ends with the end-of-sequence token


@dataclass(frozen=True)
class PackedSequence:
    """All samples of one image in one row of length S; every array is int64 [S]."""

    tokens: np.ndarray  # token ids and placeholders; IMAGE repeated for every image token
    branches: np.ndarray  # 0 for the prefix, 1.. for the samples
    positions: np.ndarray  # position ids: a branch goes on where the prefix ends
    region: np.ndarray  # region index of the row's branch, 0 in the prefix
    targets: np.ndarray  # next token where it belongs to an answer, else NO_TARGET


@dataclass(frozen=True)
class PackedBatch:
    """Packed sequences, padded to one length; every tensor is int64 [B, S]."""

    tokens: torch.Tensor
    branches: torch.Tensor
    positions: torch.Tensor
    region: torch.Tensor
    targets: torch.Tensor

    def attention_mask(self) -> torch.Tensor:
        """bool [B, 1, S, S]: a row sees the prefix and its own branch, up to itself."""
        query, key = self.branches[:, :, None], self.branches[:, None, :]
        causal = torch.ones(query.shape[1], query.shape[1], dtype=torch.bool, device=query.device).tril()
        visible = ((key == PREFIX) | (key == query)) & causal
        return visible[:, None]

    def to(self, device: torch.device | str) -> PackedBatch:
        return PackedBatch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def pack(samples: Sequence[Sample], image_tokens: int) -> PackedSequence:
    """Lay the samples of one image behind their longest common prefix."""
    if not samples:
        raise ValueError("no samples to pack: an image needs at least one")
    shared = common_prefix([s.prompt for s in samples])
    parts = [_Part(_expand(samples[0].prompt[:shared], image_tokens), branch=PREFIX, start=0, region=0, answer=0)]
    length = len(parts[0].tokens)
    for number, sample in enumerate(samples, 1):
        tokens = _expand(sample.prompt[shared:], image_tokens) + list(sample.answer)
        parts.append(_Part(tokens, number, length, sample.region, len(sample.answer)))
    return PackedSequence(
        tokens=np.concatenate([np.asarray(p.tokens) for p in parts]),
        branches=np.concatenate([np.full(len(p.tokens), p.branch) for p in parts]),
        positions=np.concatenate([p.start + np.arange(len(p.tokens)) for p in parts]),
        region=np.concatenate([np.full(len(p.tokens), p.region) for p in parts]),
        targets=np.concatenate([p.targets() for p in parts]),
    )


def collate(sequences: Sequence[PackedSequence]) -> PackedBatch:
    """Pad to the longest sequence. No row sees padding but padding itself, which carries no target."""
    length = max(len(s.tokens) for s in sequences)
    fill = {"tokens": 0, "branches": PADDING, "positions": 0, "region": 0, "targets": NO_TARGET}

    def stack(name: str) -> torch.Tensor:
        rows = np.full((len(sequences), length), fill[name], np.int64)
        for row, sequence in zip(rows, sequences, strict=True):
            values = getattr(sequence, name)
            row[: len(values)] = values
        return torch.from_numpy(rows)

    return PackedBatch(**{name: stack(name) for name in fill})


@dataclass(frozen=True)
class _Part:
    tokens: list[int]
    branch: int
    start: int
    region: int
    answer: int  # number of answer tokens at the end

    def targets(self) -> np.ndarray:
        targets = np.full(len(self.tokens), NO_TARGET, np.int64)
        if self.answer:
            targets[-self.answer - 1 : -1] = self.tokens[-self.answer :]
        return targets


def _expand(tokens: Sequence[int], image_tokens: int) -> list[int]:
    return [t for token in tokens for t in ([IMAGE] * image_tokens if token == IMAGE else [token])]
