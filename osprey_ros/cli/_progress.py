"""Progress of long commands on standard error: a bar on a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

_REDRAW, _LINE_EVERY = 0.2, 10.0  # seconds


def progress_bar(description: str, unit: str, total: int, stream: TextIO | None = None, **options: Any) -> tqdm[Any]:
    """Return a bar. Use it in a ``with`` statement, and call its ``update`` with the number of new items.

    Args:
        description: What is being done, such as "describing".
        unit: What is counted, such as " frames" or "B".
        total: Number of items, 0 if it is unknown.
        stream: Standard error by default.
        options: Further options of tqdm.
    """
    stream = stream or sys.stderr
    terminal = stream.isatty()
    return tqdm(
        desc=description,
        unit=unit,
        total=total or None,
        file=stream if terminal else _Lines(stream),
        mininterval=_REDRAW if terminal else _LINE_EVERY,
        miniters=1,
        leave=False,
        **options,
    )


class _Lines:
    """A stream that writes the redrawn bar of tqdm as lines of a log, and nothing for quick commands."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._start = stream, time.monotonic()

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text and time.monotonic() - self._start >= _LINE_EVERY:
            self._stream.write(f"osprey: {text}\n")

    def flush(self) -> None:
        self._stream.flush()
