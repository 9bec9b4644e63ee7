"""What the describer answers: words and likelihoods, and where the time went. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from osprey_ros.timing import Timing


@dataclass(frozen=True)
class Description:
    """Words about one region. ``tokens`` (int32) and ``logprobs`` (float32, natural logarithm) are the answer's own.

    ``ended`` is False where decoding was stopped before the answer was at its end or its limit.
    """

    region_id: int
    text: str
    tokens: np.ndarray
    logprobs: np.ndarray
    ended: bool = True

    @property
    def confidence(self) -> float:
        """Geometric mean of the probabilities of the answer's tokens, in 0..1. It is not calibrated.

        0 where there are no tokens, because decoding was stopped before the first.
        """
        return float(np.exp(np.mean(self.logprobs, dtype=np.float64))) if len(self.logprobs) else 0.0


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
