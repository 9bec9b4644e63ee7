"""Train by a recipe: `python -m training.train --config training/configs/nano.yaml`.

A run that was stopped continues from its last state. With --minutes it stops by itself, with exit status 3 until it is
complete. On several GPUs:
`accelerate launch --config_file FILE -m training.train --config RECIPE`, in several processes on CPUs:
`torchrun --nproc_per_node N -m training.train --config RECIPE`.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState

from osprey_ros.cli._edge import command
from training.deadline import Deadline
from training.prepare import prepare
from training.recipe import load_recipe
from training.runs import add_run_options, claim, run_to_end
from training.trainer import Trainer


@command("train")
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_options(parser)
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    deadline = Deadline(60 * arguments.minutes if arguments.minutes else None, started)

    def run() -> None:
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
        minutes = (time.monotonic() - started) / 60
        state.print(f"checkpoint: {output / 'checkpoint'} ({minutes:.1f} minutes since this start)", file=sys.stderr)

    return run_to_end(run)


if __name__ == "__main__":
    raise SystemExit(main())
