"""What training commands share: their options, the note of a run's recipe, and how a run ends that is not complete."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from osprey_ros.errors import InputError
from osprey_ros.files import write_file
from osprey_ros.strict_json import to_json
from training.deadline import TimeIsUp

TIME_IS_UP = 3


def add_run_options(parser: ArgumentParser) -> None:
    """Add the options of a run in a folder of its own."""
    parser.add_argument(
        "--config", type=Path, required=True, metavar="RECIPE", help="a YAML file, see training/configs"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the run (default build/NAME of the recipe)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of images and steps, for a trial run")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that make images")
    parser.add_argument("--save-every", type=float, default=60.0, help="seconds between two saved states")
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after M minutes, with everything saved")


def claim(folder: Path, recipe: Any) -> None:
    """Record the recipe, a dataclass, in the run's folder.

    Raises:
        InputError: an earlier run with another recipe has left its files there.
    """
    note = folder / "recipe.json"
    wanted = to_json(asdict(recipe), indent=1) + "\n"
    if note.is_file():
        if note.read_text() != wanted:
            raise InputError(f"{folder} holds a run of another recipe ({note}): give another --output or remove it")
        return
    write_file(note, wanted)


def run_to_end(work: Callable[[], None]) -> int:
    """Call `work` and return the exit status: 0, or TIME_IS_UP; where it is stopped, say how to go on."""
    try:
        work()
    except KeyboardInterrupt:
        print("train: interrupted: the same command continues from the last saved state", file=sys.stderr)
        raise
    except TimeIsUp as stop:
        print(f"train: {stop}: the same command goes on", file=sys.stderr)
        return TIME_IS_UP
    return 0
