"""Rendered scenes as training batches: pixels, pooling masks, and either labels or packed dialogues of each region.

A batch depends only on the seed and its number, so that a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.decoding.prompt import PromptBuilder
from osprey_ros.regions.regions import regions_from_id_image
from osprey_ros.vision.preprocess import normalize_and_square, resize_shortest_edge
from osprey_sim.dialogues import COLORED, KINDS, PLACED, SIZED, RegionFacts, dialogues
from osprey_sim.words import CLASSES, COLORS, PARTS, SIZES, TABLES
from osprey_torch.packing import PackedBatch, PackedSequence, Sample, collate, pack
from training.store import SceneStore

CATEGORIES = (*CLASSES, *PARTS)
# Labels of stage 0. The mask token predicts the looks of the region and the table, the position token the place of the
# region's center, in twelfths of the image from the left and from the top.
LABELS = {"category": CATEGORIES, "color": COLORS, "size": SIZES, "table": TABLES}
PLACE_LABELS = {"column": tuple(range(12)), "row": tuple(range(12))}
NO_LABEL = -100
DIALOGUES = (*KINDS, "material")  # the last is for real things only


@dataclass(frozen=True)
class CachedFeatures:
    """What a frozen vision tower gives for an image and its N regions, in place of pixels and masks.

    Attributes:
        pooled: Means of the four feature maps over each region, float32 [N, C].
        crops: The same of the crops of the regions; empty if the model has none.
        cropped: Whether the mask tokens are to be made with crops.
        level: The feature map of the image tokens, float16 [C, h, w].
    """

    pooled: list[np.ndarray]
    crops: list[np.ndarray]
    cropped: bool
    level: np.ndarray


@dataclass(frozen=True)
class CachedBatch:
    """`CachedFeatures` of a batch: pooled and crops float32 [B, N, C], cropped bool [B], level float32 [B, C, h, w]."""

    pooled: list[torch.Tensor]
    crops: list[torch.Tensor]
    cropped: torch.Tensor
    level: torch.Tensor

    def to(self, device: torch.device) -> CachedBatch:
        pooled, crops = ([part.to(device) for part in parts] for parts in (self.pooled, self.crops))
        return CachedBatch(pooled, crops, self.cropped.to(device), self.level.to(device))


@dataclass(frozen=True)
class Batch:
    """One training step's input; N is the largest number of regions in an image of the batch."""

    pixels: torch.Tensor | None  # float32 [B, 3, S, S]; None with cached features
    masks: list[torch.Tensor]  # four of float32 [B, N, h, w]; zeros beyond an image's regions
    positions: torch.Tensor  # float32 [B, N, P, P]
    # int64 [B, N] by name in LABELS and PLACE_LABELS, NO_LABEL where there is none; empty where records are among them
    labels: dict[str, torch.Tensor]
    packed: PackedBatch | None  # dialogues of the regions
    features: CachedBatch | None = None

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.pixels.to(device) if self.pixels is not None else None,
            [m.to(device) for m in self.masks],
            self.positions.to(device),
            {name: tensor.to(device) for name, tensor in self.labels.items()},
            self.packed.to(device) if self.packed is not None else None,
            self.features.to(device) if self.features is not None else None,
        )


@dataclass(frozen=True)
class Item:
    """One image of a batch."""

    pixels: np.ndarray | None
    masks: list[np.ndarray]
    positions: np.ndarray
    labels: dict[str, list[int]]
    sequence: PackedSequence | None
    features: CachedFeatures | None = None


# Least visible share of a region that the edge of an enlarged image cuts.
_LEFT_INSIDE = 0.6


@dataclass(frozen=True)
class Selection:
    """Regions of an image that a stage learns from, and changes of the image.

    Dialogues stay true for mirrored, enlarged or recolored images: no places in the first two, no sizes in the second,
    no colors in the third. Of the fields after `questions`, data sets have brightness only.
    """

    max_regions: int
    min_area: int = 40  # visible pixels in the rendered image
    questions: int = 0  # dialogues a region; 0: labels only
    flip: bool = False  # mirror half of the images
    zoom: float = 1.0  # enlarge a part of half of the images, at most this factor
    brightness: float = 0.0  # each image is up to this share brighter or darker
    recolor: float = 0.0  # share of the images whose colors are exchanged, so that shapes count
    foreign: int = 0  # objects of other views, asked for their category behind the same image; for views only
    weights: Mapping[str, float] = field(default_factory=dict)  # of kinds of dialogues, see osprey_sim.dialogues

    def __post_init__(self) -> None:
        if not 1.0 <= self.zoom <= 4.0:
            raise ValueError(f"selection.zoom is {self.zoom}: it must be 1 to 4")
        if self.foreign < 0:
            raise ValueError(f"selection.foreign is {self.foreign}: it must be 0 or more")
        if not 0.0 <= self.brightness < 1.0:
            raise ValueError(f"selection.brightness is {self.brightness}: it must be 0 or more and below 1")
        if not 0.0 <= self.recolor <= 1.0:
            raise ValueError(f"selection.recolor is {self.recolor}: it must be 0 to 1")
        if "colour" in self.weights:  # spelling of recipes before 0.2
            weights = {"color" if kind == "colour" else kind: weight for kind, weight in self.weights.items()}
            object.__setattr__(self, "weights", weights)
        unknown = set(self.weights) - set(DIALOGUES)
        if unknown or any(weight < 0 for weight in self.weights.values()) or self.weights.get("category") == 0:
            raise ValueError(
                f"selection.weights are {dict(self.weights)}: expected {', '.join(DIALOGUES)}, none below 0, and "
                "some for category, which can be asked of every region"
            )

    def of_records(self) -> Selection:
        """Return the selection for data sets, without the options for simulated scenes."""
        return replace(self, flip=False, zoom=1.0, recolor=0.0, foreign=0, weights={})

    def lit(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return an image, uint8 [H, W, 3], randomly brightened or darkened."""
        if not self.brightness:
            return image
        factor = rng.uniform(1 - self.brightness, 1 + self.brightness)
        result: np.ndarray = np.minimum(image * np.float32(factor), 255).astype(np.uint8)
        return result


@dataclass(frozen=True)
class _View:
    """An image with its id images, as they are after all changes, and the regions that are in it."""

    image: np.ndarray
    instances: np.ndarray
    parts: np.ndarray
    facts: list[RegionFacts]
    mirrored: bool = False
    enlarged: bool = False
    recolored: bool = False

    @property
    def untrue(self) -> frozenset[str]:
        """Kinds of dialogues that are not true of it any more."""
        changes = ((self.mirrored, PLACED), (self.enlarged, PLACED | SIZED), (self.recolored, COLORED))
        return frozenset().union(*(kinds for changed, kinds in changes if changed))

    @property
    def unknown(self) -> frozenset[str]:
        """Names in LABELS that are not true of it any more."""
        return frozenset({"size"} if self.enlarged else ()) | frozenset({"color"} if self.recolored else ())


class SceneDataset(Dataset[Item]):
    """Endless passes over a store; item number n lies in pass n // len(store)."""

    def __init__(self, store: SceneStore, spec: ModelSpec, prompts: PromptBuilder, selection: Selection, seed: int):
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
        view = self._view(index, facts, rng)
        keep = sorted(rng.permutation(len(view.facts))[: self.selection.max_regions])
        # Objects first, then parts: the order in which the two id images are read below.
        return self._item(view, sorted((view.facts[i] for i in keep), key=lambda f: f.kind), rng)

    def _view(self, index: int, facts: list[RegionFacts], rng: np.random.Generator) -> _View:
        view = _View(*self.store.images(index), facts)
        if self.selection.flip and rng.random() < 0.5:
            view = _mirrored(view)
        if self.selection.zoom > 1 and rng.random() < 0.5:
            view = _enlarged(view, rng.uniform(1, self.selection.zoom), self.spec.image_size, rng)
        if self.selection.recolor and rng.random() < self.selection.recolor:
            view = _recolored(view, rng)
        return replace(view, image=self.selection.lit(view.image, rng))

    def _item(self, view: _View, facts: list[RegionFacts], rng: np.random.Generator) -> Item:
        masks: list[list[np.ndarray]] = [[] for _ in self.spec.feature_sizes]
        positions = []
        for kind, ids in (("object", view.instances), ("part", view.parts)):
            wanted = [f.id for f in facts if f.kind == kind]
            if not wanted:
                continue
            regions = regions_from_id_image(ids, only=wanted, masks_anyway=True)
            for level, mask in zip(masks, regions.pooling_masks(self.spec.feature_sizes), strict=True):
                level.append(mask)
            positions.append(regions.position_grids(self.spec.position_size))
        grids = np.concatenate(positions)
        labels = {name: [NO_LABEL if name in view.unknown else _label(name, f) for f in facts] for name in LABELS}
        labels |= place_labels(grids)
        return Item(
            pixels=normalize_and_square(view.image, self.spec),
            masks=[np.concatenate(level) for level in masks],
            positions=grids,
            labels=labels,
            sequence=self._dialogues(view, facts, rng) if self.selection.questions else None,
        )

    def _dialogues(self, view: _View, facts: Sequence[RegionFacts], rng: np.random.Generator) -> PackedSequence:
        samples = []
        objects = {f.id: number for number, f in enumerate(facts) if f.kind == "object"}
        beside = [facts[number] for number in objects.values()]
        for number, region in enumerate(facts):
            told = dialogues(region, rng, self.selection.weights, view.untrue, beside)
            for question, answer, other in told[: self.selection.questions]:
                regions = (number,) if other is None else (number, objects[other])
                samples.append(Sample.of(self.prompts.prompt(question), self.prompts.answer(answer), *regions))
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
) -> DataLoader[Any]:
    """Return a loader of the images of steps first .. steps-1 that belong to one process, in order.

    A step's `batch_size` images are divided over `accumulated` small batches, and each of these over the processes.
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
        generator=torch.Generator(),  # or it takes a number from the one that a resumed run has restored
        collate_fn=_collate,
        prefetch_factor=4 if workers else None,
    )


def _mirrored(view: _View) -> _View:
    image, instances, parts = (np.ascontiguousarray(a[:, ::-1]) for a in (view.image, view.instances, view.parts))
    return replace(view, image=image, instances=instances, parts=parts, mirrored=True)


def _recolored(view: _View, rng: np.random.Generator) -> _View:
    """Exchange red, green and blue in one of five ways."""
    order = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))[int(rng.integers(5))]
    return replace(view, image=np.ascontiguousarray(view.image[..., order]), recolored=True)


def _enlarged(view: _View, factor: float, image_size: int, rng: np.random.Generator) -> _View:
    """Cut a window around a random region, `factor` times smaller than the image, with the regions inside it."""
    chosen = view.facts[int(rng.integers(len(view.facts)))]
    ids = view.instances if chosen.kind == "object" else view.parts
    rows, columns = np.nonzero(ids == chosen.id)
    middle = np.array([rows.mean() / ids.shape[0], columns.mean() / ids.shape[1]])
    share = 1 / factor
    # Anywhere that leaves the region's middle inside and no edge outside the image.
    top, left = np.clip(middle - rng.uniform(0.25, 0.75, 2) * share, 0, 1 - share)

    def cut(array: np.ndarray) -> np.ndarray:
        height, width = array.shape[:2]
        y, x = round(top * height), round(left * width)
        window = array[y : y + max(1, round(share * height)), x : x + max(1, round(share * width))]
        return np.ascontiguousarray(window)

    instances, parts = cut(view.instances), cut(view.parts)
    areas = {kind: np.bincount(a.ravel(), minlength=256) for kind, a in (("object", instances), ("part", parts))}
    inside = [f for f in view.facts if areas[f.kind][f.id] >= _LEFT_INSIDE * f.area]
    if not inside:
        return view  # one region that fills more than the window
    image = resize_shortest_edge(cut(view.image), image_size)
    return replace(view, image=image, instances=instances, parts=parts, facts=inside, enlarged=True)


def _label(name: str, facts: RegionFacts) -> int:
    value = getattr(facts, name)
    return LABELS[name].index(value) if value else NO_LABEL


def place_labels(grids: np.ndarray) -> dict[str, list[int]]:
    """Return the column and row of the middle of each position grid [N, P, P]."""
    inside = (grids > 0).astype(np.float64)
    area = inside.sum((1, 2))
    at = (np.arange(grids.shape[-1]) + 0.5) / grids.shape[-1]
    found = {}
    for name, axis in (("column", 1), ("row", 2)):
        middle = inside.sum(axis) @ at / np.maximum(area, 1)
        steps = np.minimum((middle * len(PLACE_LABELS[name])).astype(int), len(PLACE_LABELS[name]) - 1)
        found[name] = [int(step) if some else NO_LABEL for step, some in zip(steps, area > 0, strict=True)]
    return found


def _collate(items: Sequence[Item]) -> Batch:
    # At least one row, all zeros where no image has a region: rows that name none look there and are not used.
    regions = max(1, *(len(item.positions) for item in items))

    def pad(arrays: Sequence[np.ndarray], fill: float) -> torch.Tensor:
        out = np.full((len(arrays), regions, *arrays[0].shape[1:]), fill, arrays[0].dtype)
        for row, array in zip(out, arrays, strict=True):
            row[: len(array)] = array
        return torch.from_numpy(out)

    sequences = [item.sequence for item in items if item.sequence is not None]
    pixels = [item.pixels for item in items if item.pixels is not None]
    return Batch(
        pixels=torch.from_numpy(np.stack(pixels)) if pixels else None,
        masks=[pad([item.masks[level] for item in items], 0) for level in range(len(items[0].masks))],
        positions=pad([item.positions for item in items], 0),
        labels={
            name: pad([np.asarray(item.labels[name], np.int64) for item in items], NO_LABEL)
            for name in (items[0].labels if all(item.labels for item in items) else ())
        },
        packed=collate(sequences) if sequences else None,
        features=_collate_features([item.features for item in items if item.features is not None], pad),
    )


def _collate_features(
    items: Sequence[CachedFeatures], pad: Callable[[Sequence[np.ndarray], float], torch.Tensor]
) -> CachedBatch | None:
    if not items:
        return None
    pooled, crops = (
        [pad([levels[level] for levels in parts], 0.0) for level in range(len(parts[0]))]
        for parts in ([item.pooled for item in items], [item.crops for item in items])
    )
    cropped = torch.tensor([item.cropped for item in items])
    return CachedBatch(pooled, crops, cropped, torch.from_numpy(np.stack([item.level for item in items])).float())
