"""What is wrong, in the log: at once where it is new, and then not more than every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.impl.rcutils_logger import RcutilsLogger

REPEAT = 5.0  # seconds before a complaint of the same kind is logged again
_MOST_KINDS = 100  # remembered; far more than there are


class Complaints:
    """Logs complaints, each kind on its own: texts of one kind differ in numbers that change with every frame."""

    def __init__(self, log: RcutilsLogger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._logged: dict[str, tuple[float, int]] = {}  # when, and how many of the kind were not logged since

    def say(self, kind: str, message: str, serious: bool = True) -> None:
        """Logs an error, or a warning, unless one of its kind was logged a short while ago."""
        now = self._clock()
        when, more = self._logged.pop(kind, (float("-inf"), 0))
        if now - when < REPEAT:
            self._logged[kind] = (when, more + 1)
            return
        self._logged[kind] = (now, 0)
        if len(self._logged) > _MOST_KINDS:
            self._logged.pop(next(iter(self._logged)))  # the one that was complained of longest ago
        text = f"{message} (and {more} more of this kind since the last one was logged)" if more else message
        # rclpy wants each line of a program to keep to one severity.
        if serious:
            self._log.error(text)
        else:
            self._log.warning(text)
