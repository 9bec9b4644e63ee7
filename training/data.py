"""Rendered scenes as training batches: pixels, pooling masks, and either labels or packed dialogues of each region.

A batch is a function of the seed and of its number alone, so that a resumed run sees what an uninterrupted one would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from osprey_ros.bundle import ModelSpec
from osprey_ros.image import normalise_and_square
from osprey_ros.prompt import PromptBuilder
from osprey_ros.regions import regions_from_id_image
from osprey_sim.words import CLASSES, COLOURS, PARTS, SIZES
from osprey_torch.packing import PackedBatch, PackedSequence, Sample, collate, pack
from training.store import SceneStore
from training.words import RegionFacts, dialogues

CATEGORIES = (*CLASSES, *PARTS)
LABELS = {"category": CATEGORIES, "colour": COLOURS, "size": SIZES}
NO_LABEL = -100


@dataclass(frozen=True)
class Batch:
    """One training step's input; N is the largest number of regions in a picture of the batch."""

    pixels: torch.Tensor  # float32 [B, 3, S, S]
    masks: list[torch.Tensor]  # four of float32 [B, N, h, w]; zeros beyond a picture's regions
    positions: torch.Tensor  # float32 [B, N, P, P]
    labels: dict[str, torch.Tensor]  # int64 [B, N] by name in LABELS, NO_LABEL where there is none; empty for records
    packed: PackedBatch | None  # dialogues of the regions

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.pixels.to(device),
            [m.to(device) for m in self.masks],
            self.positions.to(device),
            {name: tensor.to(device) for name, tensor in self.labels.items()},
            self.packed.to(device) if self.packed is not None else None,
        )


@dataclass(frozen=True)
class Item:
    """One picture of a batch."""

    pixels: np.ndarray
    masks: list[np.ndarray]
    positions: np.ndarray
    labels: dict[str, list[int]]
    sequence: PackedSequence | None


@dataclass(frozen=True)
class Selection:
    """Which regions of a picture a stage learns from, and how."""

    max_regions: int
    min_area: int = 40  # visible pixels in the rendered picture
    questions: int = 0  # dialogues a region; 0: labels only
    flip: bool = False  # mirror half of the pictures: for labels only, words know left from right


class SceneDataset(Dataset[Item]):
    """Endless passes over a store; item number n lies in pass n // len(store)."""

    def __init__(self, store: SceneStore, spec: ModelSpec, prompts: PromptBuilder, selection: Selection, seed: int):
        if selection.flip and selection.questions:
            raise ValueError("flip=True with dialogues: mirrored pictures would make 'left' and 'right' untrue")
        self.store, self.spec, self.prompts, self.selection, self.seed = store, spec, prompts, selection, seed

    def __getitem__(self, number: int) -> Item:
        rng = np.random.default_rng([self.seed, number])
        passes, offset = divmod(number, len(self.store))
        index = int(np.random.default_rng([self.seed, passes]).permutation(len(self.store))[offset])
        facts = [f for f in self.store.facts(index) if f.area >= self.selection.min_area]
        if not facts:
            raise ValueError(
                f"scene {index} of {self.store.folder} shows no region of {self.selection.min_area} pixels"
            )
        keep = sorted(rng.permutation(len(facts))[: self.selection.max_regions])
        # Objects first, then parts: the order in which the two id images are read below.
        return self._item(index, sorted((facts[i] for i in keep), key=lambda f: f.kind), rng)

    def _item(self, index: int, facts: list[RegionFacts], rng: np.random.Generator) -> Item:
        picture, instances, parts = self.store.images(index)
        if self.selection.flip and rng.random() < 0.5:
            picture, instances, parts = (np.ascontiguousarray(a[:, ::-1]) for a in (picture, instances, parts))
        masks: list[list[np.ndarray]] = [[] for _ in self.spec.feature_sizes]
        positions = []
        for kind, ids in (("object", instances), ("part", parts)):
            wanted = [f.id for f in facts if f.kind == kind]
            if not wanted:
                continue
            regions = regions_from_id_image(ids, only=wanted)
            for level, mask in zip(masks, regions.pooling_masks(self.spec.feature_sizes), strict=True):
                level.append(mask)
            positions.append(regions.position_grids(self.spec.position_size))
        return Item(
            pixels=normalise_and_square(picture, self.spec),
            masks=[np.concatenate(level) for level in masks],
            positions=np.concatenate(positions),
            labels={name: [_label(name, f) for f in facts] for name in LABELS},
            sequence=self._dialogues(facts, rng) if self.selection.questions else None,
        )

    def _dialogues(self, facts: Sequence[RegionFacts], rng: np.random.Generator) -> PackedSequence:
        samples = []
        for number, region in enumerate(facts):
            for question, answer in dialogues(region, rng)[: self.selection.questions]:
                samples.append(Sample.of(self.prompts.prompt(question), self.prompts.answer(answer), number))
        return pack(samples, self.spec.image_tokens)


def batches(
    dataset: Dataset[Item],
    first: int,
    steps: int,
    batch_size: int,
    workers: int,
    process: int = 0,
    processes: int = 1,
    accumulated: int = 1,
) -> DataLoader:
    """Loader of the pictures of steps first .. steps-1 that belong to one process, in order.

    A step's `batch_size` pictures are divided over `accumulated` small batches, and each of these over the processes.
    """
    share = batch_size // (processes * accumulated)
    starts = [
        step * batch_size + (small * processes + process) * share
        for step in range(first, steps)
        for small in range(accumulated)
    ]
    return DataLoader(
        dataset,
        sampler=[start + place for start in starts for place in range(share)],
        batch_size=share,
        num_workers=workers,
        collate_fn=_collate,
        prefetch_factor=4 if workers else None,
    )


def _label(name: str, facts: RegionFacts) -> int:
    value = getattr(facts, name)
    return LABELS[name].index(value) if value else NO_LABEL


def _collate(items: Sequence[Item]) -> Batch:
    # At least one row, all zeros where no picture has a region: rows that name none look there and are not used.
    regions = max(1, *(len(item.positions) for item in items))

    def pad(arrays: Sequence[np.ndarray], fill: float) -> torch.Tensor:
        out = np.full((len(arrays), regions, *arrays[0].shape[1:]), fill, arrays[0].dtype)
        for row, array in zip(out, arrays, strict=True):
            row[: len(array)] = array
        return torch.from_numpy(out)

    sequences = [item.sequence for item in items if item.sequence is not None]
    return Batch(
        pixels=torch.from_numpy(np.stack([item.pixels for item in items])),
        masks=[pad([item.masks[level] for item in items], 0) for level in range(len(items[0].masks))],
        positions=pad([item.positions for item in items], 0),
        labels={
            name: pad([np.asarray(item.labels[name], np.int64) for item in items], NO_LABEL) for name in items[0].labels
        },
        packed=collate(sequences) if sequences else None,
    )
