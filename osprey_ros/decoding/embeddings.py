"""Embedding table: token ids to the rows that the decoder reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

_SMALL = 16 << 20  # bytes; a smaller table is kept as float32

Embed: TypeAlias = Callable[[np.ndarray], np.ndarray]  # token ids, integers [n] -> float32 [n, hidden size]


class Embeddings:
    """Rows of an embedding table, float16 [vocabulary size, hidden size].

    A large table stays mapped from its file; a small one is converted to float32 once.
    """

    def __init__(self, table: np.ndarray) -> None:
        plain = np.asarray(table)  # numpy is slow to index its memory maps
        self._table = plain.astype(np.float32) if 2 * plain.nbytes <= _SMALL else plain

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows, float32 [n, hidden size], of token ids, integers [n]."""
        return self._table.take(ids, axis=0).astype(np.float32, copy=False)
