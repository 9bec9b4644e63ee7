"""From token ids to the rows that the decoder reads."""

from __future__ import annotations

import numpy as np

_SMALL = 16 << 20  # bytes


class Embeddings:
    """Rows of an embedding table, float16 [vocab_size, hidden_size].

    A large table stays where it is, mapped from disk; a small one is widened once and for all.
    """

    def __init__(self, table: np.ndarray) -> None:
        plain = np.asarray(table)  # numpy is slow to index its memory maps
        self._table = plain.astype(np.float32) if 2 * plain.nbytes <= _SMALL else plain

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """The rows float32 [n, hidden_size] of token ids, integers [n]."""
        return self._table.take(ids, axis=0).astype(np.float32, copy=False)
