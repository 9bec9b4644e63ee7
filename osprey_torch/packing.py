"""Packed sequences: one image prefix and many region branches in one row; branches do not attend to each other.

The same layout as at run time, so that training computes the prefix once for all regions of an image, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from osprey_ros.decoding.prompt import IMAGE, MASK, POSITION, common_prefix

PREFIX = 0  # branch number of the shared prefix
PADDING = -1
NO_TARGET = -100


@dataclass(frozen=True)
class Sample:
    """One dialogue about an image and some of its regions, of one turn or more."""

    tokens: tuple[int, ...]  # with placeholders, see osprey_ros.decoding.prompt
    answers: tuple[bool, ...]  # which of the tokens belong to answers, and are learned
    regions: tuple[int, ...]  # index in the image of each region that is named, in the order of mention

    def __post_init__(self) -> None:
        named = self.tokens.count(MASK)
        if named != len(self.regions) or len(self.answers) != len(self.tokens):
            raise ValueError(
                f"{len(self.tokens)} tokens that name {named} regions came with {len(self.regions)} regions and "
                f"{len(self.answers)} marks of what is an answer"
            )

    @classmethod
    def of(cls, prompt: tuple[int, ...], answer: tuple[int, ...], *regions: int) -> Sample:
        """Return one question about a region or several, and its answer, which ends with the end-of-sequence token."""
        return cls(prompt + answer, (False,) * len(prompt) + (True,) * len(answer), regions)


@dataclass(frozen=True)
class PackedSequence:
    """All samples of one image in one row of length S; every array is int64 [S]."""

    tokens: np.ndarray  # token ids and placeholders; IMAGE repeated for every image token
    branches: np.ndarray  # 0 for the prefix, 1.. for the samples
    positions: np.ndarray  # position ids: a branch goes on where the prefix ends
    region: np.ndarray  # index of the region that a MASK or POSITION row stands for, else 0
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
        """Return bool [B, 1, S, S]: a row attends to the prefix and its own branch, up to itself."""
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
    shared = common_prefix([s.tokens for s in samples])
    # The row in front of an answer predicts its first token: it belongs to the branch.
    first_answers = [s.answers.index(True) for s in samples if any(s.answers)]
    shared = min([shared, *(first - 1 for first in first_answers)])
    prefix = _Rows.of(samples[0], slice(0, shared), image_tokens)
    branches = [_Rows.of(sample, slice(shared, None), image_tokens) for sample in samples]
    parts = [prefix, *branches]
    starts = [0] + [len(prefix.tokens)] * len(branches)
    return PackedSequence(
        tokens=np.concatenate([p.tokens for p in parts]),
        branches=np.concatenate([np.full(len(p.tokens), number) for number, p in enumerate(parts)]),
        positions=np.concatenate([start + np.arange(len(p.tokens)) for start, p in zip(starts, parts, strict=True)]),
        region=np.concatenate([p.region for p in parts]),
        targets=np.concatenate([p.targets() for p in parts]),
    )


def collate(sequences: Sequence[PackedSequence]) -> PackedBatch:
    """Pad to the longest sequence. Only padding attends to padding, and it has no targets."""
    fill = {"tokens": 0, "branches": PADDING, "positions": 0, "region": 0, "targets": NO_TARGET}

    def pad(name: str) -> torch.Tensor:
        rows = [torch.from_numpy(getattr(sequence, name)) for sequence in sequences]
        return pad_sequence(rows, batch_first=True, padding_value=fill[name])

    return PackedBatch(**{name: pad(name) for name in fill})


@dataclass(frozen=True)
class _Rows:
    """A piece of a sample with every image token in its place; arrays of one length."""

    tokens: np.ndarray
    answers: np.ndarray
    region: np.ndarray

    @classmethod
    def of(cls, sample: Sample, piece: slice, image_tokens: int) -> _Rows:
        tokens = np.asarray(sample.tokens)
        # `<mask>` and `<pos>` of one region stand side by side: the n-th of each belongs to the n-th region named.
        region = np.zeros(len(tokens), np.int64)
        region[tokens == MASK] = region[tokens == POSITION] = sample.regions
        tokens, region = tokens[piece], region[piece]
        repeats = np.where(tokens == IMAGE, image_tokens, 1)
        answers = np.asarray(sample.answers, bool)[piece]
        return cls(*(np.repeat(values, repeats) for values in (tokens, answers, region)))

    def targets(self) -> np.ndarray:
        """Return the next token of each row where that is to be learned."""
        following = np.append(self.tokens[1:], NO_TARGET)
        return np.where(np.append(self.answers[1:], False), following, NO_TARGET)
