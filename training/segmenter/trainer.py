"""Trains the segmenter on cached features, with its state saved for the next start."""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from tqdm import tqdm

from osprey_ros.errors import InputError
from osprey_ros.files import write_file
from osprey_ros.strict_json import to_json
from osprey_torch.small_segmenter import WEIGHTS, SmallSegmenter
from osprey_torch.weight_layout import CONFIG
from training.deadline import Deadline, TimeIsUp
from training.segmenter.data import PromptBatch, PromptBatches
from training.segmenter.objective import Losses, losses
from training.segmenter.prepare import Prepared
from training.segmenter.recipe import SegmenterRecipe
from training.trainer import schedule

STATE, LOG = "state.pt", "log.jsonl"
_WARMUP = 200  # steps
_LAST_RATE = 0.02  # of the peak, at the end
_AVERAGE = 0.998  # decay of the averaged weights, which are the result
_LOG_EVERY = 50  # steps


def train(prepared: Prepared, recipe: SegmenterRecipe, folder: Path, save_every: float, deadline: Deadline) -> None:
    """Run the steps that are left and write `checkpoint/`.

    Raises TimeIsUp, with the state saved, when the deadline passes; InputError if the loss diverges.
    """
    torch.set_flush_denormal(True)
    run = _Run(prepared.model, recipe, folder)
    first = run.resume()
    loader: DataLoader[PromptBatch] = DataLoader(
        PromptBatches(prepared.sources, recipe, first), batch_size=None, num_workers=1
    )
    bar = tqdm(desc=recipe.name, initial=first, total=recipe.steps, mininterval=5, file=sys.stderr)
    saved, recent = time.monotonic(), _Means()
    for step, batch in enumerate(loader, start=first):
        recent.add(run.step(step, batch))
        bar.update()
        if (step + 1) % _LOG_EVERY == 0 or step + 1 == recipe.steps:
            figures = recent.take()
            bar.set_postfix({name: f"{value:.3f}" for name, value in figures.items()}, refresh=False)
            run.log(step + 1, figures)
        if deadline.has_passed or time.monotonic() - saved > save_every:
            run.save(step + 1)
            saved = time.monotonic()
            if deadline.has_passed and step + 1 < recipe.steps:
                bar.close()
                raise TimeIsUp(f"time is up at step {step + 1} of {recipe.steps}")
    bar.close()
    run.save(recipe.steps)
    run.write_checkpoint()


class _Run:
    """The model with its optimizer and its averaged weights."""

    def __init__(self, model: SmallSegmenter, recipe: SegmenterRecipe, folder: Path) -> None:
        self.model, self.recipe, self.folder = model, recipe, folder
        model.tower.requires_grad_(False)
        learning = [one for one in model.parameters() if one.requires_grad]
        groups = [
            {"params": [one for one in learning if one.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [one for one in learning if one.ndim <= 1], "weight_decay": 0.0},
        ]
        self._learning = learning
        self._optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
        self._average = {name: value.clone() for name, value in model.state_dict().items()}

    def resume(self) -> int:
        """Take the saved state, if there is one, and return the number of the next step."""
        path = self.folder / STATE
        if not path.is_file():
            return 0
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._average = state["average"]
        return int(state["step"])

    def step(self, step: int, batch: PromptBatch) -> Losses:
        """Learn from a batch and return its losses."""
        rate = schedule(step, self.recipe.steps, min(1.0, _WARMUP / self.recipe.steps))
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * max(rate, _LAST_RATE if step > _WARMUP else 0.0)
        encoded = self.model.neck(batch.pixels, batch.maps)
        found = self.model.decode(encoded, batch.coords, batch.labels)
        loss = losses(encoded, found, batch.targets, batch.known, batch.objectness, batch.weight)
        self._optimizer.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._learning, 1.0)
        self._optimizer.step()
        decay = min(_AVERAGE, (1 + step) / (10 + step))
        now = self.model.state_dict()
        for name, value in self._average.items():
            value.lerp_(now[name], 1 - decay)
        return loss

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Add a line to the log. Raises InputError for a loss that is not finite."""
        if not all(math.isfinite(value) for value in figures.values()):
            raise InputError(f"step {step}: the losses are {figures}; lower the learning rate in the recipe")
        with (self.folder / LOG).open("a") as log:
            log.write(to_json({"step": step, **figures}) + "\n")

    def save(self, step: int) -> None:
        """Write the state to resume from."""
        partial = self.folder / f"partial-{STATE}"
        state = {"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict()}
        torch.save({**state, "average": self._average, "step": step}, partial)
        os.replace(partial, self.folder / STATE)

    def write_checkpoint(self) -> None:
        """Write the averaged weights, rounded to float16, and the configuration."""
        folder = self.folder / "checkpoint"
        folder.mkdir(exist_ok=True)
        weights = {name: value.half().contiguous() for name, value in self._average.items()}
        save_file(weights, folder / WEIGHTS)
        write_file(folder / CONFIG, to_json(self.recipe.model.to_json(), indent=2) + "\n")


class _Means:
    """Means of losses over the steps since the last look."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, loss: Losses) -> None:
        for name, value in loss._asdict().items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach())
        self._count += 1

    def take(self) -> dict[str, float]:
        means = {name: value / self._count for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        return means
