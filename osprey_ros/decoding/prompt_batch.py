"""Prompts of one call behind their shared prefix: one branch for each pair of region and question."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from osprey_ros.decoding.embeddings import Embed
from osprey_ros.decoding.kv_cache import Prefix
from osprey_ros.decoding.prompt import MASK, POSITION

MAX_ROWS = 2048  # rows of one run over branches: attention scores and mask grow with its square

_FIRST_STEM = -2  # owner of the rows of the first stem; the next stem has the number below it


class Branches:
    """The rows that each branch begins with: its own, and before them those of a stem that branches can share.

    Args:
        questions: float32 [T_i, hidden size] for each of N branches, N and T_i at least 1.
        stems: float32 [U_j, hidden size] for each stem.
        stem_of: Index of the stem of each branch, or -1. Empty if no branch has a stem.

    Attributes:
        count: N.
        lengths: Integers [N], the number of rows of each question.
        stem_lengths: Integers [N], the number of rows of each branch's stem.
        stem_owners: Integers [N], the owner of the rows of each branch's stem: the branch itself if it has none.
        stem_rows: Number of rows of all stems.
        rows: Number of rows of all questions and stems.
        longest: Largest number of rows of a branch, including its stem; 0 without branches.
    """

    def __init__(
        self, questions: Sequence[np.ndarray], stems: Sequence[np.ndarray] = (), stem_of: Sequence[int] = ()
    ) -> None:
        self.questions, self.stems, self.stem_of = questions, stems, stem_of
        self.count = len(questions)
        self.lengths = np.array([len(rows) for rows in questions], dtype=np.intp)
        self.stem_lengths, self.stem_owners = np.zeros(self.count, np.intp), np.arange(self.count, dtype=np.intp)
        if len(stem_of):
            of = np.asarray(stem_of, dtype=np.intp)
            self.stem_lengths = np.array([len(stem) for stem in stems] + [0], dtype=np.intp)[of]  # -1 is the last one
            self.stem_owners = np.where(of >= 0, _FIRST_STEM - of, self.stem_owners)
        self.stem_rows = sum(len(stem) for stem in stems)
        self.rows = int(self.lengths.sum()) + self.stem_rows
        self.longest = int((self.lengths + self.stem_lengths).max(initial=0))

    def part(self, which: slice) -> Branches:
        """Return some of the branches, with their stems."""
        stem_of = self.stem_of[which]
        used = sorted(set(stem_of) - {-1})
        places = {stem: place for place, stem in enumerate(used)} | {-1: -1}
        return Branches(self.questions[which], [self.stems[s] for s in used], [places[stem] for stem in stem_of])


class RunRows(NamedTuple):
    """S rows for one run of the decoder.

    Attributes:
        embeds: float32 [S, hidden size].
        positions: Integers [S].
        owners: Integers [S], the branch or stem of each row.
    """

    embeds: np.ndarray
    positions: np.ndarray
    owners: np.ndarray


class RowPacker:
    """Collects rows for one run of the decoder."""

    def __init__(self) -> None:
        self.count = 0
        self._pieces: list[RunRows] = []

    def add(self, rows: np.ndarray, owners: np.ndarray, positions: np.ndarray) -> None:
        """Add rows, float32 [n, hidden size], with the owner and the position of each, integers [n]."""
        self._pieces.append(RunRows(rows, positions, owners))
        self.count += len(rows)

    def add_stems(self, branches: Branches, position: int) -> None:
        """Add all stems, each from this position on."""
        for index, rows in enumerate(branches.stems):
            self.add(rows, np.full(len(rows), _FIRST_STEM - index), position + np.arange(len(rows)))

    def add_questions(self, branches: Branches, which: np.ndarray, positions: np.ndarray) -> None:
        """Add the questions of some branches, integers [n] with n at least 1, each from its position on."""
        questions = [branches.questions[branch] for branch in which]
        lengths = branches.lengths[which]
        starts = np.cumsum(lengths) - lengths
        each = np.repeat(positions - starts, lengths) + np.arange(lengths.sum())
        self.add(np.concatenate(questions), np.repeat(which, lengths), each)

    def take(self) -> RunRows:
        """Return the rows in the order in which they were added, and empty the packer."""
        pieces, self._pieces, self.count = self._pieces, [], 0
        if len(pieces) == 1:
            return pieces[0]
        return RunRows(*(np.concatenate(arrays) for arrays in zip(*pieces, strict=True)))


def split_rows(rows: Sequence[int], most: int, extra_rows: int, most_rows: int) -> Iterator[slice]:
    """Split items with these numbers of rows into slices of at most ``most`` items and ``most_rows`` rows.

    Each slice has ``extra_rows`` rows in addition, and at least one item.
    """
    start, total = 0, extra_rows
    for index, own in enumerate(rows):
        if index > start and (index - start == most or total + own > most_rows):
            yield slice(start, index)
            start, total = index, extra_rows
        total += own
    if start < len(rows):
        yield slice(start, len(rows))


def causal_mask(owners: np.ndarray) -> np.ndarray:
    """Return which packed rows attend to which, bool [S, S]: each to itself and to earlier rows of its owner [S]."""
    return np.tril(owners[:, None] == owners)


@dataclass(frozen=True)
class PromptBatch:
    """Questions about regions, ready for the decoder.

    Attributes:
        region_ids: Region id of each branch of a question; 0 if the branch is about all regions.
        questions: The texts of the questions.
        prefix: The rows that all branches share.
        branches: All regions for the first question, then all for the second, and so on.
        unlike_training: float32, the score of each branch of a question; the highest if it is about all regions.
    """

    region_ids: Sequence[int]
    questions: Sequence[str]
    prefix: Prefix
    branches: Branches
    unlike_training: np.ndarray

    @property
    def keys(self) -> list[tuple[int, ...]]:
        """Numbers that identify each branch by region and question, whatever else is asked: seeds of its sampling."""
        questions = [zlib.crc32(question.encode()) for question in self.questions]
        return [(question, region & 0xFFFFFFFF) for question in questions for region in self.region_ids]


def build_branches(
    tails: Sequence[tuple[int, ...]], mask_tokens: np.ndarray, position_tokens: np.ndarray, embed: Embed
) -> Branches:
    """Build a branch for each region and each prompt tail: all regions for the first tail, then for the second.

    The words of a question before its region are the same for all regions. They become a stem that its branches share.

    Args:
        tails: Token ids behind the prefix, with one MASK and one POSITION each.
        mask_tokens, position_tokens: float32 [N, hidden size], the two tokens of each region.
        embed: Returns the rows of token ids.
    """
    count = len(mask_tokens)
    rows: list[np.ndarray] = []
    stems: list[np.ndarray] = []
    stem_of: list[int] = []
    for tail in tails:
        at = tail.index(MASK)
        stem_of += [len(stems) if at else -1] * count
        if at:
            stems.append(embed(np.array(tail[:at], dtype=np.intp)))
        words = embed(np.maximum(tail[at:], 0))
        own = np.empty((count, *words.shape), dtype=words.dtype)
        own[:] = words
        own[:, 0] = mask_tokens
        own[:, tail.index(POSITION) - at] = position_tokens
        rows += list(own)
    return Branches(rows, stems, stem_of)


def build_joint_branch(
    tail: tuple[int, ...], mask_tokens: np.ndarray, position_tokens: np.ndarray, embed: Embed
) -> Branches:
    """Build one branch for token ids that name all regions in order. Arguments as for `build_branches`."""
    ids = np.array(tail, dtype=np.intp)
    rows = embed(np.maximum(ids, 0))
    rows[ids == MASK] = mask_tokens
    rows[ids == POSITION] = position_tokens
    return Branches([rows])
