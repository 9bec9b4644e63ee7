"""Protection of an object that one thread at a time may use."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

from osprey_ros.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


class ExclusiveUse:
    """Refuse a call while another one is under way, and every call after `close`.

    A second call does not wait: it could otherwise get answers about the image of another thread. Use an instance as a
    context manager around each call, or `exclusive` on each method.

    Args:
        name: What is protected, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._owner: threading.Thread | None = None
        self._closed = False

    def __enter__(self) -> None:
        """Begin a call. Raises InputError if another one is under way or the object is closed."""
        if not self._lock.acquire(blocking=False):
            owner = self._owner
            if owner is threading.current_thread():
                raise InputError(f"the {self._name} was called from within one of its own calls: wait for its return")
            where = f" in the thread {owner.name!r}" if owner is not None else ""
            raise InputError(
                f"the {self._name} is in use{where}: give each thread its own, or put a lock around all calls"
            )
        self._owner = threading.current_thread()
        if self._closed:
            self.__exit__()
            raise InputError(f"the {self._name} is closed: create a new one")

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self._owner = None
        self._lock.release()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Refuse all later calls. The call under way, if any, is that of the caller."""
        self._closed = True


def exclusive(method: Callable[P, R]) -> Callable[P, R]:
    """Let a method of an object use it exclusively. The object has an `ExclusiveUse` in its attribute ``_use``."""

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        use: ExclusiveUse = vars(args[0])["_use"]
        with use:
            return method(*args, **kwargs)

    return wrapper
