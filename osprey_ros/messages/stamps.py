"""Stamps of messages in nanoseconds."""

from __future__ import annotations

from typing import Any

NANOSECONDS = 1_000_000_000


def stamp_of(message: Any) -> int:
    """Return the stamp of a message's header in nanoseconds."""
    return int(message.header.stamp.sec * NANOSECONDS + message.header.stamp.nanosec)
