"""Render a simulated scene into files: `osprey sim --seed 7 --output build/scene`, or `python -m osprey_sim`.

The files are image.png, masks.png (16-bit instance ids, 0 for the background) and truth.json (a description of each
object): input for `osprey describe` without a robot or a segmentation.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from osprey_ros.cli._options import Parser, add_count_option
from osprey_ros.cli._output import errors_in_a_line, write_figures
from osprey_sim import words
from osprey_sim.render import render_scenes
from osprey_sim.scene import MAX_OBJECTS, SPLITS


@errors_in_a_line("osprey: error")
def main(argv: Sequence[str] | None = None) -> int:
    """Render a scene and return the exit status."""
    parser = Parser(prog="osprey sim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for the files; existing files are replaced"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="number of the scene within its split (default: %(default)s)"
    )
    parser.add_argument(
        "--split",
        choices=tuple(SPLITS),
        default="test",
        help="which scenes: those nano was trained on, or others (default: %(default)s)",
    )
    parser.add_argument(
        "--objects",
        type=int,
        choices=range(1, MAX_OBJECTS + 1),
        metavar="N",
        help=f"number of objects, 1 to {MAX_OBJECTS} (default: 4 to 9, chosen by the seed)",
    )
    add_count_option(parser, "--width", 640, "width of the image in pixels")
    add_count_option(parser, "--height", 480, "height of the image in pixels")
    arguments = parser.parse_args(argv)
    objects = (arguments.objects, arguments.objects) if arguments.objects else (4, 9)
    size = (arguments.width, arguments.height)
    ((scene, frame),) = render_scenes(arguments.split, [arguments.seed], size, objects=objects)
    arguments.output.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame.rgb).save(arguments.output / "image.png")
    Image.fromarray(frame.instance_ids).save(arguments.output / "masks.png")
    truth = [
        {
            "instance_id": obj.instance_id,
            "category": obj.category,
            "short": words.short(obj),
            "detailed": words.detailed(scene, frame, obj),
        }
        for obj in words.visible_objects(scene, frame)
    ]
    write_figures(arguments.output / "truth.json", truth)
    print(f"{arguments.output}: image.png, masks.png and truth.json with {len(truth)} objects")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
