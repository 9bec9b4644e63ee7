"""The end of a time slice, for runs that are split into slices of some minutes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


class TimeIsUp(RuntimeError):
    """The time slice is over; the state is saved, and the same command continues from there."""


@dataclass(frozen=True)
class Deadline:
    """A number of `seconds` after `started` (time.monotonic, by default now); None never passes."""

    seconds: float | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def has_passed(self) -> bool:
        return self.seconds is not None and time.monotonic() - self.started >= self.seconds

    def check(self, where: str) -> None:
        """Raise TimeIsUp if the deadline has passed."""
        if self.has_passed:
            raise TimeIsUp(f"time is up {where}")
