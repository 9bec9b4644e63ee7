"""Items of several kinds of data as one: simulated scenes beside data sets."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import Dataset

from osprey_torch.readers.mixture import Turns
from training.data import Item


class MixedDataset(Dataset[Item]):
    """Endless; item n is a function of the seed and n alone. parts: datasets of that kind, and the share of each."""

    def __init__(self, parts: Sequence[tuple[Dataset[Item], float]], seed: int):
        self._datasets = [dataset for dataset, _ in parts]
        self._turns = Turns([weight for _, weight in parts], seed)

    def __getitem__(self, number: int) -> Item:
        part, draw = self._turns.draw(number)
        return self._datasets[part][draw]
