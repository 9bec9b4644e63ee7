"""Signals that ask a command to end: Ctrl-C, `docker stop` and systemd, and a terminal that was closed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_REPEAT = 1.0  # seconds; `timeout` and shells signal a process and then its group, so that a signal arrives twice


class StopRequest:
    """Whether a signal asked the command to end.

    Attributes:
        number: The first signal, 0 if none has arrived.
    """

    number = 0

    def is_set(self) -> bool:
        """Return whether a signal has arrived."""
        return self.number != 0

    @property
    def status(self) -> int:
        """Exit status of a shell for a program that was ended by this signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Raise ``KeyboardInterrupt(number)`` for each signal that asks the command to end."""
    with _handled(lambda number: True):
        yield


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Note the first signal, so that the output can be completed. A second one raises KeyboardInterrupt."""
    request = StopRequest()

    def act(number: int) -> bool:
        if request.number:
            return True
        request.number = number
        return False

    with _handled(act):
        yield request


@contextmanager
def _handled(interrupts: Callable[[int], bool]) -> Iterator[None]:
    """Handle the signals: those for which ``interrupts`` returns True raise KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can have handlers
        yield
        return
    process, last = os.getpid(), -_REPEAT

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if os.getpid() != process:  # a forked worker ends as it would without this handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        now = time.monotonic()
        repeated, last = now - last < _REPEAT, now
        if not repeated and interrupts(number):
            raise KeyboardInterrupt(number)

    # An ignored signal stays ignored: `nohup` ignores SIGHUP, and shells let jobs in the background ignore SIGINT.
    before = {number: signal.getsignal(number) for number in _ENDING}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
