"""The edge of every command: errors and signals end it with one line and a status, never with a traceback.

It imports only the standard library, so that it also guards the imports of a command.
"""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from typing import ParamSpec

from osprey_ros.cli._signals import interrupt_on_signals
from osprey_ros.cli._streams import Stream, safe_streams
from osprey_ros.errors import InputError, OspreyError, StorageError, one_line
from osprey_ros.file_errors import os_reason

USAGE_ERROR = 2

_P = ParamSpec("_P")


def command(name: str) -> Callable[[Callable[_P, int]], Callable[_P, int]]:
    """Return a decorator for the main function of a command.

    The function returns the exit status. The decorated one also returns one, instead of raising:

    - 2 for an OspreyError, an OSError, too little memory, a package that is not installed, and standard output on a
      full disk, with one line on standard error;
    - 130 for Ctrl-C, 143 for SIGTERM, 129 for a closed terminal.

    A closed pipe (`| head`) is no error: the rest of the text is dropped, and the command completes its files.

    Args:
        name: Begins the line, such as "osprey: error".
    """

    def decorate(main: Callable[_P, int]) -> Callable[_P, int]:
        @functools.wraps(main)
        def guarded(*args: _P.args, **kwargs: _P.kwargs) -> int:
            return _run(name, lambda: main(*args, **kwargs))

        return guarded

    return decorate


def _run(name: str, main: Callable[[], int]) -> int:
    nested = isinstance(sys.stdout, Stream)  # `osprey build` runs another command
    left: SystemExit | None = None  # of argparse
    status = USAGE_ERROR
    try:
        with interrupt_on_signals(), safe_streams() as output:
            try:
                status = main()
            except SystemExit as error:
                left = error
            except ModuleNotFoundError as error:
                if nested:
                    raise  # `osprey` knows how to install what the command needs
                missing = InputError(f"the Python package {error.name} is not installed; install it with pip")
                report_error(name, missing)
            except (OspreyError, OSError, MemoryError) as error:
                report_error(name, error)
            output.flush()
            if output.problem is not None:
                report_error(name, StorageError(f"standard output cannot be written: {os_reason(output.problem)}"))
                return USAGE_ERROR
    except KeyboardInterrupt as interrupt:
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
    if left is not None:
        raise left
    return status


def report_error(name: str, error: OspreyError | OSError | MemoryError) -> None:
    """Print what is wrong and the remedy on standard error."""
    print(f"{name}: {one_line(_error_text(error))}", file=sys.stderr)


def _error_text(error: OspreyError | OSError | MemoryError) -> str:
    """Return what is wrong and the remedy."""
    if isinstance(error, MemoryError):
        return "there is not enough memory; end other programs, or use smaller inputs"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        return where + " ".join((os_reason(error) if error.errno else str(error)).split())
    return str(error)
