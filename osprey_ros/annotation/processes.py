"""Distribute items over processes. A process that dies costs the item that killed it, and no other one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from pathlib import Path

from osprey_ros.annotation.items import Item
from osprey_ros.annotation.worker import Outcome, Settings, Worker

_AHEAD = 2  # items that a process has or that wait for it
_POLL = 0.2  # seconds between two looks at a stop
_DIED = "its process died twice (out of memory or a crash)"
Done = tuple[Item, Outcome]


def describe_items(
    items: Iterable[Item], settings: Settings, output: Path, workers: int, stopped: Callable[[], bool]
) -> Iterator[Done]:
    """Yield each item with its outcome, in the order in which they are finished; the rest is missing after a stop.

    Args:
        items: Each is yielded once.
        settings: As for `Worker`.
        output: As for `Worker`.
        workers: Number of processes; with 1 the items are described in this process.
        stopped: Returns whether to end.

    Raises:
        OspreyError: The bundle or a setting cannot be used.
    """
    if workers == 1:
        worker = Worker(settings, output, stopped)
        for item in items:
            outcome = None if stopped() else worker.outcome(item)
            if outcome is None:
                return
            yield item, outcome
        return
    left = deque(items)
    while left and not stopped():
        suspects = yield from _with_pool(left, settings, output, workers, stopped)
        for item in suspects:  # each alone, so that it is known which one ends its process
            if stopped():
                return
            for _ in (yield from _with_pool(deque([item]), settings, output, 1, stopped)):
                yield item, Outcome(None, _DIED)


def _with_pool(
    left: deque[Item], settings: Settings, output: Path, workers: int, stopped: Callable[[], bool]
) -> Generator[Done, None, list[Item]]:
    """Describe items with a pool until none is left, a process dies or the run is stopped.

    Returns:
        The items under way when a process died.
    """
    context = multiprocessing.get_context("spawn")  # engines have threads, which a fork would not have
    event = context.Event()
    pool = ProcessPoolExecutor(workers, context, _begin, (settings, output, event))
    running: dict[Future[Outcome | None], Item] = {}
    lost: list[Item] = []
    try:
        while (left or running) and not lost:
            if stopped():
                event.set()
                left.clear()
            while left and len(running) < workers * _AHEAD:
                try:
                    future = pool.submit(_work, left[0])
                except BrokenProcessPool:
                    break
                running[future] = left.popleft()
            if not running:
                break
            finished, _ = wait(running, _POLL, FIRST_COMPLETED)
            broken = any(isinstance(future.exception(), BrokenProcessPool) for future in finished)
            for future in wait(running).done if broken else finished:
                item = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    lost.append(item)
                elif (outcome := future.result()) is not None:
                    yield item, outcome
    finally:
        event.set()
        pool.shutdown(cancel_futures=True)
    return lost


_worker: Worker | None = None
_setup: tuple[Settings, Path, Event] | None = None


def _begin(settings: Settings, output: Path, event: Event) -> None:
    """Prepare a process: the parent handles Ctrl-C, and the process ends with its parent."""
    global _setup
    _setup = settings, output, event
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(item: Item) -> Outcome | None:
    """Describe an item. The first one loads the engines; an error in that ends the run."""
    global _worker
    assert _setup is not None
    settings, output, event = _setup
    if event.is_set():
        return None
    if _worker is None:
        _worker = Worker(settings, output, event.is_set)
    return _worker.outcome(item)
