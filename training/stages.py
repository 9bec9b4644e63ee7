"""The stages of training: which parameters learn, from what, for how long."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from osprey_torch.config import STRIDES
from osprey_torch.model import Osprey
from training.data import Selection

GROUPS = ("vision", "projector", "mask_extractor", "language_model")


@dataclass(frozen=True)
class Stage:
    """One stage. Stages 1 to 3 are the paper's; stage 0 gives a tower without published weights a start."""

    name: str
    trains: tuple[str, ...]  # names in GROUPS; everything else is frozen
    selection: Selection
    batch_size: int  # images a step, over all processes and accumulated steps
    learning_rate: float
    steps: int | None = None  # either these
    epochs: float | None = None  # or passes over the data
    warmup: float = 0.03  # share of the steps
    weight_decay: float = 0.0
    frozen_levels: int = 0  # feature levels of the vision tower, from the lowest, whose layers do not learn: 0 to 4
    fixed_statistics: bool = False  # batch norms of the vision tower keep the statistics that they have
    int4_aware: bool = False  # the language model's weights pass through int4 rounding, as its engine's will

    def __post_init__(self) -> None:
        unknown = set(self.trains) - set(GROUPS)
        if unknown or not self.trains:
            raise ValueError(f"stage {self.name}: trains {self.trains}: expected names out of {GROUPS}")
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"stage {self.name}: give either steps or epochs")
        if not 0 <= self.frozen_levels <= len(STRIDES):
            raise ValueError(
                f"stage {self.name}: frozen_levels is {self.frozen_levels}: it must be 0 to {len(STRIDES)}"
            )
        for name in ("batch_size", "learning_rate", "steps", "epochs"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"stage {self.name}: {name} is {value}: it must be above 0")

    @property
    def learns_words(self) -> bool:
        """Whether the stage learns answers (else labels of regions)."""
        return self.selection.questions > 0

    def total_steps(self, images: int) -> int:
        """Return the number of steps for a number of images."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * images / self.batch_size))


def group_parameters(model: Osprey) -> dict[str, list[nn.Parameter]]:
    """Return every parameter of the model, by group; each belongs to exactly one."""
    vision = list(model.model.vision_tower.parameters())
    projector = list(model.model.mm_projector.parameters())
    extractor = list(model.mask_extractor.parameters())
    named = {id(p) for p in (*vision, *projector, *extractor)}
    language = [p for p in model.parameters() if id(p) not in named]
    return dict(zip(GROUPS, (vision, projector, extractor, language), strict=True))


def freeze_all_but(model: Osprey, trains: tuple[str, ...], frozen_levels: int = 0) -> Iterator[nn.Parameter]:
    """Set requires_grad by group; yields the parameters that learn.

    frozen_levels: of the vision tower, see `Stage`.
    """
    low = {id(p) for level in level_parameters(model)[:frozen_levels] for p in level} if frozen_levels else set()
    for group, parameters in group_parameters(model).items():
        for parameter in parameters:
            learns = group in trains and id(parameter) not in low
            parameter.requires_grad_(learns)
            if learns:
                yield parameter


def level_parameters(model: Osprey) -> list[list[nn.Parameter]]:
    """Return the parameters of the vision tower by the lowest feature level that they change."""
    tower = model.model.vision_tower
    # A copy without data shows which gradients each level has.
    shadow = copy.deepcopy(tower).to("meta").eval().requires_grad_(True)
    size = STRIDES[-1]
    maps = shadow(torch.empty(1, 3, size, size, device="meta"))
    levels: list[list[nn.Parameter]] = [[] for _ in maps]
    seen: set[str] = set()
    names, shadows = zip(*shadow.named_parameters(), strict=True)
    own = dict(tower.named_parameters())
    for found, level in zip(maps, levels, strict=True):
        gradients = torch.autograd.grad(found, shadows, torch.ones_like(found), retain_graph=True, allow_unused=True)
        changed = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
        level.extend(own[name] for name in names if name in changed - seen)
        seen |= changed
    return levels
