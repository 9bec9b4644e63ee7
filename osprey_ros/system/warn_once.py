"""Warnings that are logged once, because what they are about comes back with every frame or file."""

from __future__ import annotations

import logging
import threading

_MOST = 1000  # different warnings that are remembered
_said: set[tuple[str, str]] = set()
_lock = threading.Lock()


def warn_once(logger: logging.Logger, key: str, message: str) -> None:
    """Log a warning, unless one with the same key was logged by this process.

    Args:
        logger: Logger of the module that warns.
        key: Names the kind of the warning.
        message: The text. The one of the first call is logged.
    """
    with _lock:
        if (logger.name, key) in _said or len(_said) >= _MOST:
            return
        _said.add((logger.name, key))
    logger.warning("%s", message)


def forget_warnings() -> None:
    """Log all warnings again when they come back."""
    with _lock:
        _said.clear()
