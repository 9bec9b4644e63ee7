"""Prepares a run of the segmenter: the model with the tower's weights, and images with the tower's features."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from export.graph_small_segmenter import build_tower
from osprey_ros.errors import InputError
from osprey_torch.small_segmenter import SmallSegmenter
from osprey_torch.tensor_files import map_file
from training.deadline import Deadline
from training.segmenter.data import SourceOfImages
from training.segmenter.features import FeatureFolder, Source, compute_features
from training.segmenter.images import Simulated, photographs
from training.segmenter.recipe import SegmenterRecipe

_TOWER = "tower.onnx"
_SAMPLES = 6  # images of each kind from which the sizes of features are taken


class Prepared(NamedTuple):
    """A model at its start, and where its images come from."""

    model: SmallSegmenter
    sources: list[SourceOfImages]


def prepare(recipe: SegmenterRecipe, folder: Path, workers: int, deadline: Deadline) -> Prepared:
    """Return the start of a run; what an earlier start has prepared in the folder is used.

    Raises InputError for a file that is missing, TimeIsUp when the deadline passes.
    """
    torch.manual_seed(recipe.seed)
    model = SmallSegmenter(recipe.model)
    model.tower.load_lite0(map_file(Path(recipe.tower)))
    build_tower(model, folder / _TOWER)
    size = (recipe.model.height, recipe.model.width)
    models, counts = tuple(Path(one) for one in recipe.models), recipe.images
    packs = [(Path(pack.folder), pack.cut_out) for pack in recipe.packs]
    composed = photographs(packs, size)
    as_they_are = replace(composed, composed=False)
    kinds: list[tuple[str, Source, int, float]] = [
        ("tabletops", Simulated(models, 1.0, size), counts.tabletops, 1.0),
        ("rooms", Simulated(models, 0.0, size), counts.rooms, 1.0),
        ("composed", composed, counts.composed if len(composed) else 0, recipe.unlabeled),
        ("photographs", as_they_are, min(counts.photographs, len(as_they_are)), recipe.unlabeled),
    ]
    sources = []
    with tqdm(total=sum(one[2] for one in kinds), desc="images", unit="image", mininterval=5, file=sys.stderr) as bar:

        def known(count: int) -> None:
            bar.update(count)

        def ready(count: int) -> None:
            known(count)
            if bar.n < (bar.total or 0):
                deadline.check("while images were made")

        for (name, source, count, unlabeled), share in zip(kinds, counts.shares, strict=True):
            own = folder / "features" / name
            compute_features(own, folder / _TOWER, recipe.model, source, count, workers, known, ready)
            sources.append(SourceOfImages(FeatureFolder(own, recipe.model), share, unlabeled))
    if not any(len(one.folder) and one.share for one in sources):
        raise InputError("there are no images: all packs are absent, and the recipe has no simulated scenes")
    model.neck.scale_to(_sample_maps([one.folder for one in sources]))
    return Prepared(model, sources)


def _sample_maps(folders: Sequence[FeatureFolder]) -> list[torch.Tensor]:
    """Return the maps of some images of each folder, stacked by level."""
    images = [
        folder.read(number).maps
        for folder in folders
        for number in range(0, len(folder), max(1, len(folder) // _SAMPLES))
    ]
    return [torch.from_numpy(np.stack(level)) for level in zip(*images, strict=True)]
