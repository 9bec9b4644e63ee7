"""Batches of prompts on images and on windows of images, the same for the same seed and step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from osprey_torch.small_segmenter import STRIDES, SmallSegmenterConfig
from training.segmenter.features import FeatureFolder, ImageFeatures, Window
from training.segmenter.images import without_small
from training.segmenter.prompts import Objectness, Prompts, depths, objectness, sample_prompts
from training.segmenter.recipe import SegmenterRecipe

_WINDOW_SHARE = 0.6  # of the sides of an image
_TRIES = 100  # images without an object in a row


class PromptBatch(NamedTuple):
    """B images or windows with P prompts each.

    Attributes:
        pixels: float32 [B, 3, H, W], normalized.
        maps: Maps of the tower, float32 [B, C, H / stride, W / stride] each.
        coords: float32 [B, P, N, 2].
        labels: int64 [B, P, N].
        targets: float32 [B, P, H / 4, W / 4].
        known: float32 [B, H / 4, W / 4].
        objectness: float32 [B, H / 8, W / 8].
        weight: float32 [B, H / 8, W / 8], of the cells of objectness.
    """

    pixels: torch.Tensor
    maps: list[torch.Tensor]
    coords: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor
    known: torch.Tensor
    objectness: torch.Tensor
    weight: torch.Tensor


class SourceOfImages(NamedTuple):
    """Images of one kind: their share of all, and the weight of pixels that belong to no labeled object."""

    folder: FeatureFolder
    share: float
    unlabeled: float


class PromptBatches(IterableDataset[PromptBatch]):
    """The batches of steps first .. steps-1. Half of them have whole images, half three times as many windows.

    Args:
        sources: Where images come from.
        recipe: Of the run.
        first: The first step.
    """

    def __init__(self, sources: Sequence[SourceOfImages], recipe: SegmenterRecipe, first: int = 0) -> None:
        self._sources = [one for one in sources if len(one.folder) and one.share > 0]
        self._recipe, self._first = recipe, first

    def __iter__(self) -> Iterator[PromptBatch]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(self._first + number, self._recipe.steps, count):
            yield self.batch(step)

    def batch(self, step: int) -> PromptBatch:
        """Return the batch of a step."""
        recipe = self._recipe
        rng = np.random.default_rng([recipe.seed, step])
        whole = bool(rng.random() < 0.5)
        size, prompts = (
            (recipe.whole_images, recipe.prompts)
            if whole
            else (3 * recipe.whole_images, max(1, 2 * recipe.prompts // 3))
        )
        items: list[tuple[ImageFeatures, Prompts, Objectness]] = []
        misses = 0
        shares = np.array([one.share for one in self._sources])
        while len(items) < size and misses < _TRIES:
            source = self._sources[int(rng.choice(len(shares), p=shares / shares.sum()))]
            window = None if whole else _window(recipe.model, rng)
            image = source.folder.read(int(rng.integers(len(source.folder))), window)
            ids = without_small(image.ids)
            depth = depths(ids)
            found = sample_prompts(ids, depth, prompts, rng)
            if found is None:
                misses += 1
                continue
            misses = 0
            items.append((image, found, objectness(ids, depth, source.unlabeled)))
        if not items:
            raise ValueError("the images have no objects")
        return _batch(items, recipe.model)


def _window(config: SmallSegmenterConfig, rng: np.random.Generator) -> Window:
    coarsest = STRIDES[-1]
    height, width = (max(1, round(side * _WINDOW_SHARE / coarsest)) for side in (config.height, config.width))
    top = int(rng.integers(config.height // coarsest - height + 1))
    left = int(rng.integers(config.width // coarsest - width + 1))
    return Window(*(coarsest * one for one in (top, left, height, width)))


def _batch(items: Sequence[tuple[ImageFeatures, Prompts, Objectness]], config: SmallSegmenterConfig) -> PromptBatch:
    images, prompts, cells = zip(*items, strict=True)

    def stacked(arrays: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(arrays))

    pixels = stacked([one.pixels for one in images]).permute(0, 3, 1, 2).float()
    return PromptBatch(
        ((pixels - config.image_mean) / config.image_std).contiguous(),
        [stacked([one.maps[level] for one in images]) for level in range(len(STRIDES))],
        stacked([one.coords for one in prompts]),
        stacked([one.labels for one in prompts]),
        stacked([one.targets for one in prompts]),
        stacked([one.known for one in prompts]),
        stacked([one.target for one in cells]),
        stacked([one.weight for one in cells]),
    )
