"""Several data sets as one endless sequence, mixed by weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from osprey_torch.readers.records import Record
from osprey_torch.readers.shards import Shards

# Weights are exact within every block of this many records.
BLOCK = 1000


@dataclass(frozen=True)
class Source:
    """One data set of a mixture; `weight` is its share relative to the others, whatever its size."""

    name: str
    records: Sequence[Record] | Shards
    weight: float


class Turns:
    """Whose turn it is, among sources with these weights: a function of the seed and the item's number alone."""

    def __init__(self, weights: Sequence[float], seed: int):
        if not 0 < len(weights) <= BLOCK:
            raise ValueError(f"a mixture needs 1 to {BLOCK} sources, not {len(weights)}")
        self._quotas, self._seed = _quotas(weights), seed

    def draw(self, number: int) -> tuple[int, int]:
        """Return which source item `number` comes from, and how many items of that source came before it."""
        block, place = divmod(number, BLOCK)
        turns = np.repeat(np.arange(len(self._quotas)), self._quotas)
        turns = turns[np.random.default_rng([self._seed, block]).permutation(BLOCK)]
        source = int(turns[place])
        return source, block * int(self._quotas[source]) + int((turns[:place] == source).sum())


class Mixture:
    """A mixture in which item n depends only on the seed and n, so that a resumed run gets the same items.

    Every source is passed through in a new order each time it has been used up.
    """

    def __init__(self, sources: Sequence[Source], seed: int):
        for source in sources:
            if not len(source.records):
                raise ValueError(f"source {source.name} has no records")
            if not source.weight > 0:
                raise ValueError(f"source {source.name} has the weight {source.weight}: it must be above 0")
        self.sources, self.seed = list(sources), seed
        self._turns = Turns([source.weight for source in sources], seed)

    def __getitem__(self, number: int) -> Record:
        source, draw = self._turns.draw(number)
        records = self.sources[source].records
        passes, offset = divmod(draw, len(records))
        order = np.random.default_rng([self.seed, source, passes]).permutation(len(records))
        return records[int(order[offset])]


def _quotas(weights: Sequence[float]) -> np.ndarray:
    """Return how many of BLOCK items each source gives: rounded to a sum of BLOCK, at least one each."""
    exact = np.asarray(weights) / np.sum(weights) * BLOCK
    quotas = np.maximum(np.floor(exact).astype(int), 1)
    while quotas.sum() != BLOCK:
        missing = exact - quotas
        if quotas.sum() < BLOCK:
            quotas[int(missing.argmax())] += 1
        else:
            quotas[int(np.where(quotas > 1, missing, np.inf).argmin())] -= 1
    result: np.ndarray = quotas
    return result
