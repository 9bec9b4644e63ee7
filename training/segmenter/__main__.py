"""Train the segmenter by a recipe: `python -m training.segmenter --config training/configs/segmenter.yaml`.

A run that was stopped continues from its last state. With --minutes it stops by itself, with exit status 3 until it is
complete. The result, `checkpoint/`, is built into a bundle by `osprey build --segmenter DIR`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser
from training.deadline import Deadline, TimeIsUp
from training.recipe import load_yaml
from training.segmenter.prepare import prepare
from training.segmenter.recipe import SegmenterRecipe
from training.segmenter.trainer import train
from training.train import TIME_IS_UP, claim


@command("train")
def main(argv: Sequence[str] | None = None) -> int:
    """Train and return the exit status."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, metavar="RECIPE", help="a YAML file")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the run (default build/NAME of the recipe)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of images and steps, for a trial run")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that make images")
    parser.add_argument("--save-every", type=float, default=60.0, help="seconds between two saved states")
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after M minutes, with everything saved")
    arguments = parser.parse_args(argv)
    deadline = Deadline(60 * arguments.minutes if arguments.minutes else None, time.monotonic())
    recipe = load_yaml(SegmenterRecipe, arguments.config)
    if arguments.scale != 1:
        recipe = recipe.scaled(arguments.scale)
    folder = arguments.output or Path("build") / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        claim(folder, recipe)
        prepared = prepare(recipe, folder, arguments.workers, deadline)
        train(prepared, recipe, folder, arguments.save_every, deadline)
    except KeyboardInterrupt:
        print("train: interrupted: the same command continues from the last saved state", file=sys.stderr)
        raise
    except TimeIsUp as stop:
        print(f"train: {stop}: the same command goes on", file=sys.stderr)
        return TIME_IS_UP
    print(f"checkpoint: {folder / 'checkpoint'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
