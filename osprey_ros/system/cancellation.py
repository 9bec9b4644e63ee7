"""Cancellation of a call that is under way, from its own thread or another one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from osprey_ros.errors import StoppedError


class CancellationToken:
    """Tell the calls that were given this token to end.

    A token is used once: there is no way back from `cancel`. All methods may be called from any thread and from
    signal handlers.

    Args:
        deadline: Time by ``clock`` from which the token counts as canceled. Work that looks at `canceled` between its
            steps ends then; callbacks are called by `cancel` only.
        clock: Returns seconds, like `time.monotonic`.
        parent: This token is also canceled when its parent is.
    """

    def __init__(
        self,
        deadline: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        parent: CancellationToken | None = None,
    ) -> None:
        self._deadline, self._clock, self._parent = deadline, clock, parent
        self._canceled = False
        self._lock = threading.RLock()  # a signal handler may cancel in the middle of a method
        self._callbacks: dict[object, Callable[[], object]] = {}

    @property
    def canceled(self) -> bool:
        """Whether the work should end."""
        if self._canceled or (self._parent is not None and self._parent.canceled):
            return True
        return self._deadline is not None and self._clock() >= self._deadline

    def cancel(self) -> None:
        """Cancel, and call the callbacks in this thread."""
        with self._lock:
            self._canceled = True
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
        for callback in callbacks:
            callback()

    def add_callback(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call ``callback`` on `cancel`, or now if that has happened. Return a function that removes it again.

        It is called again if this token is canceled after its parent.
        """
        key = object()
        with self._lock:
            self._callbacks[key] = callback
        if self._canceled:
            with self._lock:
                missed = self._callbacks.pop(key, None)
            if missed is not None:
                missed()
            return _nothing
        remove_from_parent = self._parent.add_callback(callback) if self._parent is not None else _nothing

        def remove() -> None:
            remove_from_parent()
            with self._lock:
                self._callbacks.pop(key, None)

        return remove

    def check(self, what: str) -> None:
        """Raise StoppedError, which says that ``what`` was canceled, if the token is canceled."""
        if self.canceled:
            raise StoppedError(f"{what} was canceled")


class PolledToken(CancellationToken):
    """A token that also counts as canceled when a function returns True. It is asked between steps of the work."""

    def __init__(self, poll: Callable[[], bool]) -> None:
        super().__init__()
        self._poll = poll

    @property
    def canceled(self) -> bool:
        """Whether the work should end."""
        return super().canceled or self._poll()


def _nothing() -> None:
    pass
