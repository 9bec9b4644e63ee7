"""Where the time of one call went. Plain data, and the timer that collects it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from time import perf_counter

STAGES = ("preprocess", "vision", "regions", "prefix", "branches")


@dataclass(frozen=True)
class Timing:
    """Where the time of one call went. Each call has its own, `Describer.set_image` included; timings can be added.

    Attributes:
        preprocess: Seconds in which an image was resized and normalized.
        vision: Seconds in which an image was encoded, or waited for: a GPU encodes it after `Describer.set_image`.
        regions: Seconds for masks at four scales, position grids and the mask-extractor engine.
        prefix: Seconds for the shared prefix; nearly 0 if keys and values of an earlier call could be used.
        branches: Seconds for all decode steps, and for making text of tokens.
        total: Seconds of the whole call, the sum of the five stages.
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


class StageTimer:
    """Measures one call. Time counts for the stage that was entered last, one of STAGES.

    Attributes:
        engine_seconds: Seconds in engines so far, added by those who run them.
        step_seconds: Seconds of each decode step so far.
    """

    def __init__(self, stage: str = "branches") -> None:
        self.engine_seconds = 0.0
        self.step_seconds: list[float] = []
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._stage, self._since = stage, perf_counter()

    def enter(self, stage: str) -> None:
        """Begin a stage, or continue it."""
        now = perf_counter()
        self._seconds[self._stage] += now - self._since
        self._stage, self._since = stage, now

    def timing(self, prefix_tokens: int = 0, branch_tokens: int = 0, new_tokens: int = 0) -> Timing:
        """Return the timing up to now."""
        self.enter(self._stage)
        return Timing(
            **self._seconds,
            total=sum(self._seconds.values()),
            engine=self.engine_seconds,
            step_seconds=tuple(self.step_seconds),
            steps=len(self.step_seconds),
            prefix_tokens=prefix_tokens,
            branch_tokens=branch_tokens,
            new_tokens=new_tokens,
        )
