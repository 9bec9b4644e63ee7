"""What a check found, and what helps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(str, Enum):
    """How bad a finding is. A problem stops something that the user set or that every installation needs."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        area: "machine", "software", "ros", "bundles", "folders" or "graph".
        name: What was looked at, such as "memory".
        level: How bad it is.
        text: What was found, in one line.
        remedy: What helps, in one line; "" if the level is OK.
    """

    area: str
    name: str
    level: Level
    text: str
    remedy: str = ""


def ok(area: str, name: str, text: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(area, name, Level.OK, text)


def warning(area: str, name: str, text: str, remedy: str) -> Finding:
    """Return a finding that can be what is wrong."""
    return Finding(area, name, Level.WARNING, text, remedy)


def problem(area: str, name: str, text: str, remedy: str) -> Finding:
    """Return a finding that stops something."""
    return Finding(area, name, Level.PROBLEM, text, remedy)
