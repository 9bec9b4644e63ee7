"""What the decoder says comes next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osprey_ros.engines.base import Buffer


@dataclass(slots=True)
class Prediction:
    """Of R rows of a run: the likeliest token of each, int64 [R], and its natural-log probability, float32 [R].

    All of it lies in memory that the next run writes to.
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    buffer: Buffer

    @property
    def logits(self) -> np.ndarray:
        """Float32 [R, vocab], fetched from the engine's device."""
        return self.buffer.read()

    def normalised(self, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Natural-log probabilities, float32, of these tokens in these rows, integers of shapes that fit together."""
        logits = self.logits
        best = logits[np.arange(len(self.tokens)), self.tokens]
        return logits[rows, tokens] + (self.logprobs - best)[rows]
