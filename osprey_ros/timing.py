"""Where the time of one call went. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, fields

STAGES = ("preprocess", "vision", "regions", "crops", "prefix", "branches")


@dataclass(frozen=True)
class Timing:
    """Where the time of one call went. Each call has its own, `Describer.set_image` included; timings can be added.

    Attributes:
        preprocess: Seconds in which an image was resized and normalized.
        vision: Seconds in which an image was encoded, or waited for: a GPU encodes it after `Describer.set_image`.
        regions: Seconds for masks at four scales, position grids and the mask-extractor engine.
        crops: Seconds for cutting the crops of regions and for the crop engine.
        prefix: Seconds for the shared prefix; nearly 0 if keys and values of an earlier call could be used.
        branches: Seconds for all decode steps, and for making text of tokens.
        total: Seconds of the whole call, the sum of the six stages.
        engine: Seconds of the total that were spent in engines.
        step_seconds: Seconds of each run of the decoder over the branches; the first one reads the questions.
        steps: Number of these runs.
        prefix_tokens: Rows of the shared prefix, the image included.
        branch_tokens: Rows of all questions.
        new_tokens: Tokens that were decoded or scored.
    """

    preprocess: float = 0.0
    vision: float = 0.0
    regions: float = 0.0
    crops: float = 0.0
    prefix: float = 0.0
    branches: float = 0.0
    total: float = 0.0
    engine: float = 0.0
    step_seconds: tuple[float, ...] = ()
    steps: int = 0
    prefix_tokens: int = 0
    branch_tokens: int = 0
    new_tokens: int = 0

    def __add__(self, other: Timing) -> Timing:
        """Return the timing of both calls together. Calls on one image share their prefix: the longer one counts."""
        both = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        return Timing(**{**both, "prefix_tokens": max(self.prefix_tokens, other.prefix_tokens)})
