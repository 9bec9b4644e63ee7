"""Train by a recipe: `python -m training.train --config training/configs/nano.yaml`.

A run that was stopped continues from its last state. With --minutes it stops by itself, with exit status 3 until it is
complete. On several GPUs:
`accelerate launch --config_file FILE -m training.train --config RECIPE`, in several processes on CPUs:
`torchrun --nproc_per_node N -m training.train --config RECIPE`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from osprey_ros.cli._edge import command
from osprey_ros.errors import InputError
from osprey_ros.files import write_file
from osprey_ros.strict_json import to_json
from training.deadline import Deadline, TimeIsUp
from training.prepare import prepare
from training.recipe import load_recipe
from training.trainer import Trainer

TIME_IS_UP = 3


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


@command("train")
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", type=Path, required=True, metavar="RECIPE", help="a YAML file, see training/configs"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the run (default build/NAME of the recipe)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of scenes and steps, for a trial run")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that render")
    parser.add_argument("--save-every", type=float, default=60.0, help="seconds between two saved states")
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after M minutes, with everything saved")
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    deadline = Deadline(60 * arguments.minutes if arguments.minutes else None, started)
    try:
        recipe = load_recipe(arguments.config)
        if arguments.scale != 1:
            recipe = recipe.scaled(arguments.scale)
        output = arguments.output or Path("build") / recipe.name
        output.mkdir(parents=True, exist_ok=True)
        # Without a GPU several processes must know each other, or each of them would train alone, in the same folder.
        # Those beside the first wait while it renders or reads data sets, which may take hours.
        state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=1))
        # One process prepares the data, those beside it find it there.
        with state.main_process_first():
            claim(output, recipe)
            prepared = prepare(recipe, output, arguments.workers, deadline)
        trainer = Trainer(recipe, prepared, output)
        parameters = sum(p.numel() for p in prepared.model.parameters())
        state.print(
            f"{recipe.name}: {parameters / 1e6:.2f} M parameters, {prepared.image_count} images, "
            f"on {trainer.accelerator.num_processes} x {trainer.accelerator.device}",
            file=sys.stderr,
        )
        trainer.run(arguments.save_every, deadline)
    except KeyboardInterrupt:
        print("train: interrupted: the same command continues from the last saved state", file=sys.stderr)
        raise
    except TimeIsUp as stop:
        print(f"train: {stop}: the same command goes on", file=sys.stderr)
        return TIME_IS_UP
    minutes = (time.monotonic() - started) / 60
    state.print(f"checkpoint: {output / 'checkpoint'} ({minutes:.1f} minutes since this start)", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
