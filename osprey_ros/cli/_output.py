"""What the commands write beside their results: log lines on standard error, and how numbers are shown."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from osprey_ros.errors import one_line
from osprey_ros.files import write_json

if TYPE_CHECKING:
    from osprey_ros.bundle.manifest import EngineManifest

_PACKAGES = ("osprey_ros", "osprey_sim")
_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
_LOGGER = logging.getLogger(__name__)


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return f"osprey: {record.levelname.lower()}: {super().format(record)}"


@contextmanager
def logs_on_stderr(verbosity: int, packages: Sequence[str] = _PACKAGES) -> Iterator[None]:
    """Write what packages log to standard error while a command runs.

    Args:
        verbosity: 0 for warnings and errors, 1 for information, 2 or more for debug messages.
        packages: Their names. Those of an enclosing block are left as they are.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    loggers = [logger for logger in map(logging.getLogger, packages) if logger.propagate]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False  # a program can have handlers of its own for all loggers
        logger.setLevel(_LEVELS[min(verbosity, len(_LEVELS) - 1)])
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\b")  # of damaged files, which are named with our own words
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.propagate = True
            logger.setLevel(level)


def write_figures(path: Path | None, figures: object) -> None:
    """Write figures as JSON, and create the folder of the file; do nothing without a file."""
    if path is not None:
        write_json(path, figures)


def warn_if_unverified(manifest: EngineManifest) -> None:
    """Log a warning about a bundle that was never compared with its PyTorch model."""
    if not manifest.verified:
        _LOGGER.warning("bundle %s was never compared with its PyTorch model", manifest.name)


def warn_about_regions(reasons: Mapping[int, str], files: Mapping[int, str]) -> None:
    """Log a warning for each region about which nothing can be said.

    Args:
        reasons: The reason for each region id, "" for regions that were described.
        files: The mask file of each region id.
    """
    for region, reason in reasons.items():
        if reason:
            _LOGGER.warning("region %d (%s) is unknown: %s", region, files[region], reason)


def file_width(names: Sequence[str]) -> int:
    """Return the width of a column with these names of mask files; 0 if they are all the same and say nothing."""
    return max(len(name) for name in [*names, "file"]) if len(set(names)) > 1 else 0


def box_text(box: Iterable[int]) -> str:
    """Return a box (x, y, width, height in pixels) as text."""
    return ", ".join(str(value) for value in box)
