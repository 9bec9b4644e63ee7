"""Result of one step of `osprey_ros.pipeline.Pipeline`: plain data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce

from osprey_ros.regions.regions import Regions
from osprey_ros.results import EncodedRegions
from osprey_ros.scene.types import SceneObject, State
from osprey_ros.timing import Timing


@dataclass(frozen=True)
class StepResult:
    """The objects of a frame in the order of their regions; those of an id image by ascending id.

    Attributes:
        objects: One for each region.
        regions, encoded: The regions and their tokens; None without a region.
        timings: Of all calls of the describer.
        empty_reason: Why there is no object, "" if there is one.
        described: Number of objects with a caption of this frame.
        reused: Number of objects with a caption of an earlier frame that still holds.
    """

    objects: tuple[SceneObject, ...]
    regions: Regions | None = None
    encoded: EncodedRegions | None = None
    timings: tuple[Timing, ...] = ()
    empty_reason: str = ""
    described: int = 0
    reused: int = 0

    @cached_property
    def timing(self) -> Timing | None:
        """Sum over all calls of the describer, None without a region."""
        return reduce(Timing.__add__, self.timings) if self.timings else None

    @property
    def skipped(self) -> int:
        """Number of objects that need a caption and did not get one in this frame."""
        return sum(obj.state is State.SKIPPED for obj in self.objects)
