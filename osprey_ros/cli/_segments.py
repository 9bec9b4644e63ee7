"""The regions of an image on the command line: from its masks, or from a segmenter by clicks, boxes or everything."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osprey_ros.errors import BundleError, InputError, RegionError
from osprey_ros.file_errors import native_path

if TYPE_CHECKING:
    import numpy as np

    from osprey_ros.regions.files import MaskFiles
    from osprey_ros.segmenter.segmenter import Segmenter, Segments
    from osprey_ros.segmenter.spec import EverythingSpec

SEGMENTER = "segmenter"
EVERYTHING, CLICK, BOX = "everything", "click", "box"
_COUNTS = {CLICK: 2, BOX: 4}
_FORMS = {CLICK: "X,Y", BOX: "X,Y,WIDTH,HEIGHT"}
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What to segment: clicks (x, y) or boxes (x, y, width, height) in pixels of the image; without any, everything."""

    clicks: Sequence[tuple[float, ...]] = ()
    boxes: Sequence[tuple[float, ...]] = ()


def click(text: str) -> tuple[float, ...]:
    """Return the x and y that a text such as "320,200" stands for. Raises argparse.ArgumentTypeError."""
    return _values(CLICK, text)


def box(text: str) -> tuple[float, ...]:
    """Return the x, y, width and height that a text stands for. Raises argparse.ArgumentTypeError."""
    return _values(BOX, text)


def _values(kind: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != _COUNTS[kind]:
        raise argparse.ArgumentTypeError(f"{text!r} is not a {kind} {_FORMS[kind]} in pixels of the image")
    return values


def add_segmenter_option(command: Any) -> None:
    """Add --segmenter."""
    command.add_argument(
        "--segmenter",
        default=SEGMENTER,
        metavar="DIR",
        help="folder or name of the bundle of the segmenter (default: %(default)s)",
    )


def add_segment_option(command: Any) -> None:
    """Add --segment and --segmenter."""
    command.add_argument(
        "--segment",
        nargs="+",
        metavar="WHAT",
        help="in place of --masks, regions from a segmenter: `everything` (the default), `click X,Y ...` or "
        "`box X,Y,WIDTH,HEIGHT ...`, in pixels of the image; each click and each box gives a region",
    )
    add_segmenter_option(command)


def wanted(words: Sequence[str] | None) -> Wanted:
    """Return what the words behind --segment ask for; everything without words. Raises InputError for other words."""
    kind, *values = words or (EVERYTHING,)
    if kind == EVERYTHING and not values:
        return Wanted()
    if kind not in _COUNTS or not values:
        raise InputError(
            f"--segment {' '.join(words or ())}: give `everything`, `click X,Y ...` or `box X,Y,WIDTH,HEIGHT ...`, and "
            "other arguments before it"
        )
    try:
        found = tuple(_values(kind, value) for value in values)
    except argparse.ArgumentTypeError as error:
        raise InputError(f"--segment {kind}: {error}") from error
    return Wanted(clicks=found) if kind == CLICK else Wanted(boxes=found)


def image_with_regions(arguments: argparse.Namespace) -> tuple[np.ndarray, MaskFiles]:
    """Read the image and its masks; without masks, segment it as the arguments say.

    Returns:
        RGB, uint8 [H, W, 3], and the regions; those of a segmenter have its name in place of a file's.

    Raises:
        OspreyError: A file or the segmenter cannot be used, or nothing was found.
    """
    from osprey_ros.regions.files import MaskFiles, load_image_with_masks
    from osprey_ros.vision.image_io import load_image

    if arguments.masks is not None:
        if arguments.segment is not None:
            raise InputError("both --masks and --segment are given; give one of them")
        return load_image_with_masks(arguments.image, arguments.masks, arguments.masks_anyway)
    what = wanted(arguments.segment)
    rgb = load_image(arguments.image)
    try:
        segmenter = open_segmenter(arguments)
    except BundleError as error:
        if arguments.segment is not None:
            raise
        raise InputError(
            f"give the masks of the image with --masks; without them it needs a segmenter: {error}"
        ) from error
    found = segments(segmenter, rgb, what, arguments.image)
    name = segmenter.bundle.manifest.name
    segmenter.close()
    return rgb, MaskFiles(found, (name,) * len(found))


def open_segmenter(arguments: argparse.Namespace) -> Segmenter:
    """Load the segmenter that the arguments name. Raises BundleError or EngineError."""
    from osprey_ros.cli._output import warn_if_unverified
    from osprey_ros.segmenter.bundle import SegmenterBundle
    from osprey_ros.segmenter.segmenter import Segmenter

    bundle = SegmenterBundle.open(arguments.segmenter).on_device(arguments.device)
    warn_if_unverified(bundle.manifest)
    return Segmenter(bundle, threads=arguments.threads)


def segments(
    segmenter: Segmenter, rgb: np.ndarray, what: Wanted, image: Path, settings: EverythingSpec | None = None
) -> Segments:
    """Return what was asked for of an image, uint8 [H, W, 3]. ``settings``: as for `Segmenter.segment_everything`.

    Raises InputError for a click or a box outside the image, RegionError if nothing was found.
    """
    segmenter.set_image(rgb)
    if what.clicks:
        found = segmenter.segment(points=[[point] for point in what.clicks])
    elif what.boxes:
        found = segmenter.segment(boxes=what.boxes)
    else:
        found = segmenter.segment_everything(settings)
    if not len(found):
        raise RegionError(
            f"nothing was found in image {native_path(image)}; click on an object or draw a box around it"
        )
    empty = sorted(set(range(1, len(what.clicks) + len(what.boxes) + 1)) - set(found.ids.tolist()))
    for number in empty:
        _LOGGER.warning("%s %d gave no mask", CLICK if what.clicks else BOX, number)
    return found
