"""Render a simulated scene into files: `osprey sim --seed 7 --output build/scene`, or `python -m osprey_sim`.

The files are image.png, masks.png (16-bit instance ids, 0 for the background) and truth.json (a description of each
object): input for `osprey describe` without a robot or a segmentation.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from PIL import Image

from osprey_ros.cli._options import Parser, positive
from osprey_sim import words
from osprey_sim.render import Renderer
from osprey_sim.scene import MAX_OBJECTS, SPLITS, sample_scene


def main(argv: list[str] | None = None) -> int:
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
    parser.add_argument(
        "--width", type=positive, default=640, metavar="N", help="width of the image in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--height", type=positive, default=480, metavar="N", help="height of the image in pixels (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    objects = (arguments.objects, arguments.objects) if arguments.objects else (4, 9)
    scene = sample_scene(arguments.seed, arguments.split, objects)
    try:
        renderer = Renderer(arguments.width, arguments.height)
    except RuntimeError as error:
        print(f"osprey: error: {error}", file=sys.stderr)
        return 2
    with renderer:
        frame = renderer.render(scene, depth=False)
    arguments.output.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame.rgb).save(arguments.output / "image.png")
    Image.fromarray(frame.instance_ids).save(arguments.output / "masks.png")
    truth = [
        {
            "instance_id": obj.instance_id,
            "category": words.category(obj),
            "short": words.short(obj),
            "detailed": words.detailed(scene, frame, obj),
        }
        for obj in words.visible_objects(scene, frame)
    ]
    (arguments.output / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
    print(f"{arguments.output}: image.png, masks.png and truth.json with {len(truth)} objects")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
