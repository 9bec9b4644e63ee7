"""What follows the shared prefix: the rows of each question about each region, and what tells them apart."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from osprey_ros.decoding.branches import Branches
from osprey_ros.decoding.decoder import Prefix
from osprey_ros.decoding.loop import Embed
from osprey_ros.decoding.prompt import MASK, POSITION
from osprey_ros.regions.regions import Regions
from osprey_ros.results import EncodedRegions


@dataclass(frozen=True)
class Asked:
    """Questions about regions, ready for the decoder.

    ``branches``: all regions for the first question, then all for the second, and so on; if ``together``, one branch
    about all regions.
    """

    regions: Regions
    questions: tuple[str, ...]
    prefix: Prefix
    branches: Branches
    together: bool

    @property
    def keys(self) -> list[tuple[int, ...]]:
        """What tells a branch apart from all others, whatever else is asked: its region's id and its question."""
        ids = [0] if self.together else [int(region) & 0xFFFFFFFF for region in self.regions.ids]
        questions = [zlib.crc32(question.encode()) for question in self.questions]
        return [(question, region) for question in questions for region in ids]

    def region_of(self, branch: int) -> int:
        """Id of the region that a branch is about, 0 where it is about all."""
        return 0 if self.together else int(self.regions.ids[branch % len(self.regions)])


def branches_of(tails: Sequence[tuple[int, ...]], encoded: EncodedRegions, embed: Embed) -> Branches:
    """Branches for token ids that follow the prefix, one region named in each: all regions for each of them.

    The words of a question before its region are the same for all regions: shared by their branches, unless the prefix
    ends where they do. ``embed`` gives the rows float32 [n, hidden] of token ids [n].
    """
    count = len(encoded)
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
        own[:, 0] = encoded.mask_tokens
        own[:, tail.index(POSITION) - at] = encoded.position_tokens
        rows += list(own)
    return Branches(rows, stems, stem_of)


def branch_together(tail: tuple[int, ...], encoded: EncodedRegions, embed: Embed) -> Branches:
    """One branch for token ids in which all regions are named, in their order."""
    ids = np.array(tail, dtype=np.intp)
    rows = embed(np.maximum(ids, 0))
    rows[ids == MASK] = encoded.mask_tokens
    rows[ids == POSITION] = encoded.position_tokens
    return Branches([rows])
