"""Choosing the next token of each branch from its logits: the most likely one, or drawn at random with a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from osprey_ros.decoding.constraints import Guide
from osprey_ros.decoding.logits import Prediction
from osprey_ros.errors import InputError


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    ``temperature``: logits are divided by it; below 1 likely tokens become likelier. ``top_p``: only the most likely
    tokens that together reach this probability are drawn from. The same ``seed`` draws the same answer, whatever else
    is decoded beside it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(f"temperature is {self.temperature}: it must be above 0 (for greedy, do not sample)")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}: it must be above 0 and at most 1")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}: it must not be negative")


@dataclass(frozen=True)
class Guided(Sampling):
    """Draws nothing, or as ``free`` says, but for the branches that a guide of ``guides`` holds to their answer.

    ``guides``: one or None for each branch. Guided answers are never drawn: each token is the likeliest that may come.
    """

    guides: Sequence[Guide | None] = ()
    free: Sampling | None = None


class Chooser:
    """Chooses tokens for the branches of one call; greedily without ``sampling``.

    ``keys`` tells branches apart: each draws from a generator of its own, seeded with the seed and its key.
    """

    def __init__(self, sampling: Sampling | None, keys: Sequence[Sequence[int]]) -> None:
        guides: Sequence[Guide | None] = ()
        if isinstance(sampling, Guided):
            guides, sampling = sampling.guides, sampling.free
        self._sampling = sampling
        self._generators = [] if sampling is None else [np.random.default_rng([sampling.seed, *key]) for key in keys]
        self._walks = {branch: guide.begin() for branch, guide in enumerate(guides) if guide is not None}

    def __call__(self, prediction: Prediction, branches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens for the rows of a prediction, which belong to ``branches`` [R].

        Returns integers [R] and their log-probabilities float32 [R] as the model gives them, temperature aside; those
        of a guided branch are as its guide says.
        """
        chosen, logprobs = prediction.tokens.copy(), prediction.logprobs.copy()
        if self._sampling is None and not self._walks:
            return chosen, logprobs
        logits = prediction.logits
        for row, branch in enumerate(branches.tolist()):
            walk = self._walks.get(branch)
            if walk is not None:
                chosen[row], logprobs[row] = walk(logits[row])
            elif self._sampling is not None:
                shifted = logits[row] - logits[row, prediction.tokens[row]]
                chosen[row] = self._draw(shifted, branch)
                logprobs[row] += shifted[chosen[row]]
        return chosen, logprobs

    def _draw(self, shifted: np.ndarray, branch: int) -> int:
        assert self._sampling is not None
        weights = np.exp(shifted.astype(np.float64) / self._sampling.temperature)
        order = np.argsort(-weights, kind="stable")
        cumulative = np.cumsum(weights[order])
        # The first token always stays; any other as long as those before it do not reach top_p.
        kept = max(1, int(np.count_nonzero(cumulative - weights[order] < self._sampling.top_p * cumulative[-1])))
        threshold = self._generators[branch].random() * cumulative[kept - 1]
        return int(order[min(int(np.searchsorted(cumulative[:kept], threshold, side="right")), kept - 1)])
