"""Selection of the next token of each branch: the most likely, a random one, or the best that a constraint allows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from osprey_ros.decoding.config import Sampling
from osprey_ros.decoding.constraints import CompiledConstraint
from osprey_ros.decoding.logits import NextTokenLogits


class TokenSelector:
    """Selects tokens for the branches of one call.

    Args:
        sampling: How tokens are drawn; None for the most likely token.
        keys: Integers that identify each branch. Each draws from its own generator, made of the seed and its key.
        constraints: One or None for each branch, or nothing. An answer under a constraint is never drawn.
    """

    def __init__(
        self,
        sampling: Sampling | None,
        keys: Sequence[Sequence[int]],
        constraints: Sequence[CompiledConstraint | None] = (),
    ) -> None:
        self._sampling = sampling
        self._generators = [] if sampling is None else [np.random.default_rng([sampling.seed, *key]) for key in keys]
        self._states = {branch: one.start() for branch, one in enumerate(constraints) if one is not None}

    def select(self, scores: NextTokenLogits, branches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Select a token for each row of ``scores``, which belong to ``branches``, integers [R].

        Returns token ids, integers [R], and their natural-log probabilities, float32 [R]: those of the model without
        temperature, or those of the constraint.
        """
        tokens, logprobs = scores.best_tokens.copy(), scores.best_logprobs.copy()
        if self._sampling is None and not self._states:
            return tokens, logprobs
        logits = scores.logits
        for row, branch in enumerate(branches.tolist()):
            state = self._states.get(branch)
            if state is not None:
                tokens[row], logprobs[row] = state.next_token(logits[row])
            elif self._sampling is not None:
                shifted = logits[row] - logits[row, tokens[row]]
                tokens[row] = self._draw(shifted, branch)
                logprobs[row] += shifted[tokens[row]]
        return tokens, logprobs

    def _draw(self, shifted: np.ndarray, branch: int) -> int:
        """Draw a token by logits, float32 [vocabulary size], whose maximum is 0."""
        assert self._sampling is not None
        weights = np.exp(shifted.astype(np.float64) / self._sampling.temperature)
        order = np.argsort(-weights, kind="stable")
        cumulative = np.cumsum(weights[order])
        # The first token always stays, others while those before them do not reach top_p.
        kept = max(1, int(np.count_nonzero(cumulative - weights[order] < self._sampling.top_p * cumulative[-1])))
        threshold = self._generators[branch].random() * cumulative[kept - 1]
        return int(order[min(int(np.searchsorted(cumulative[:kept], threshold, side="right")), kept - 1)])
