"""The stages of training: which parameters learn, from what, for how long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from osprey_torch.model import Osprey
from training.data import Selection

GROUPS = ("vision", "projector", "mask_extractor", "language_model")


@dataclass(frozen=True)
class Stage:
    """One stage. Stages 1 to 3 are the paper's; stage 0 gives a tower without published weights a start."""

    name: str
    trains: tuple[str, ...]  # names in GROUPS; everything else is frozen
    selection: Selection
    steps: int
    batch_size: int
    learning_rate: float
    warmup: float = 0.03  # share of the steps
    int4_aware: bool = False  # the language model's weights pass through int4 rounding, as its engine's will

    def __post_init__(self) -> None:
        unknown = set(self.trains) - set(GROUPS)
        if unknown or not self.trains:
            raise ValueError(f"stage {self.name}: trains {self.trains}: expected names out of {GROUPS}")

    @property
    def learns_words(self) -> bool:
        """Whether the stage learns answers (else labels of regions)."""
        return self.selection.questions > 0


def group_parameters(model: Osprey) -> dict[str, list[nn.Parameter]]:
    """Every parameter of the model, by group; each belongs to exactly one."""
    vision = list(model.model.vision_tower.parameters())
    projector = list(model.model.mm_projector.parameters())
    extractor = list(model.mask_extractor.parameters())
    named = {id(p) for p in (*vision, *projector, *extractor)}
    language = [p for p in model.parameters() if id(p) not in named]
    return dict(zip(GROUPS, (vision, projector, extractor, language), strict=True))


def freeze_all_but(model: Osprey, trains: tuple[str, ...]) -> Iterator[nn.Parameter]:
    """Set requires_grad by group; yields the parameters that learn."""
    for group, parameters in group_parameters(model).items():
        for parameter in parameters:
            parameter.requires_grad_(group in trains)
        if group in trains:
            yield from parameters


# The language model starts from random weights here, so it learns in every stage that has words. The tower returns to
# its labels once there is a language model: a step of stage 0 sees four times the pictures of a step with words.
NANO = (
    Stage("0-regions", ("vision", "mask_extractor"), Selection(16, flip=True), 3000, 16, 2e-3),
    Stage("1-alignment", ("projector", "language_model"), Selection(5, questions=3), 900, 8, 1.5e-3),
    Stage("2-masks", ("mask_extractor", "language_model"), Selection(8, questions=2), 150, 8, 6e-4),
    Stage("0-regions again", ("vision", "mask_extractor"), Selection(16, min_area=60, flip=True), 1700, 16, 1.5e-3),
    Stage(
        "3-instructions",
        ("projector", "mask_extractor", "language_model"),
        Selection(8, questions=2),
        900,
        8,
        1.2e-3,
        int4_aware=True,
    ),
)
