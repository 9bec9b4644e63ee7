"""Images with the instance ids of their objects, at the segmenter's input size: simulated scenes and photographs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from osprey_ros.vision.image_io import load_image
from osprey_sim.object_sets import HOME, TABLETOP, SceneSource
from osprey_sim.render import Renderer
from osprey_torch.readers.packs import TRAIN, PackObject, pack_objects
from osprey_torch.readers.records import Skipped
from training.home.views import Thing, View, ViewSource, shot

LEAST_PIXELS = 50  # of an object at the input size; smaller ones are not learned
IGNORED = 255  # id of pixels outside of the image, and of objects that are too small
PADDING = 127  # of pixels outside of the image: 0 after normalization
_SETS_SEED = 5
_PASTED_SEED = 6
_ORDER_SEED = 0
_CAP = 60  # photographs with a name in one pass, roughly


class LabeledImage(NamedTuple):
    """An image at the segmenter's input size.

    Attributes:
        pixels: uint8 [H, W, 3], PADDING outside of the image.
        ids: uint8 [H, W]: 0 for what is no known object, 1 to 254, and IGNORED.
    """

    pixels: np.ndarray
    ids: np.ndarray


def fit(image: np.ndarray, ids: np.ndarray, size: tuple[int, int]) -> LabeledImage:
    """Return an image and its ids resized so that they just fit the top left of (height, width)."""
    height, width = image.shape[:2]
    factor = min(size[0] / height, size[1] / width)
    inner = max(1, round(width * factor)), max(1, round(height * factor))
    pixels, labels = np.full((*size, 3), PADDING, np.uint8), np.full(size, IGNORED, np.uint8)
    if inner != (width, height):
        image = cv2.resize(image, inner, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
        ids = cv2.resize(ids, inner, interpolation=cv2.INTER_NEAREST)
    pixels[: inner[1], : inner[0]], labels[: inner[1], : inner[0]] = image, ids
    return LabeledImage(pixels, without_small(labels))


def without_small(ids: np.ndarray) -> np.ndarray:
    """Return ids, uint8 [H, W], in which objects of fewer than LEAST_PIXELS are IGNORED."""
    areas = np.bincount(ids.ravel(), minlength=IGNORED + 1)
    ids = ids.copy()
    ids[((areas > 0) & (areas < LEAST_PIXELS))[ids] & (ids > 0)] = IGNORED
    return ids


@dataclass(frozen=True)
class Simulated:
    """Gives simulated scenes of a split: tabletops and rooms, as a camera takes them.

    Attributes:
        models: Folders of models for rooms; those that ship with the simulator are used where none is present.
        tabletops: Share of the tabletops.
        size: Height and width of the images.
        split: Of the simulator.
    """

    models: tuple[Path, ...]
    tabletops: float
    size: tuple[int, int]
    split: str = "train"

    def __call__(self) -> Callable[[int], LabeledImage]:
        present = [folder for folder in self.models if folder.is_dir()]
        homes = [SceneSource(HOME, folder) for folder in present] or [SceneSource(HOME)]
        tabletop = SceneSource(TABLETOP)
        renderers: dict[SceneSource, Renderer] = {}

        def image(number: int) -> LabeledImage:
            rng = np.random.default_rng([_SETS_SEED, number])
            source = tabletop if rng.random() < self.tabletops else homes[int(rng.integers(len(homes)))]
            if source not in renderers:
                renderers[source] = Renderer(self.size[1], self.size[0])
                source.preload(renderers[source])
            frame = renderers[source].render(source.sample(number, self.split), depth=False)
            things = tuple(
                Thing("", frame.instance_ids == instance, "") for instance in np.unique(frame.instance_ids) if instance
            )
            view = View(frame.rgb, things)
            return _labeled(shot(view, rng) if rng.random() < 0.5 else view, self.size)

        return image


@dataclass(frozen=True)
class Photographs:
    """Gives photographs of packs: cut or with cut-outs pasted on them, or as they are.

    Attributes:
        scenes: Photographs whose objects stand in a scene.
        single: Photographs of one object.
        size: Height and width of the images.
        composed: Whether they are cut and pasted on.
    """

    scenes: tuple[_Photograph, ...]
    single: tuple[_Photograph, ...]
    size: tuple[int, int]
    composed: bool = True

    def __len__(self) -> int:
        return len(self.scenes) + len(self.single)

    def __call__(self) -> Callable[[int], LabeledImage]:
        if not self.composed:
            every = [*self.scenes, *self.single]
            order = np.random.default_rng(_ORDER_SEED).permutation(len(every))
            return lambda number: _labeled(every[order[number]].load(), self.size)
        views = ViewSource(self.scenes, self.single, _CAP, _PASTED_SEED)
        return lambda number: _labeled(views.view(number), self.size)


@dataclass(frozen=True)
class _Photograph:
    image: Path
    objects: tuple[PackObject, ...]

    @property
    def kinds(self) -> Sequence[str]:
        return [one.name for one in self.objects]

    def load(self) -> View:
        return View(load_image(self.image), tuple(Thing(one.name, one.decode(), "") for one in self.objects))


def photographs(packs: Sequence[tuple[Path, bool]], size: tuple[int, int], split: str = TRAIN) -> Photographs:
    """Read the packs that are present; absent ones are named on standard error.

    Args:
        packs: Folder of each pack, and whether its photographs show one object to cut out.
        size: Height and width of the images.
        split: Which images, see `osprey_torch.readers.packs.split_of`.

    Raises:
        InputError: Annotations cannot be read.
    """
    scenes: list[_Photograph] = []
    single: list[_Photograph] = []
    for folder, cut_out in packs:
        if not folder.is_dir():
            print(f"{folder} is absent: training goes on without this pack", file=sys.stderr)
            continue
        skipped = Skipped()
        found = list(_of_pack(folder, split, skipped))
        (single if cut_out else scenes).extend(found)
        print(f"{folder}: {len(found)} photographs; {skipped.summary()}", file=sys.stderr)
    return Photographs(tuple(scenes), tuple(single), size)


def _of_pack(folder: Path, split: str, skipped: Skipped) -> Iterator[_Photograph]:
    for image, group in groupby(pack_objects(folder, skipped), key=lambda one: one.image):
        objects = tuple(one for one in group if one.split == split)
        if objects:
            yield _Photograph(image, objects)


def _labeled(view: View, size: tuple[int, int]) -> LabeledImage:
    ids = np.zeros(view.image.shape[:2], np.uint8)
    # Large masks first: an object that lies on another one stays visible.
    largest_first = sorted(view.things, key=lambda thing: -int(thing.mask.sum()))
    for number, thing in enumerate(largest_first[: IGNORED - 1], start=1):
        ids[thing.mask] = number
    return fit(view.image, ids, size)
