"""Output of the decoder for the next token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osprey_ros.engines.base import Buffer


@dataclass(slots=True)
class NextTokenLogits:
    """Scores of the next token for R rows of a run. All arrays are memory that the next run overwrites.

    Attributes:
        best_tokens: int64 [R], the most likely token of each row.
        best_logprobs: float32 [R], the natural-log probability of that token.
        buffer: The logits, float32 [R, vocabulary size], on the engine's device.
    """

    best_tokens: np.ndarray
    best_logprobs: np.ndarray
    buffer: Buffer

    @property
    def logits(self) -> np.ndarray:
        """Logits, float32 [R, vocabulary size], read from the engine's device."""
        return self.buffer.read()

    def logprobs(self, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Return natural-log probabilities, float32, of tokens in rows: integer arrays that broadcast together."""
        logits = self.logits
        best = logits[np.arange(len(self.best_tokens)), self.best_tokens]
        result: np.ndarray = logits[rows, tokens] + (self.best_logprobs - best)[rows]
        return result
