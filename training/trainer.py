"""Runs the stages of a recipe on the devices that `accelerate` finds, and saves the state to resume."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch import nn
from tqdm import tqdm

from osprey_ros.errors import InputError, StorageError
from osprey_ros.files import write_file
from osprey_ros.strict_json import to_json
from osprey_torch.backbone import BackboneTower
from osprey_torch.checkpoint import save_checkpoint
from training.cpu import prepare_for_cpu
from training.data import batches
from training.deadline import Deadline, TimeIsUp
from training.int4_aware import int4_weights, settle_on_int4
from training.lora import add_lora, freeze_below_adapters, merged_state
from training.objective import Objective, seed_answers
from training.prepared import Prepared
from training.recipe import Recipe
from training.stages import Stage, freeze_all_but, group_parameters

PROGRESS = "progress.json"
_START = {"stage": 0, "step": 0, "state": None}
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Trainer:
    """Trains in a folder: `progress.json` has the state to resume, `checkpoint/` is the result."""

    def __init__(self, recipe: Recipe, prepared: Prepared, folder: Path):
        self.recipe, self.prepared, self.folder = recipe, prepared, folder
        self.accelerator = Accelerator(
            mixed_precision="bf16" if recipe.precision == "bf16" else "no",
            gradient_accumulation_steps=recipe.gradient_accumulation,
            log_with="tensorboard",
            project_dir=str(folder),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        sharded = self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        if sharded and (recipe.lora is not None or any(stage.int4_aware for stage in recipe.stages)):
            raise InputError("lora and int4_aware need whole weights on each device: not with FSDP or DeepSpeed")
        torch.manual_seed(recipe.seed)
        if recipe.lora is not None:
            add_lora(prepared.model, recipe.lora)
        if self.accelerator.device.type == "cpu":
            prepare_for_cpu(prepared.model)
        self.objective = Objective(prepared.model, prepared.labels, recipe.dropout)
        if recipe.gradient_checkpointing:
            prepared.model.model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
        self.workers = max(1, min(16, (os.cpu_count() or 2) - 1))

    def run(self, save_every: float, deadline: Deadline = Deadline()) -> None:  # noqa: B008
        """Run all stages, from where an earlier run stopped; `save_every` is in seconds.

        Raises TimeIsUp, with everything saved, when the deadline runs out.
        """
        self.accelerator.init_trackers("tensorboard")
        progress = self._progress()
        for number, stage in enumerate(self.recipe.stages):
            if number >= progress["stage"]:
                start = progress if number == progress["stage"] else _START
                self._run_stage(number, stage, start, save_every, deadline)
        self.accelerator.end_training()

    def _run_stage(
        self, number: int, stage: Stage, resume: dict[str, Any], save_every: float, deadline: Deadline
    ) -> None:
        accelerator, accumulated = self.accelerator, self.recipe.gradient_accumulation
        images = accelerator.num_processes * accumulated  # a step's smallest batch
        if stage.batch_size % images:
            raise InputError(
                f"stage {stage.name}: batch_size {stage.batch_size} must be a multiple of {images}, the processes "
                "times gradient_accumulation"
            )
        if resume["state"] and resume["step"] == 0:
            # Between two stages only the weights count: the optimizer in that state belongs to the stage before.
            accelerator.prepare(self.objective)
            accelerator.load_state(str(self.folder / resume["state"]))
            accelerator.free_memory()
        words_begin = stage.learns_words and number > 0 and not self.recipe.stages[number - 1].learns_words
        if resume["step"] == 0 and words_begin and self.prepared.category_tokens:
            seed_answers(self.prepared.model, self.objective.heads, self.prepared.category_tokens)
        model, optimizer = accelerator.prepare(self.objective, self._optimizer(stage))
        if resume["state"] and resume["step"] > 0:
            accelerator.load_state(str(self.folder / resume["state"]))
        first, steps = resume["step"], stage.total_steps(self.prepared.image_count)
        loader = batches(
            self.prepared.items(stage.selection, self.recipe.seed + number),
            first,
            steps,
            stage.batch_size,
            self.workers,
            accelerator.process_index,
            accelerator.num_processes,
            accumulated,
        )
        shown = accelerator.is_main_process
        bar = tqdm(desc=stage.name, initial=first, total=steps, mininterval=5, file=sys.stderr, disable=not shown)
        saved = time.monotonic()
        shares = torch.zeros(2, device=accelerator.device)  # loss and share that is right, over a step's small batches
        model.train()
        for index, batch in enumerate(loader):
            step, micro = first + index // accumulated, index % accumulated
            for group in optimizer.param_groups:
                group["lr"] = stage.learning_rate * schedule(step, steps, stage.warmup)
            with accelerator.accumulate(model):
                with int4_weights(self.prepared.model, stage.int4_aware):
                    loss, right = self._loss(model, batch.to(accelerator.device))
                    accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), self.recipe.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            shares += torch.stack([loss.detach(), right]).float() / accumulated
            if micro + 1 < accumulated:
                continue
            bar.update()
            if step % self.recipe.log_every == 0:
                mean_loss, mean_right = accelerator.reduce(shares, "mean").tolist()
                bar.set_postfix(loss=f"{mean_loss:.3f}", right=f"{mean_right:.3f}", refresh=False)
                self._log(stage=stage.name, step=step, loss=mean_loss, right=mean_right)
            shares = torch.zeros_like(shares)
            if self._together(deadline.has_passed or time.monotonic() - saved > save_every):
                self._save(number, step + 1)
                saved = time.monotonic()
                if self._together(deadline.has_passed):
                    bar.close()
                    raise TimeIsUp(f"time is up at step {step + 1} of {steps} in stage {stage.name}")
        bar.close()
        if stage.int4_aware:
            settle_on_int4(self.prepared.model)
        if number + 1 == len(self.recipe.stages):
            self._save_checkpoint(model)
        self._save(number + 1, 0)
        accelerator.free_memory()

    def _optimizer(self, stage: Stage) -> torch.optim.Optimizer:
        model = self.prepared.model
        parameters = list(freeze_all_but(model, stage.trains, stage.frozen_levels))
        if isinstance(model.model.vision_tower, BackboneTower):
            model.model.vision_tower.fixed_statistics = stage.fixed_statistics
        if self.recipe.lora is not None:
            freeze_below_adapters(group_parameters(model)["language_model"], model)
        self.objective.heads.requires_grad_(not stage.learns_words)
        parameters = [p for p in (*parameters, *self.objective.heads.parameters()) if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": stage.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=stage.learning_rate, betas=self.recipe.adam_betas)

    def _loss(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        result: tuple[torch.Tensor, torch.Tensor] = model(batch)
        return result

    def _progress(self) -> dict[str, Any]:
        """Return the start: {"stage", "step", "state"}; `state` names the folder of weights and optimizer, if any."""
        path = self.folder / PROGRESS
        return json.loads(path.read_text()) if path.is_file() else _START

    def _together(self, decision: bool) -> bool:
        """Return the decision of the main process, for all processes."""
        if self.accelerator.num_processes == 1:
            return decision
        decisions = [decision]
        broadcast_object_list(decisions)
        return decisions[0]

    def _save_checkpoint(self, model: nn.Module) -> None:
        """Write the trained model in the published layout, its weights gathered from wherever they are."""
        gathered = self.accelerator.get_state_dict(model)
        if self.accelerator.is_main_process:
            state = (
                merged_state(self.prepared.model)
                if self.recipe.lora is not None
                else {
                    name.removeprefix("osprey."): tensor
                    for name, tensor in gathered.items()
                    if name.startswith("osprey.")
                }
            )
            dtype = _DTYPES[self.recipe.save_dtype]
            prepared = self.prepared
            save_checkpoint(
                prepared.model, prepared.tokenizer, self.folder / "checkpoint", dtype, state, prepared.kinds
            )

    def _save(self, stage: int, step: int) -> None:
        """Write the state beside the last one, then replace `progress.json`, which names the valid one, atomically."""
        before = self._progress()["state"]
        state = "state-b" if before == "state-a" else "state-a"
        if self.accelerator.is_main_process:
            shutil.rmtree(self.folder / state, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            self.accelerator.save_state(str(self.folder / state))
        except (RuntimeError, SafetensorError) as error:  # how torch and safetensors report a full disk
            if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
                raise
            raise StorageError(
                f"{self.folder / state} cannot be written; free some space, and give the same command again"
            ) from error
        if self.accelerator.is_main_process:
            write_file(self.folder / PROGRESS, to_json({"stage": stage, "step": step, "state": state}) + "\n")
        self.accelerator.wait_for_everyone()

    def _log(self, stage: str, step: int, loss: float, right: float) -> None:
        """Log a step. Raises InputError for a loss that is not finite; ``right`` is NaN where nothing was asked."""
        if not math.isfinite(loss):
            raise InputError(
                f"stage {stage}, step {step}: the loss is {loss}, the weights have diverged; lower the learning rate "
                f"in the recipe and train into another --output (what was saved before is in {self.folder})"
            )
        self.accelerator.log({f"{stage}/loss": loss, f"{stage}/right": right}, step=step)
        if self.accelerator.is_main_process:
            with (self.folder / "log.jsonl").open("a") as log:
                log.write(
                    to_json({"stage": stage, "step": step, "loss": loss, "right": None if math.isnan(right) else right})
                    + "\n"
                )


def schedule(step: int, steps: int, warmup: float) -> float:
    """Return the share of the peak learning rate: linear warm-up, then half a cosine down to zero."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
