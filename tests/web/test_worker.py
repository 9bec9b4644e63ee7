"""The worker of the page: one call at a time, bounded, ended by time-outs, by callers that leave, and by the end."""

from __future__ import annotations

import asyncio
import threading

import pytest

pytest.importorskip("aiohttp", reason="aiohttp is not installed: pip install -r requirements/web.txt")

from osprey_ros.errors import StoppedError
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.web.worker import BusyError, Worker


class Call:
    """A call that runs until its token is canceled or `end` is set."""

    def __init__(self) -> None:
        self.started, self.canceled, self.end = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, cancel: CancellationToken) -> str:
        self.started.set()
        cancel.add_callback(self.canceled.set)
        cancel.add_callback(self.end.set)
        assert self.end.wait(30)
        cancel.check("the call")
        return "done"


async def _started(call: Call) -> None:
    assert await asyncio.to_thread(call.started.wait, 30)


def test_calls_wait_and_are_bounded() -> None:
    async def run() -> None:
        worker, first, second = Worker("test", 2, 60), Call(), Call()
        tasks = [asyncio.create_task(worker.run(call)) for call in (first, second)]
        await _started(first)
        assert not second.started.is_set()
        with pytest.raises(BusyError, match="2 calls are waiting already"):
            await worker.run(Call())
        first.end.set()
        assert await tasks[0] == "done"
        second.end.set()
        assert await tasks[1] == "done"
        assert await worker.run(lambda cancel: 3) == 3
        worker.close()

    asyncio.run(run())


def test_a_caller_that_leaves_cancels_its_call_only() -> None:
    async def run() -> None:
        worker, first, second, third = Worker("test", 3, 60), Call(), Call(), Call()
        tasks = [asyncio.create_task(worker.run(call)) for call in (first, second, third)]
        await _started(first)
        tasks[1].cancel()
        tasks[0].cancel()
        for task in tasks[:2]:
            with pytest.raises(asyncio.CancelledError):
                await task
        await _started(third)
        assert first.canceled.is_set()
        assert not second.started.is_set()
        third.end.set()
        assert await tasks[2] == "done"
        assert await asyncio.gather(*[worker.run(lambda cancel: 1) for _ in range(3)]) == [1, 1, 1]  # all is free
        worker.close()

    asyncio.run(run())


def test_time_is_bounded_and_errors_pass() -> None:
    async def run() -> None:
        worker, call = Worker("test", 1, 0.2), Call()
        with pytest.raises(StoppedError, match=r"no answer within 0\.2 s"):
            await worker.run(call)
        assert await asyncio.to_thread(call.canceled.wait, 30)
        worker.close()
        with pytest.raises(StoppedError, match="the server is ending"):
            await worker.run(Call())

        failing = Worker("test", 1, 60)
        for _ in range(2):  # the place is free again
            with pytest.raises(ZeroDivisionError):
                await failing.run(lambda cancel: 1 // 0)
        failing.close()

    asyncio.run(run())


def test_closing_ends_what_runs_and_what_waits() -> None:
    async def run() -> None:
        worker, first, second = Worker("test", 2, 60), Call(), Call()
        tasks = [asyncio.create_task(worker.run(call)) for call in (first, second)]
        await _started(first)
        await asyncio.to_thread(worker.close)
        with pytest.raises(StoppedError, match="the call was canceled"):
            await tasks[0]
        assert not second.started.is_set()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]

    asyncio.run(run())
