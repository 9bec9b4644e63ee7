"""Settings of one call that generates answers. Plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

from osprey_ros.errors import InputError

CROPS = ("none", "small", "all")  # which regions are read a second time, in a crop of their own


@dataclass(frozen=True)
class Sampling:
    """Draw tokens at random instead of taking the most likely one.

    The same seed draws the same answer about a region, whatever else is decoded in the same call.

    Attributes:
        temperature: The logits are divided by it. Below 1, likely tokens become likelier.
        top_p: Draw only from the most likely tokens that together reach this probability.
        seed: Seed of the random numbers, at least 0.

    Raises InputError for values out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(
                f"temperature is {self.temperature}: it must be above 0 (for greedy decoding, omit sampling)"
            )
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}: it must be above 0 and at most 1")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}: it must not be negative")


@dataclass(frozen=True)
class GenerationConfig:
    """How answers are generated.

    Attributes:
        max_new_tokens: Longest answer in tokens, at least 1. None: a length that suits each question.
        sampling: How tokens are drawn. None: the most likely token is taken.
        back_off: Whether the category is the most specific name that is probable enough, if the bundle has a tree of
            kinds: "mug", else "cup", else "container", else "object". Such an answer is never sampled.
        kind_threshold: Least calibrated probability of such a name, 0 to 1. None: that of the tree.
        crops: Which regions the model reads a second time, in a crop of their own: "none", "small" (regions that are
            much larger in their crop than in the whole image) or "all". Regions that were encoded with crops keep them.

    Raises InputError for values out of range.
    """

    max_new_tokens: int | None = None
    sampling: Sampling | None = None
    back_off: bool = True
    kind_threshold: float | None = None
    crops: str = "none"

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None and (
            not isinstance(self.max_new_tokens, Integral) or self.max_new_tokens < 1
        ):
            raise InputError(f"max_new_tokens is {self.max_new_tokens!r}: it must be a whole number, at least 1")
        if not isinstance(self.sampling, Sampling | None):
            raise InputError(f"sampling is {self.sampling!r}: it must be a Sampling or None")
        if self.kind_threshold is not None and not 0 <= self.kind_threshold <= 1:
            raise InputError(f"kind_threshold is {self.kind_threshold}: it must be from 0 to 1")
        if self.crops not in CROPS:
            raise InputError(f"crops is {self.crops!r}: choose one of {', '.join(CROPS)}")
