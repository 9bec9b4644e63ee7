"""Progress of long commands on standard error: a bar on a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

_REDRAW, _LINE_EVERY = 0.2, 10.0  # seconds
_USUAL_WIDTH = 79  # columns of a terminal that does not tell its width


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
    width = _width(stream) if terminal else 0
    return tqdm(
        desc=description,
        unit=unit,
        total=total or None,
        file=stream if terminal else _Lines(stream),
        mininterval=_REDRAW if terminal else _LINE_EVERY,
        miniters=1,
        leave=False,
        ncols=_USUAL_WIDTH if terminal and not width else None,
        dynamic_ncols=bool(width),  # also after the window is resized
        **options,
    )


def _width(stream: TextIO) -> int:
    """Return the number of columns of a terminal, 0 if it is unknown."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except OSError:
        return 0


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
