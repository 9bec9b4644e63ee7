"""Draws one simulated scene into files: `python -m osprey_sim --seed 7 --output build/scene`.

Writes image.png, masks.png (16-bit instance ids, 0 is background) and truth.json (what each object is, in words): input
for `osprey describe` where no robot and no segmentation is at hand.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

from osprey_sim import words
from osprey_sim.render import Renderer
from osprey_sim.scene import MAX_OBJECTS, SPLITS, sample_scene


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m osprey_sim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=tuple(SPLITS), default="test")
    parser.add_argument(
        "--objects", type=int, choices=range(1, MAX_OBJECTS + 1), metavar="N", help="how many (default 4 to 9)"
    )
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--output", type=Path, required=True, help="folder for the files")
    arguments = parser.parse_args(argv)
    objects = (arguments.objects, arguments.objects) if arguments.objects else (4, 9)
    scene = sample_scene(arguments.seed, arguments.split, objects)
    with Renderer(arguments.width, arguments.height) as renderer:
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
