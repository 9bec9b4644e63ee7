"""One call under way: what is measured in it, and what ends it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter

from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.timing import STAGES, Timing


@dataclass
class Call:
    """A call of the describer, passed to all that work for it. Plain data.

    The code that begins or continues a stage appends to ``marks``. Time counts for the stage that was entered last.

    Attributes:
        cancel: Ends the call; None if nothing does.
        marks: Each stage that was entered, one of STAGES, with the time (`time.perf_counter`).
        engine_seconds: Seconds in engines so far, added by those who run them.
        step_seconds: Seconds of each decode step so far.
    """

    cancel: CancellationToken | None = None
    marks: list[tuple[str, float]] = field(default_factory=list)
    engine_seconds: float = 0.0
    step_seconds: list[float] = field(default_factory=list)

    def timing(self, prefix_tokens: int = 0, branch_tokens: int = 0, new_tokens: int = 0) -> Timing:
        """Return the timing up to now."""
        seconds = dict.fromkeys(STAGES, 0.0)
        for (stage, start), (_, end) in pairwise([*self.marks, ("", perf_counter())]):
            seconds[stage] += end - start
        return Timing(
            **seconds,
            total=sum(seconds.values()),
            engine=self.engine_seconds,
            step_seconds=tuple(self.step_seconds),
            steps=len(self.step_seconds),
            prefix_tokens=prefix_tokens,
            branch_tokens=branch_tokens,
            new_tokens=new_tokens,
        )
