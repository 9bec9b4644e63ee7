"""The one exception that reading a checkpoint raises."""

from __future__ import annotations


class CheckpointError(Exception):
    """A checkpoint cannot be read; the message names what is wrong, where, and what to do."""
