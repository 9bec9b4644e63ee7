"""Colors on a terminal, and nowhere else."""

from __future__ import annotations

import os
from typing import TextIO

_CODES = {"red": 31, "green": 32, "yellow": 33, "bold": 1}


def has_colors(stream: TextIO) -> bool:
    """Return whether a stream shows colors: a terminal, unless NO_COLOR is set (no-color.org) or TERM is "dumb"."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def colored(text: str, color: str, stream: TextIO) -> str:
    """Return a text in a color, "red", "green", "yellow" or "bold", if the stream shows colors."""
    return f"\033[{_CODES[color]}m{text}\033[0m" if has_colors(stream) else text
