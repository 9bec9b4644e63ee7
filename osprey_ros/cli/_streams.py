"""Standard output and standard error of a command: they can be closed, be full, or lack characters."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class Stream:
    """A text stream that no longer writes after it has failed, so that the command completes its other output.

    Attributes:
        problem: Why the stream cannot be written. None if it can, or if its reader closed the pipe (`| head`).
    """

    def __init__(self, stream: TextIO) -> None:
        self.problem: OSError | None = None
        self._stream, self._failed = stream, False

    def write(self, text: str) -> int:
        """Write a text, unless the stream has failed. Return the length of the text."""
        try:
            if not self._failed:
                self._stream.write(text)
        except OSError as error:
            self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, unless the stream has failed."""
        try:
            if not self._failed:
                self._stream.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._failed = True
        if not isinstance(error, BrokenPipeError):
            self.problem = error
        with suppress(OSError, ValueError):  # a stream in memory has no descriptor
            # Python flushes the stream once more at exit.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def safe_streams() -> Iterator[Stream]:
    """Replace standard output and standard error of the process by a `Stream` each. Yield that of standard output.

    A closed stream becomes the null device. Characters that the encoding of a stream does not have are written as
    backslash escapes.
    """
    _reserve_descriptors()
    before = sys.stdout, sys.stderr
    output, errors = (_safe(stream) for stream in before)
    sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, errors)
    try:
        yield output
    finally:
        output.flush()
        errors.flush()
        sys.stdout, sys.stderr = before


def _safe(stream: TextIO | None) -> Stream:
    if isinstance(stream, Stream):  # one command runs another
        return stream
    if stream is None:
        return Stream(open(os.devnull, "w", encoding="utf-8"))
    if getattr(stream, "errors", None) in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return Stream(stream)


def _reserve_descriptors() -> None:
    """Open the null device in place of closed streams: the next file would get their number, and stray output."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the smallest free number
