"""Work on numbered items in chunks that are kept on disk, in several processes, so that a stop loses little."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence

Chunk = tuple[int, int]  # the first number, and the one behind the last


def missing_chunks(
    count: int, size: int, is_done: Callable[[int, int], bool], progress: Callable[[int], None]
) -> list[Chunk]:
    """Return the chunks of 0 .. count-1 that are not done; `progress` is called with the length of each that is."""
    missing = []
    for start in range(0, count, size):
        stop = min(start + size, count)
        if is_done(start, stop):
            progress(stop - start)
        else:
            missing.append((start, stop))
    return missing


def run_in_processes(
    work: Callable[[Chunk], int],
    chunks: Sequence[Chunk],
    workers: int,
    progress: Callable[[int], None],
    start: Callable[[], None] | None = None,
) -> None:
    """Call `work` for each chunk.

    Args:
        work: Returns the number of items that became ready. It is pickled, as is `start`.
        chunks: What to do.
        workers: Number of processes.
        progress: Called with each number; what it raises ends the work.
        start: Called once in each process before its work.
    """
    if not chunks:
        return
    # "spawn": a GL context must not be carried over a fork.
    with multiprocessing.get_context("spawn").Pool(workers, _start, (start,)) as pool:
        for done in pool.imap_unordered(work, chunks):
            progress(done)


def _start(start: Callable[[], None] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all: the parent ends the others
    if start is not None:
        start()
