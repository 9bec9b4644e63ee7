"""What the describer answers: words and likelihoods, and where the time went. Plain data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from osprey_ros.regions.regions import Regions
from osprey_ros.timing import Timing


@dataclass(frozen=True)
class EncodedRegions:
    """Regions with the two tokens that the model sees of each, from `Describer.encode`.

    ``mask_tokens``, ``position_tokens``: float32 [N, hidden], what the region looks like and where it is. They belong
    to the picture that was set then, and are good whenever it is set. ``seconds``: wall time of the encoding.
    """

    regions: Regions
    mask_tokens: np.ndarray
    position_tokens: np.ndarray
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.regions)

    def select(self, ids: Iterable[int]) -> EncodedRegions:
        """Those with these ids, in this order, with the seconds of all. Raises RegionError as `Regions.select`."""
        kept = self.regions.select(ids)
        row_of = {int(region): row for row, region in enumerate(self.regions.ids)}
        rows = np.array([row_of[int(region)] for region in kept.ids], dtype=np.intp)
        return replace(
            self, regions=kept, mask_tokens=self.mask_tokens[rows], position_tokens=self.position_tokens[rows]
        )


@dataclass(frozen=True)
class Description:
    """Words about one region. ``tokens`` (int32) and ``logprobs`` (float32, natural logarithm) are the answer's own.

    ``region_id`` is 0 where the words are about several. ``ended`` is False where decoding was stopped before the
    answer was at its end or its limit. ``listed``: the answer was chosen from a list, and the probabilities are among
    what the list allows.
    """

    region_id: int
    text: str
    tokens: np.ndarray
    logprobs: np.ndarray
    ended: bool = True
    listed: bool = False

    @property
    def confidence(self) -> float:
        """How sure the answer is, in 0..1. It is not calibrated (see `osprey_ros.bundle.calibration`).

        Geometric mean of the probabilities of the answer's tokens; of an answer from a list its probability, where
        those of all answers in the list add up to 1. 0 where decoding was stopped before the first token.
        """
        if not len(self.logprobs):
            return 0.0
        return float(np.exp((np.sum if self.listed else np.mean)(self.logprobs, dtype=np.float64)))


@dataclass(frozen=True)
class Result(Sequence[Description]):
    """Answers to one question, one for each region in the order the regions were given."""

    question: str
    descriptions: tuple[Description, ...]
    timing: Timing

    def __len__(self) -> int:
        return len(self.descriptions)

    @overload
    def __getitem__(self, index: int) -> Description: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Description, ...]: ...

    def __getitem__(self, index: int | slice) -> Description | tuple[Description, ...]:
        return self.descriptions[index]


@dataclass(frozen=True)
class Update:
    """One more token of the answer about one region: the answer so far, and whether it has ended."""

    region_id: int
    text: str
    token: int
    logprob: float
    ended: bool


@dataclass(frozen=True)
class Scores:
    """How likely each phrase is as the answer to one question about each region.

    ``log_likelihoods`` float32 [regions, phrases]: natural logarithm of the probability that the answer is the phrase
    and ends there. ``token_logprobs[region][phrase]`` float32 [n]: its parts, the end-of-sequence token's the last.
    """

    question: str
    phrases: tuple[str, ...]
    region_ids: np.ndarray
    log_likelihoods: np.ndarray
    token_logprobs: tuple[tuple[np.ndarray, ...], ...]
    timing: Timing
