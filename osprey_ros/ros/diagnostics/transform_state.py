"""Counts of the transforms to the fixed frame. Plain data, no ROS."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TransformState:
    """What became of the poses of the camera.

    Attributes:
        fixed_frame: As set.
        known, unknown: Frames with and without a pose.
        problem: Why the latest frame has none, "" if it has one.
        refused: Why the latest transform that could not be kept was refused, "" for none.
    """

    fixed_frame: str
    known: int
    unknown: int
    problem: str
    refused: str
