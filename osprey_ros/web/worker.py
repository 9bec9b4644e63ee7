"""One thread for calls that take long: they wait in a bounded queue, end after a time, and can be canceled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from osprey_ros.errors import OspreyError, StoppedError
from osprey_ros.system.cancellation import CancellationToken

T = TypeVar("T")


class BusyError(OspreyError):
    """Too many calls wait already."""


class Worker:
    """Runs calls one after another in a thread of its own, for coroutines of one event loop.

    Args:
        name: Name of the thread.
        most: The most calls that wait or run.
        seconds: Longest time of a call, waiting included.
    """

    def __init__(self, name: str, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._room = threading.Semaphore(most)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._tokens: set[CancellationToken] = set()

    async def run(self, work: Callable[[CancellationToken], T]) -> T:
        """Return what ``work`` returns. It gets a token, which is canceled when the time is over or the caller is.

        A call that still runs after its cancellation counts against the limit until it ends. Raises BusyError if too
        many calls wait, StoppedError when the time is over or the worker is closed, and what ``work`` raises.
        """
        if not self._room.acquire(blocking=False):
            raise BusyError(f"{self._most} calls are waiting already; try again in a moment")
        token = CancellationToken()
        try:
            future = self._executor.submit(work, token)
        except RuntimeError as error:
            self._room.release()
            raise StoppedError("the server is ending") from error
        future.add_done_callback(lambda _: self._room.release())
        self._tokens.add(token)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._seconds)
        except asyncio.TimeoutError as error:
            raise StoppedError(f"there was no answer within {self._seconds:g} s; ask about fewer regions") from error
        finally:
            self._tokens.discard(token)
            token.cancel()

    def cancel(self) -> None:
        """Cancel all calls."""
        for token in list(self._tokens):
            token.cancel()

    def close(self) -> None:
        """Cancel all calls, and return when the one under way has ended."""
        self.cancel()
        self._executor.shutdown(cancel_futures=True)
