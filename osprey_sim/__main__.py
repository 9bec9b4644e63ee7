"""Render a simulated scene into files: `osprey sim --seed 7 --output build/scene`, or `python -m osprey_sim`.

The files are image.png, masks.png (16-bit instance ids, 0 for the background) and truth.json: for each object its
category, color and material where they are known, and two sentences. They are input for `osprey describe` without a
robot or a segmentation. `--objects home` places models of real things.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser, add_count_option
from osprey_ros.cli._output import write_figures
from osprey_ros.files import completed_file
from osprey_sim import words
from osprey_sim.object_sets import OBJECT_SETS, TABLETOP, SceneSource
from osprey_sim.render import Renderer
from osprey_sim.scene import MAX_OBJECTS, SPLITS


def _objects(text: str) -> str | int:
    """Return a set of objects, or the number of objects, which was the meaning of --objects in 0.1."""
    if text in OBJECT_SETS:
        return text
    if text.isdecimal() and 1 <= int(text) <= MAX_OBJECTS:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not {' or '.join(OBJECT_SETS)}, nor a number up to {MAX_OBJECTS}")


@command("osprey: error")
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
        type=_objects,
        default=TABLETOP,
        metavar=f"{{{','.join(OBJECT_SETS)}}}",
        help="primitives on a table, or models of real things in a room (default: %(default)s); a number is --count",
    )
    parser.add_argument(
        "--count",
        type=int,
        choices=range(1, MAX_OBJECTS + 1),
        metavar="N",
        help=f"number of objects, 1 to {MAX_OBJECTS} (default: 4 to 9, chosen by the seed)",
    )
    parser.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="models for a home, made by python -m osprey_sim.meshes.furniture (default: those of the simulator)",
    )
    add_count_option(parser, "--width", 640, "width of the image in pixels")
    add_count_option(parser, "--height", 480, "height of the image in pixels")
    arguments = parser.parse_args(argv)
    objects, number = arguments.objects, arguments.count
    if isinstance(objects, int):  # as in 0.1
        objects, number = TABLETOP, objects
    source = SceneSource(objects, arguments.models)
    scene = source.sample(arguments.seed, arguments.split, (number, number) if number else (4, 9))
    with Renderer(arguments.width, arguments.height) as renderer:
        scene, frame = source.render(renderer, scene, depth=False)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, pixels in (("image.png", frame.rgb), ("masks.png", frame.instance_ids)):
        with completed_file(arguments.output / name) as partial:
            Image.fromarray(pixels).save(partial)
    truth = [
        {
            "instance_id": obj.instance_id,
            "category": obj.category,
            "color": obj.color or None,
            "material": obj.material or None,
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
