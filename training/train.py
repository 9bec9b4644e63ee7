"""Train the small model from nothing: `python -m training.train --preset nano`.

Renders its scenes, trains its tokenizer, runs the stages and writes a checkpoint folder for `export/build_engines.py`.
Stopped at any moment and started again, it goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from osprey_ros.prompt import MASK_TEXT, PromptBuilder
from osprey_torch.checkpoint import save_checkpoint
from osprey_torch.config import IMAGE_TOKEN_LEVEL, OSPREY_NANO, OspreyConfig
from osprey_torch.model import Osprey
from training.data import LABELS, NO_LABEL, Batch, SceneDataset, batches
from training.int4_aware import int4_weights, settle_on_int4
from training.stages import NANO, Stage, freeze_all_but
from training.store import SceneStore, render_scenes
from training.tokenizer import train_tokenizer
from training.words import all_texts

CHECKPOINT = "progress.pt"


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on but the machine."""

    name: str
    model: OspreyConfig  # its vocabulary size is an upper bound for the tokenizer's
    stages: tuple[Stage, ...]
    scenes: int
    seed: int = 1
    max_grad_norm: float = 1.0

    def scaled(self, factor: float) -> Recipe:
        """The same recipe with `factor` times the scenes and steps, for trials."""
        stages = tuple(replace(s, steps=max(2, round(s.steps * factor))) for s in self.stages)
        return replace(self, stages=stages, scenes=max(8, round(self.scenes * factor)))


PRESETS = {"nano": Recipe("nano", OSPREY_NANO, NANO, scenes=10000)}


class LabelHeads(nn.Module):
    """Linear classifiers on the mask token, used by stage 0 alone and thrown away after it."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.heads = nn.ModuleDict({name: nn.Linear(hidden_size, len(values)) for name, values in LABELS.items()})

    def loss(self, mask_tokens: torch.Tensor, labels: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """mask_tokens [B, N, H] -> (summed cross-entropy of all labels, share of categories that are right)."""
        x = self.norm(mask_tokens)
        logits = {name: head(x) for name, head in self.heads.items()}
        loss = torch.stack(
            [
                functional.cross_entropy(logits[name].flatten(0, 1), labels[name].flatten(), ignore_index=NO_LABEL)
                for name in LABELS
            ]
        ).sum()
        known = labels["category"] != NO_LABEL
        right = (logits["category"].argmax(-1) == labels["category"])[known].float().mean()
        return loss, right


def words_loss(model: Osprey, batch: Batch, features: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of answer tokens, and the share of them that is the model's first choice."""
    assert batch.packed is not None
    tokens = model.mask_extractor(features, batch.masks, batch.positions)
    logits = model(model.project(features[IMAGE_TOKEN_LEVEL]), *tokens, batch.packed).float()
    targets = batch.packed.targets[batch.packed.targets >= 0]
    return functional.cross_entropy(logits, targets), (logits.argmax(-1) == targets).float().mean()


class Trainer:
    """Runs the stages of a recipe in a folder and keeps there what is needed to go on after a stop."""

    def __init__(self, recipe: Recipe, config: OspreyConfig, store: SceneStore, tokenizer: Tokenizer, folder: Path):
        torch.manual_seed(recipe.seed)
        self.recipe, self.store, self.tokenizer, self.folder = recipe, store, tokenizer, folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = Osprey(config).to(self.device)
        self.heads = LabelHeads(config.hidden_size).to(self.device)
        self.prompts = PromptBuilder(tokenizer, config.model_spec())
        self.workers = max(1, min(8, (os.cpu_count() or 2) - 1))

    def run(self, save_every: float) -> None:
        """All stages, from the last checkpoint if there is one. `save_every` is in seconds."""
        resume = self._load()
        for number, stage in enumerate(self.recipe.stages):
            if number >= resume["stage"]:
                same = number == resume["stage"]
                self._run_stage(
                    number, stage, resume["step"] if same else 0, resume["optimizer"] if same else None, save_every
                )
        save_checkpoint(self.model, self.tokenizer, self.folder / "checkpoint")

    def _run_stage(self, number: int, stage: Stage, first: int, optimizer_state: Any, save_every: float) -> None:
        parameters = list(freeze_all_but(self.model, stage.trains))
        if not stage.learns_words:
            parameters += list(self.heads.parameters())
        decay = [p for p in parameters if p.ndim > 1]
        plain = [p for p in parameters if p.ndim <= 1]
        groups = [
            {"params": decay, "weight_decay": 0.05 if not stage.learns_words else 0.0},
            {"params": plain, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(0.9, 0.98))
        if optimizer_state is not None:
            optimizer.load_state_dict(optimizer_state)
        spec = self.model.config.model_spec()
        dataset = SceneDataset(self.store, spec, self.prompts, stage.selection, self.recipe.seed + number)
        loader = batches(dataset, first, stage.steps, stage.batch_size, self.workers)
        saved = time.monotonic()
        bar = tqdm(loader, desc=stage.name, initial=first, total=stage.steps, mininterval=5, file=sys.stderr)
        mean_loss = mean_right = 0.0
        for step, batch in enumerate(bar, first):
            for group in optimizer.param_groups:
                group["lr"] = stage.learning_rate * schedule(step, stage.steps, stage.warmup)
            with int4_weights(self.model, stage.int4_aware):
                loss, right = self._loss(stage, batch.to(self.device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
            nn.utils.clip_grad_norm_(parameters, self.recipe.max_grad_norm)
            optimizer.step()
            share = 0.02 if step > first else 1.0  # of the running means that are shown
            mean_loss += share * (loss.item() - mean_loss)
            mean_right += share * (right.item() - mean_right)
            if step % 20 == 0:
                bar.set_postfix(loss=f"{mean_loss:.3f}", right=f"{mean_right:.3f}", refresh=False)
                self._log(stage=stage.name, step=step, loss=loss.item(), right=right.item())
            if time.monotonic() - saved > save_every:
                self._save(number, step + 1, optimizer)
                saved = time.monotonic()
        if stage.int4_aware:
            settle_on_int4(self.model)
        self._save(number + 1, 0, None)

    def _loss(self, stage: Stage, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16):
            frozen = "vision" not in stage.trains
            with torch.no_grad() if frozen else nullcontext():
                features = self.model.model.vision_tower(batch.pixels)
            if stage.learns_words:
                return words_loss(self.model, batch, features)
            mask_tokens, _ = self.model.mask_extractor(features, batch.masks, batch.positions)
            return self.heads.loss(mask_tokens, batch.labels)

    def _save(self, stage: int, step: int, optimizer: torch.optim.Optimizer | None) -> None:
        state = {
            "stage": stage,
            "step": step,
            "optimizer": optimizer.state_dict() if optimizer else None,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
        }
        unfinished = self.folder / f"{CHECKPOINT}.part"
        torch.save(state, unfinished)
        unfinished.rename(self.folder / CHECKPOINT)

    def _load(self) -> dict[str, Any]:
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return {"stage": 0, "step": 0, "optimizer": None}
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        return state

    def _log(self, **values: Any) -> None:
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(values) + "\n")


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: linear warm-up, then half a cosine down to zero."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def claim(folder: Path, recipe: Recipe) -> None:
    """Note in the run's folder which recipe it is for.

    Raises:
        ValueError: an earlier run with another recipe has left its files there.
    """
    note = folder / "recipe.json"
    wanted = json.dumps(asdict(recipe), indent=1) + "\n"
    if note.is_file() and note.read_text() != wanted:
        raise ValueError(f"{folder} holds a run of another recipe ({note}): give another --output or remove it")
    note.write_text(wanted)


def prepare(recipe: Recipe, folder: Path, workers: int) -> tuple[SceneStore, Tokenizer, OspreyConfig]:
    """Render the scenes and train the tokenizer, or take what is there from an earlier run."""
    with tqdm(total=recipe.scenes, desc="scenes", unit="scene", file=sys.stderr) as bar:
        store = render_scenes(folder / "scenes", "train", recipe.scenes, recipe.model.image_size, workers, bar.update)
    path = folder / "tokenizer.json"
    if not path.is_file():
        texts = (text for i in range(min(len(store), 3000)) for facts in store.facts(i) for text in all_texts(facts))
        train_tokenizer(texts, recipe.model.vocab_size).save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    return store, tokenizer, recipe.model.with_vocabulary(tokenizer.token_to_id(MASK_TEXT))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), required=True)
    parser.add_argument(
        "--output", type=Path, default=Path("build/nano"), help="folder of the run (default build/nano)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of scenes and steps, for a trial run")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that render")
    parser.add_argument("--save-every", type=float, default=60.0, help="seconds between checkpoints")
    arguments = parser.parse_args(argv)
    recipe = PRESETS[arguments.preset].scaled(arguments.scale) if arguments.scale != 1 else PRESETS[arguments.preset]
    arguments.output.mkdir(parents=True, exist_ok=True)
    try:
        claim(arguments.output, recipe)
    except ValueError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    started = time.monotonic()
    store, tokenizer, config = prepare(recipe, arguments.output, arguments.workers)
    trainer = Trainer(recipe, config, store, tokenizer, arguments.output)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    print(
        f"{recipe.name}: {parameters / 1e6:.2f} M parameters, {len(store)} scenes, on {trainer.device}", file=sys.stderr
    )
    trainer.run(arguments.save_every)
    minutes = (time.monotonic() - started) / 60
    print(f"checkpoint: {arguments.output / 'checkpoint'} ({minutes:.1f} minutes since this start)", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
