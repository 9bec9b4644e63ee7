"""The command ``osprey segment``: write the masks of an image, of clicks, boxes or everything in it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from osprey_ros.cli._options import (
    add_image_option,
    add_json_option,
    add_machine_options,
    add_verbose_option,
    positive,
)
from osprey_ros.cli._output import box_text
from osprey_ros.cli._segments import Wanted, add_segmenter_option, box, click, open_segmenter, segments
from osprey_ros.errors import InputError
from osprey_ros.file_errors import native_path
from osprey_ros.strict_json import to_json

FORMATS = ("ids", "coco", "rle")
_OF_EXTENSION = {".png": "ids", ".json": "coco"}


def add_command(commands: Any) -> None:
    """Add ``osprey segment`` to the commands."""
    command = commands.add_parser(
        "segment",
        help="write the masks of an image",
        description="Write the masks of an image: of everything in it (the default), or one for each click or box.",
    )
    add_image_option(command, required=True)
    what = command.add_mutually_exclusive_group()
    what.add_argument("--everything", action="store_true", help="everything in the image (the default)")
    what.add_argument("--click", nargs="+", type=click, default=[], metavar="X,Y", help="the objects at these pixels")
    what.add_argument(
        "--box", nargs="+", type=box, default=[], metavar="X,Y,WIDTH,HEIGHT", help="the objects in these boxes"
    )
    command.add_argument("--output", required=True, type=Path, metavar="FILE", help="file to write")
    command.add_argument(
        "--format",
        choices=FORMATS,
        help="ids: a gray PNG of region ids for `osprey describe --masks`, smallest regions on top; coco: annotations "
        "with run lengths; rle: a list with run lengths, as of SAM's mask generator (default: ids for .png, coco for "
        ".json)",
    )
    command.add_argument("--min-area", type=positive, metavar="N", help="of everything, leave out smaller regions")
    command.add_argument("--max-regions", type=positive, metavar="N", help="of everything, keep the N best regions")
    add_segmenter_option(command)
    add_machine_options(command)
    add_json_option(command)
    add_verbose_option(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run ``osprey segment``.

    Returns:
        The exit status, 0.

    Raises:
        OspreyError: The image, a click or the segmenter cannot be used, or nothing was found.
        OSError: The file cannot be written.
    """
    from osprey_ros.files import write_json
    from osprey_ros.regions.writing import coco_annotations, run_lengths, save_id_image
    from osprey_ros.vision.image_io import load_image

    form = arguments.format or _OF_EXTENSION.get(arguments.output.suffix.lower())
    if form is None:
        raise InputError(f"{native_path(arguments.output)}: give a name that ends in .png or .json, or --format")
    rgb = load_image(arguments.image)
    segmenter = open_segmenter(arguments)
    changes = {"min_area": arguments.min_area, "max_regions": arguments.max_regions}
    settings = replace(segmenter.spec.everything, **{name: value for name, value in changes.items() if value})
    found = segments(segmenter, rgb, Wanted(arguments.click, arguments.box), arguments.image, settings)
    hidden = 0
    if form == "ids":
        hidden = save_id_image(arguments.output, found)
    elif form == "coco":
        write_json(arguments.output, coco_annotations(found, found.scores, native_path(arguments.image.name)))
    else:
        write_json(arguments.output, run_lengths(found, found.scores))
    timing = segmenter.image_timing + found.timing
    regions: list[dict[str, Any]] = [
        {"id": int(region), "box": [int(value) for value in box], "area": int(area), "score": round(float(score), 4)}
        for region, box, area, score in zip(found.ids, found.boxes, found.areas, found.scores, strict=True)
    ]
    if arguments.json:
        report = {
            "image": native_path(arguments.image),
            "output": native_path(arguments.output),
            "format": form,
            "segmenter": segmenter.bundle.manifest.name,
            "size": {"width": found.shape[1], "height": found.shape[0]},
            "hidden": hidden,
            "regions": regions,
            "seconds": round(timing.total, 4),
        }
        print(to_json(report, indent=2))
    else:
        print(f"{'id':>6}  {'x, y, width, height':<22}  {'pixels':>8}  score")
        for one in regions:
            print(f"{one['id']:>6}  {box_text(one['box']):<22}  {one['area']:>8}  {one['score']:.2f}")
    print(f"{len(regions)} regions in {timing.total:.2f} s with {segmenter.bundle.manifest.name}", file=sys.stderr)
    if hidden:
        print(f"{hidden} of them are hidden by smaller ones in the id image; coco and rle keep all", file=sys.stderr)
    return 0
