"""Draw photographs with masks and answers: `python -m evaluation.gallery --bundle DIR --data DIR`.

The photographs are chosen from the test split of all packs with a fixed seed. Each object is labeled with its answer,
its confidence, and whether the answer is right, a true more general word, or wrong. Writes one image for each
photograph, and all of them on one sheet. `--rooms` adds simulated rooms of the test split, by their seeds from 0 on.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from evaluation.kind_names import KindNames, near_synonyms
from evaluation.options import add_data_option, add_kinds_option
from evaluation.photograph_answers import Asker, Judged, images_of, judge_images
from evaluation.photographs import read_packs
from evaluation.rooms import room_answers, rooms
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import (
    Parser,
    add_bundle_option,
    add_count_option,
    add_crops_option,
    add_threads_option,
    positive,
)
from osprey_ros.describer import Describer
from osprey_ros.errors import InputError
from osprey_ros.file_errors import os_reason
from osprey_ros.regions.regions import regions_from_masks
from osprey_ros.regions.resize import resized
from osprey_ros.vision.image_io import load_image, save_image
from osprey_ros.viz.overlay import overlay
from osprey_sim.object_sets import HOME
from osprey_torch.readers.packs import SPLIT_SEED, TEST, PackObject
from osprey_torch.readers.records import Skipped
from training.home.kinds import load_kinds

SHEET = "sheet.png"
CELL = (480, 640)  # height, width of a photograph on the sheet, in pixels
_COLUMNS = 6
_BACKGROUND = 32  # gray
_RIGHT, _GENERAL, _WRONG, _NOT_SAID = 7, 10, 0, 1  # ids whose colors are green, yellow, red and blue


def chosen(objects: Sequence[PackObject], count: int, seed: int) -> list[list[PackObject]]:
    """Return the objects of ``count`` test images, drawn with a seed; of all test images if there are fewer."""
    images = list(images_of(obj for obj in objects if obj.split == TEST))
    order = np.random.default_rng(seed).permutation(len(images))[:count]
    return [images[number] for number in order.tolist()]


def label(one: Judged) -> str:
    """Return the label of an object: "coffee mug 0.93, right"."""
    shown = one.backed_off
    if shown.reason:
        return f"{shown.text}: {one.truth}"
    answer = f"{shown.text} {shown.confidence:.2f}"
    if one.backed_off_right:
        return f"{answer}, right"
    return f"{answer}, {'true' if one.right_or_general else 'wrong'}: {one.truth}"


def drawn(rgb: np.ndarray, masks: Sequence[np.ndarray], answers: Sequence[Judged]) -> np.ndarray:
    """Return an image with the masks and labels of its objects, uint8 [H, W, 3], as large as fits into a cell.

    Outlines are green for right answers, yellow for true more general ones, red for wrong ones, and blue for "unknown".

    Args:
        rgb: The image, uint8 [H, W, 3].
        masks: The mask of each object, bool [H, W].
        answers: The answers about each object.
    """
    scale = min(CELL[0] / rgb.shape[0], CELL[1] / rgb.shape[1])
    shape = (max(1, int(rgb.shape[0] * scale)), max(1, int(rgb.shape[1] * scale)))
    fitted = cv2.resize(rgb, shape[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    regions = regions_from_masks(np.concatenate([resized(mask[None], shape) for mask in masks]))
    return overlay(fitted, regions, [label(one) for one in answers], color_ids=[_color_id(one) for one in answers])


def _color_id(one: Judged) -> int:
    if one.backed_off.reason:
        return _NOT_SAID
    return _RIGHT if one.backed_off_right else _GENERAL if one.right_or_general else _WRONG


def sheet(images: Sequence[np.ndarray], columns: int = _COLUMNS) -> np.ndarray:
    """Return all images on one sheet, uint8 [H, W, 3], each in a cell. None may be larger than `CELL`."""
    height, width = CELL
    columns = min(len(images), columns)
    rows = math.ceil(len(images) / columns)
    canvas = np.full((rows * height, columns * width, 3), _BACKGROUND, np.uint8)
    for number, image in enumerate(images):
        top = number // columns * height + (height - image.shape[0]) // 2
        left = number % columns * width + (width - image.shape[1]) // 2
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


@command("gallery")
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bundle_option(parser)
    add_data_option(parser)
    add_count_option(parser, "--count", 24, "number of photographs")
    parser.add_argument("--rooms", type=positive, default=0, metavar="N", help="draw N simulated rooms, too")
    add_count_option(parser, "--columns", _COLUMNS, "columns of the sheet")
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="FILE",
        help="write the sheet alone, as PNG or JPEG by the name of the file, and no other image",
    )
    parser.add_argument(
        "--seed", type=int, default=SPLIT_SEED, metavar="N", help="seed of the choice (default: %(default)s)"
    )
    add_crops_option(parser)
    add_kinds_option(parser)
    parser.add_argument(
        "--output", type=Path, default=Path("build/gallery"), metavar="DIR", help="folder (default: %(default)s)"
    )
    add_threads_option(parser)
    arguments = parser.parse_args(argv)
    skipped = Skipped()
    objects, _ = read_packs(arguments.data, None, None, skipped)
    photographs = chosen(objects, arguments.count, arguments.seed)
    describer = Describer(arguments.bundle, arguments.threads)
    names = KindNames(load_kinds(arguments.kinds), describer.bundle.kinds(), near_synonyms())
    asker = Asker(describer, arguments.crops)
    images: dict[str, np.ndarray] = {}
    for number, members in enumerate(tqdm(photographs, "gallery", unit="image", file=sys.stderr), 1):
        answers = list(judge_images(asker, names, [members], skipped))
        if answers:
            masks = [one.decode() for one in members]
            images[f"{number:02d}_{members[0].pack}.png"] = drawn(load_image(members[0].image), masks, answers)
    for room in rooms(names, HOME, TEST, range(arguments.rooms)) if arguments.rooms else ():
        masks = [mask for _, _, mask in room.objects]
        images[f"room_{room.seed}.png"] = drawn(room.rgb, masks, room_answers(asker, names, room, HOME))
    if skipped.total:
        print(skipped.summary(), file=sys.stderr)
    if not images:
        raise InputError(f"nothing to draw: {arguments.data} has no usable test image")
    file = arguments.sheet or arguments.output / SHEET
    _make_folder(file.parent)
    if arguments.sheet is None:
        for name, image in images.items():
            save_image(arguments.output / name, image)
    save_image(file, sheet(list(images.values()), arguments.columns))
    print(f"bundle {describer.bundle.manifest.name}: drew {len(images)} images; all of them: {file}")
    return 0


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"folder {path} cannot be made: {os_reason(error)}") from error


if __name__ == "__main__":
    raise SystemExit(main())
