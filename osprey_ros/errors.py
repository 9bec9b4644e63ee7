"""The one base class of what goes wrong with what a user gave: picture, regions, question or bundle."""

from __future__ import annotations


class OspreyError(Exception):
    """Something given to osprey_ros cannot be used. The message is one line: what, its value, and the remedy."""


class StoppedError(OspreyError):
    """A call was told to stop before its answer was there."""
