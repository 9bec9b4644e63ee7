"""Train the segmenter by a recipe: `python -m training.segmenter --config training/configs/segmenter.yaml`.

A run that was stopped continues from its last state. With --minutes it stops by itself, with exit status 3 until it is
complete. The result, `checkpoint/`, is built into a bundle by `osprey build --segmenter DIR`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser
from training.deadline import Deadline
from training.recipe import load_yaml
from training.runs import add_run_options, claim, run_to_end
from training.segmenter.prepare import prepare
from training.segmenter.recipe import SegmenterRecipe
from training.segmenter.trainer import train


@command("train")
def main(argv: Sequence[str] | None = None) -> int:
    """Train and return the exit status."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_options(parser)
    arguments = parser.parse_args(argv)
    deadline = Deadline(60 * arguments.minutes if arguments.minutes else None, time.monotonic())
    recipe = load_yaml(SegmenterRecipe, arguments.config)
    if arguments.scale != 1:
        recipe = recipe.scaled(arguments.scale)
    folder = arguments.output or Path("build") / recipe.name
    folder.mkdir(parents=True, exist_ok=True)

    def run() -> None:
        claim(folder, recipe)
        prepared = prepare(recipe, folder, arguments.workers, deadline)
        train(prepared, recipe, folder, arguments.save_every, deadline)
        print(f"checkpoint: {folder / 'checkpoint'}", file=sys.stderr)

    return run_to_end(run)


if __name__ == "__main__":
    raise SystemExit(main())
