"""Measure a segmenter on simulated scenes or photographs with masks: `python -m evaluation.segmenter --scenes 200`.

Everything mode: the share of visible objects that some mask covers with an IoU of 0.5 or more, the mean IoU of those
masks, the number of masks for each object, and the share of masks that are right. A mask is right if it has an IoU of
0.5 with an object; a part of an object is no error if the whole is there, too. In photographs not every object is
labeled, so the last two are for scenes only.

One click: the IoU of the first candidate by score, for a click on the most interior pixel of each mask.

Intervals are 95 % bootstrap intervals over images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.figures import Bootstrap, Figure
from evaluation.options import add_packs_option, add_split_option
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser, add_count_option, add_figures_option, add_threads_option
from osprey_ros.cli._output import write_figures
from osprey_ros.errors import InputError
from osprey_ros.regions.masks import MaskCrop
from osprey_ros.regions.regions import Regions
from osprey_ros.segmenter.clicked import interior_point
from osprey_ros.segmenter.segmenter import DEFAULT_BUNDLE, Segmenter
from osprey_ros.vision.image_io import load_image
from osprey_sim.object_sets import OBJECT_SETS, TABLETOP, SceneSource
from osprey_sim.render import Renderer
from osprey_torch.readers.packs import pack_folders, pack_objects
from osprey_torch.readers.records import Skipped

SIZE = (640, 480)  # width and height of rendered scenes
MIN_PIXELS = 200  # of an object that counts as visible
FOUND = 0.5  # least IoU of a mask with the object that it covers
_GOOD_CLICK = 0.8
_PART = 0.8  # share of a mask inside one object, from which on it is a part of it
_LEAST_SHARE = 0.01  # of the image: larger regions of photographs are counted on their own, too


@dataclass(frozen=True)
class MaskedImage:
    """An image with the masks of its objects.

    Attributes:
        name: Of the image.
        group: Its pack, or its set of objects.
        rgb: uint8 [H, W, 3].
        masks: bool [N, H, W].
        complete: Whether every object has a mask.
    """

    name: str
    group: str
    rgb: np.ndarray
    masks: np.ndarray
    complete: bool


@dataclass(frozen=True)
class ObjectFigures:
    """An object of an image: its share of the pixels, the IoU of the best mask of everything mode, and of one click."""

    image: str
    group: str
    pixels: int
    share: float
    everything: float
    click: float


@dataclass(frozen=True)
class ImageFigures:
    """An image: the number of its objects, of the masks of everything mode, and of the right masks."""

    image: str
    group: str
    objects: int
    masks: int
    right: int


def scenes(objects: str, split: str, seeds: Iterable[int], models: Path | None = None) -> Iterator[MaskedImage]:
    """Yield rendered scenes with the masks of all objects that are visible."""
    source = SceneSource(objects, models)
    with Renderer(*SIZE) as renderer:
        source.preload(renderer)
        for seed in seeds:
            _, frame = source.render(renderer, source.sample(seed, split), depth=False)
            numbers = frame.objects()
            if numbers:
                masks = np.stack([frame.instance_ids == number for number in numbers])
                yield MaskedImage(f"{split} {seed}", objects, frame.rgb, masks, True)


def photographs(data: Path, packs: Sequence[str] | None, split: str, skipped: Skipped) -> Iterator[MaskedImage]:
    """Yield the photographs of packs in COCO's layout. Raises InputError if no pack is there."""
    folders, absent = pack_folders(data, packs)
    if not folders:
        raise InputError(f"{data} has no pack{f' of {absent}' if absent else ''}; give the folder of the packs")
    for folder in folders:
        for image, group in groupby(pack_objects(folder, skipped), key=lambda one: one.image):
            masks = [one.decode() for one in group if one.split == split]
            if masks:
                yield MaskedImage(image.name, folder.name, load_image(image), np.stack(masks), False)


def measure(segmenter: Segmenter, image: MaskedImage) -> tuple[list[ObjectFigures], ImageFigures]:
    """Return the figures of an image and of its objects."""
    areas = image.masks.sum((1, 2))
    visible = np.flatnonzero(areas >= MIN_PIXELS)
    segmenter.set_image(image.rgb)
    found = full_masks(segmenter.segment_everything())
    overlap = ious(image.masks, found)
    best = overlap.max(1, initial=0.0)
    right = _right(image.masks, found, overlap)
    clicks = np.zeros(len(image.masks))
    if len(visible):
        points = np.array([[interior_point(MaskCrop(0, 0, image.masks[row]))] for row in visible], np.float64)
        segments = segmenter.segment(points=points)
        masks = np.zeros((len(visible), *image.masks.shape[1:]), bool)
        masks[segments.ids - 1] = full_masks(segments)  # a click without a mask keeps an empty one
        clicks[visible] = _pairwise(image.masks[visible], masks)
    pixels = image.masks.shape[1] * image.masks.shape[2]
    objects = [
        ObjectFigures(
            image.name, image.group, int(areas[row]), float(areas[row] / pixels), float(best[row]), float(clicks[row])
        )
        for row in visible
    ]
    return objects, ImageFigures(image.name, image.group, len(visible), len(found), int(right.sum()))


def full_masks(regions: Regions) -> np.ndarray:
    """Return the masks of regions at the size of their image, bool [N, H, W]."""
    masks = np.zeros((len(regions), *regions.shape), bool)
    for row, mask in enumerate(masks):
        mask[...] = regions.mask(row)
    return masks


def ious(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU of each mask, bool [N, H, W], with each of the others, bool [M, H, W]: float64 [N, M]."""
    a, b = (_flat(one) for one in (masks, others))
    common = (a @ b.T).astype(np.float64)
    union = a.sum(1)[:, None] + b.sum(1)[None] - common
    return np.asarray(common / np.maximum(union, 1))


def _flat(masks: np.ndarray) -> np.ndarray:
    return masks.reshape(len(masks), np.prod(masks.shape[1:], dtype=int)).astype(np.float32)


def _pairwise(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
    common = (masks & others).sum((1, 2))
    return np.asarray(common / np.maximum((masks | others).sum((1, 2)), 1))


def _right(masks: np.ndarray, found: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """Return which of the found masks are an object, or a part of an object that was found, bool [M]."""
    if not len(found) or not len(masks):
        return np.zeros(len(found), bool)
    a, b = (_flat(one) for one in (masks, found))
    inside = (a @ b.T) / np.maximum(b.sum(1), 1)
    whole = np.asarray((overlap >= FOUND).any(1))
    return np.asarray((overlap >= FOUND).any(0) | ((inside >= _PART) & whole[:, None]).any(0))


def summary(objects: Sequence[ObjectFigures], images: Sequence[ImageFigures], complete: bool) -> dict[str, Figure]:
    """Return the figures with their intervals; ``complete``: whether every object had a mask."""
    best, click = (np.array([getattr(one, name) for one in objects]) for name in ("everything", "click"))
    large = np.array([one.share >= _LEAST_SHARE for one in objects], bool)
    every = np.ones(len(objects), bool)
    bootstrap = Bootstrap([one.image for one in objects])
    figures = {
        "everything: objects found": bootstrap.mean(best >= FOUND, every),
        "everything: mean IoU of those": bootstrap.mean(best, best >= FOUND),
        "click: IoU of 0.8 and more": bootstrap.mean(click >= _GOOD_CLICK, every),
        "click: mean IoU": bootstrap.mean(click, every),
        "click: mean IoU, 1 % of the image and more": bootstrap.mean(click, large),
    }
    if complete:
        counts, masks, right = (np.array([getattr(one, n) for one in images]) for n in ("objects", "masks", "right"))
        over_images = Bootstrap([one.image for one in images])
        all_images = np.ones(len(images), bool)
        figures |= {
            "everything: masks for each object": over_images.statistic(
                lambda rows: masks[rows].sum() / max(1, counts[rows].sum()), all_images
            ),
            "everything: masks that are right": over_images.statistic(
                lambda rows: right[rows].sum() / max(1, masks[rows].sum()), all_images
            ),
        }
    return figures


@command("segmenter")
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default=DEFAULT_BUNDLE, metavar="DIR", help="segmenter (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of packs of photographs, in place of scenes")
    add_packs_option(parser)
    parser.add_argument("--objects", choices=OBJECT_SETS, default=TABLETOP, help="of scenes (default: %(default)s)")
    parser.add_argument("--models", type=Path, metavar="DIR", help="models for a home (default: those that ship)")
    add_split_option(parser)
    add_count_option(parser, "--scenes", 200, "number of scenes")
    add_threads_option(parser)
    add_figures_option(parser)
    arguments = parser.parse_args(argv)
    skipped = Skipped()
    if arguments.data is None:
        images = scenes(arguments.objects, arguments.split, range(arguments.scenes), arguments.models)
    else:
        images = photographs(arguments.data, arguments.packs, arguments.split, skipped)
    objects: list[ObjectFigures] = []
    measured: list[ImageFigures] = []
    with Segmenter(arguments.bundle, arguments.threads) as segmenter:
        for image in tqdm(images, unit="image", file=sys.stderr):
            own, figures = measure(segmenter, image)
            objects += own
            measured.append(figures)
    if not objects:
        raise InputError(f"no object of {MIN_PIXELS} pixels or more was found; {skipped.summary()}")
    groups = sorted({one.group for one in measured})
    report = {}
    for group in groups + (["all"] if len(groups) > 1 else []):
        own = [one for one in objects if group in (one.group, "all")]
        of_images = [one for one in measured if group in (one.group, "all")]
        found = summary(own, of_images, arguments.data is None)
        report[group] = {name: figure.to_json() for name, figure in found.items()}
        print(f"{group}: {len(own)} objects in {len(of_images)} images")
        for name, figure in found.items():
            print(f"  {name:44s}{figure.text('masks for' not in name)}")
    if skipped.total:
        print(skipped.summary(), file=sys.stderr)
    write_figures(arguments.json, {"figures": report, "objects": [asdict(one) for one in objects]})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
