"""Stamps of messages in nanoseconds."""

from __future__ import annotations

from typing import Any

from osprey_ros.errors import InputError

NANOSECONDS = 1_000_000_000


def stamp_of(message: Any) -> int:
    """Return the stamp of a message's header in nanoseconds."""
    return int(message.header.stamp.sec * NANOSECONDS + message.header.stamp.nanosec)


def check_stamp(message: Any) -> None:
    """Raise InputError if the nanoseconds of the stamp of a message reach a second: it is no valid time."""
    rest = message.header.stamp.nanosec
    if rest >= NANOSECONDS:
        raise InputError(f"the stamp has {rest} nanoseconds, at least a second; correct the clock of the publisher")
