"""Log lines and failures of lifecycle transitions."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable
from typing import Protocol, TypeVar

from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from osprey_ros.errors import OspreyError

_TRANSITIONS = {  # by callback: the transition, and what the log says at its start and end
    "on_configure": ("configure", "Configuring", "Configured"),
    "on_activate": ("activate", "Activating", "Activated"),
    "on_deactivate": ("deactivate", "Deactivating", "Deactivated"),
    "on_cleanup": ("cleanup", "Cleaning up", "Cleaned up"),
    "on_shutdown": ("shutdown", "Shutting down", "Shut down"),
    "on_error": ("error handling", "Handling the error", "Handled the error"),
}


class Transitioning(Protocol):
    """A node whose transitions are logged."""

    def get_logger(self) -> RcutilsLogger:
        """Return the logger."""

    def note_transition(self, problem: str) -> None:
        """Note why a transition failed; "" if it succeeded."""


Self = TypeVar("Self", bound=Transitioning)
Transition = Callable[[Self, LifecycleState], TransitionCallbackReturn]


def logged(transition: Transition[Self]) -> Transition[Self]:
    """Log the duration of a transition, and report its failure in the log and in /diagnostics.

    rclpy discards exceptions of transitions. An OspreyError, whose message contains the remedy, makes the transition
    return FAILURE. Any other exception makes it return ERROR.
    """
    name, present, past = _TRANSITIONS[transition.__name__]

    @functools.wraps(transition)
    def wrapped(self: Self, state: LifecycleState) -> TransitionCallbackReturn:
        started = time.monotonic()
        log = self.get_logger()
        log.info(f"{present} ...")
        try:
            result = transition(self, state)
        except OspreyError as error:
            problem = f"{name} failed: {error}"
            log.error(problem)
            result = TransitionCallbackReturn.FAILURE
        except Exception:
            problem = f"{name} failed: internal error; see the node's log"
            log.error(f"{name} failed:\n{traceback.format_exc()}")
            result = TransitionCallbackReturn.ERROR
        else:
            if transition.__name__ != "on_error":  # the problem that led to on_error is not solved by it
                self.note_transition("")
            log.info(f"{past} in {time.monotonic() - started:.1f} s")
            return result
        self.note_transition(problem)  # here, where the exception does not keep engines alive any more
        return result

    return wrapped
