"""Cached features of views as training items: pooled features, labels or packed dialogues."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from osprey_ros.decoding.prompt import QUESTIONS, PromptBuilder
from osprey_sim.colors import BASIC_COLORS
from osprey_torch.config import OspreyConfig
from osprey_torch.packing import PackedSequence, Sample, pack
from training.data import NO_LABEL, CachedFeatures, Item, Selection, place_labels
from training.home.dialogues import DialogueMaker
from training.home.features import FeatureStore, ObjectFacts, ViewFeatures
from training.home.kinds import Kinds

CROPPED = 0.5  # share of the images that are learned with a crop of each region


class FeatureDataset(Dataset[Item]):
    """Endless passes over stored views; item n is a function of the seed and n alone.

    Args:
        stores: Each pass over all has every view as often as the store's share says.
        shares: Of each store.
        config: Of the model.
        prompts: Its prompts.
        kinds: The tree.
        selection: Regions and questions of an image.
        seed: Of all random numbers.
    """

    def __init__(
        self,
        stores: Sequence[FeatureStore],
        shares: Sequence[float],
        config: OspreyConfig,
        prompts: PromptBuilder,
        kinds: Kinds,
        selection: Selection,
        seed: int,
    ) -> None:
        self.stores, self.config, self.prompts, self.kinds = stores, config, prompts, kinds
        self.selection, self.seed = selection, seed
        self._shares = np.cumsum(shares) / sum(shares)
        self._dialogues = DialogueMaker(kinds, selection.weights)
        self._number_of = {name: number for number, name in enumerate(kinds.facts)}
        self._splits = np.cumsum(config.vision_channels)[:-1]

    def __getitem__(self, number: int) -> Item:
        rng = np.random.default_rng([self.seed, number])
        view = self._view(rng)
        keep = np.sort(rng.permutation(len(view.facts))[: self.selection.max_regions])
        picked = [(view, int(row)) for row in keep]
        for _ in range(self.selection.foreign):
            other = self._view(rng)
            picked.append((other, int(rng.integers(len(other.facts)))))
        facts = [one.facts[row] for one, row in picked]
        grids = np.stack([one.positions[row] for one, row in picked]).astype(np.float32)
        pooled, crops = (np.stack([getattr(one, name)[row] for one, row in picked]) for name in ("pooled", "crops"))
        cropped = crops.shape[1] > 0 and rng.random() < CROPPED
        return Item(
            pixels=None,
            masks=[],
            positions=grids,
            labels=self._labels(facts, grids),
            sequence=self._packed(facts, len(keep), rng) if self.selection.questions else None,
            features=CachedFeatures(
                self._levels(pooled), self._levels(crops) if crops.shape[1] else [], cropped, view.level
            ),
        )

    def _view(self, rng: np.random.Generator) -> ViewFeatures:
        store = self.stores[int(np.searchsorted(self._shares, rng.random(), side="right"))]
        return store[int(rng.integers(len(store)))]

    def _levels(self, pooled: np.ndarray) -> list[np.ndarray]:
        return list(np.split(pooled.astype(np.float32), self._splits, axis=1))

    def _labels(self, facts: Sequence[ObjectFacts], grids: np.ndarray) -> dict[str, list[int]]:
        colors = [BASIC_COLORS.index(one.color) if one.color else NO_LABEL for one in facts]
        return {"category": [self._number_of[one.kind] for one in facts], "color": colors} | place_labels(grids)

    def _packed(self, facts: Sequence[ObjectFacts], own: int, rng: np.random.Generator) -> PackedSequence:
        """Return dialogues about the first ``own`` objects, and the category of the others, which are foreign."""
        samples = []
        for row in range(own):
            for question, answer, other in self._dialogues.of(facts[:own], row, rng, self.selection.questions):
                regions = (row,) if other is None else (row, other)
                samples.append(Sample.of(self.prompts.prompt(question), self.prompts.answer(answer), *regions))
        category = self.prompts.prompt(QUESTIONS["category"])
        samples += [Sample.of(category, self.prompts.answer(facts[row].kind), row) for row in range(own, len(facts))]
        return pack(samples, self.config.image_tokens)


def label_sizes(kinds: Kinds) -> dict[str, int]:
    """Return the number of values of each label that the mask token predicts."""
    return {"category": len(kinds.facts), "color": len(BASIC_COLORS)}
