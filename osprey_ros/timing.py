"""Where the time of one call of the describer went, stage by stage, so that nothing hides outside."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter


@dataclass
class Meter:
    """Adds up what decoding costs: seconds inside engines, and wall seconds of each decode step."""

    engine_seconds: float = 0.0
    step_seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Timing:
    """Where the time of one call went, in seconds of wall time, and how much was computed.

    ``preprocess`` and ``vision`` are spent in `Describer.set_image` and counted in the first call that follows it;
    later calls on the same picture have 0 there. So it is with the part of ``regions`` that was spent in
    `Describer.encode`. ``prefix`` is (nearly) 0 where the keys and values of an earlier call could be used again.
    ``total`` is the whole call: the sum of these five stages. A GPU encodes the picture while regions are prepared:
    ``vision`` and its part of ``engine`` then are what was waited for.
    """

    preprocess: float
    vision: float
    regions: float  # masks at four scales, position grids and the mask-extractor engine
    prefix: float
    branches: float  # the words about each region: all decode steps, and making text of tokens
    total: float
    engine: float  # the part of the total that was spent inside engines
    step_seconds: tuple[float, ...]  # each run of the decoder engine over the branches; the first one reads questions
    steps: int  # how many these are
    prefix_tokens: int  # rows of the shared prefix, picture included
    branch_tokens: int  # prompt rows of all branches
    new_tokens: int  # tokens decoded, or scored


@dataclass(frozen=True)
class PictureSeconds:
    """What `Describer.set_image` took, and `Describer.encode` after it."""

    preprocess: float = 0.0
    vision: float = 0.0
    regions: float = 0.0
    engine: float = 0.0

    def timing(self) -> Timing:
        """As the timing of a call that did nothing else."""
        total = self.preprocess + self.vision + self.regions
        return Timing(self.preprocess, self.vision, self.regions, 0.0, 0.0, total, self.engine, (), 0, 0, 0, 0)


class Clock:
    """Collects a `Timing` while a call goes on, from its construction on."""

    def __init__(self) -> None:
        self.meter = Meter()
        self._last = perf_counter()
        self._stages: list[float] = []

    def stage_done(self) -> float:
        """Ends a stage, and says what it took; they are regions, prefix and branches."""
        now = perf_counter()
        self._stages.append(now - self._last)
        self._last = now
        return self._stages[-1]

    def leave_out(self, seconds: float) -> None:
        """So much of the time since the last stage was done belongs to none of the three."""
        self._last += seconds

    def timing(self, picture: PictureSeconds, prefix_tokens: int, branch_tokens: int, new_tokens: int) -> Timing:
        """All of it, once the three stages are done."""
        own, prefix, branches = self._stages
        regions = picture.regions + own
        return Timing(
            preprocess=picture.preprocess,
            vision=picture.vision,
            regions=regions,
            prefix=prefix,
            branches=branches,
            total=picture.preprocess + picture.vision + regions + prefix + branches,
            engine=picture.engine + self.meter.engine_seconds,
            step_seconds=tuple(self.meter.step_seconds),
            steps=len(self.meter.step_seconds),
            prefix_tokens=prefix_tokens,
            branch_tokens=branch_tokens,
            new_tokens=new_tokens,
        )
