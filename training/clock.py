"""When a run has to stop: work that is cut into slices of so many minutes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


class TimeIsUp(RuntimeError):
    """The slice is over; what was done is on disk, and the same command goes on from there."""


@dataclass(frozen=True)
class Clock:
    """Runs from when it is made; `seconds` None never ends."""

    seconds: float | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def is_up(self) -> bool:
        return self.seconds is not None and time.monotonic() - self.started >= self.seconds

    def check(self, where: str) -> None:
        """Raises TimeIsUp when it is."""
        if self.is_up:
            raise TimeIsUp(f"time is up {where}")
