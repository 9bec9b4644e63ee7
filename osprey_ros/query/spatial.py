"""How well places of objects bear out a relation between them, from where they are in space or in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from osprey_ros.query.grammar import Relation
from osprey_ros.scene.types import SceneObject

Index: TypeAlias = "int | np.ndarray"

# A thing is fully to the left where the way there is 1.5 times as far to the left as it is away or near, and is not at
# all where it is four times as far away or near.
_CLEAR = 1.5 / np.hypot(1.5, 1.0)
_VAGUE = 1.0 / np.hypot(1.0, 4.0)
_SLOPE = 1.6  # of a level surface in a picture: a way into it is about so much longer than it looks
_REACH = 0.15  # metres between things that are next to one another
_BETWEEN = 0.3  # how far off the line between two things, in parts of its length, a thing hardly is between them


@dataclass(frozen=True)
class Places:
    """Where objects are for someone at the camera, float64 [N] each, in one unit for all: metres, or picture widths.

    right, away: on the ground. up: the height of the middle. size: the larger of width and height.
    """

    right: np.ndarray
    away: np.ndarray
    up: np.ndarray
    size: np.ndarray
    reach: float  # what counts as near, beside the sizes


def places(objects: Sequence[SceneObject], needed: np.ndarray | None = None) -> Places:
    """Places in space where all that are needed have one, else in the picture, as if all stood on level ground.

    ``needed`` is bool [N], by default all are; of the others a place that is not known is NaN. Each place is that of
    the object's own last sighting.
    """
    unknown = (np.nan, np.nan, np.nan)
    positions = np.array([thing.position or unknown for thing in objects], dtype=np.float64).reshape(-1, 3)
    known = np.asarray(np.isfinite(positions).all(axis=1))
    needed = np.ones(len(objects), dtype=np.bool_) if needed is None else needed
    if needed.any() and known[needed].all():
        positions[~known] = np.nan
        sizes = [max(thing.size[:2]) if thing.size is not None else _REACH for thing in objects]
        away, up = _level(positions, known)
        return Places(positions[:, 0], away, up, np.array(sizes), _REACH)
    boxes = np.array([thing.box for thing in objects], dtype=np.float64).reshape(-1, 4)
    size = boxes[:, 2:].max(axis=1)
    unit = max(1.0, float(size.mean())) if len(size) else 1.0
    x, y, width, height = boxes.T / unit
    return Places(x + width / 2, -_SLOPE * (y + height), -(y + height / 2), size / unit, 1.0)


def holds(relation: Relation, here: Places, targets: Index, references: Sequence[Index]) -> np.ndarray:
    """0 to 1: how well a target's place bears out its relation to one reference, to two, or to all others.

    Without references it is about the side of the picture, compared with all others. Targets and references are
    numbers of objects, one or arrays that broadcast against each other; returns float64 of their common shape, NaN
    where a place is not known.
    """
    if not references:
        return _outermost(relation, here, targets)
    if relation is Relation.BETWEEN:
        return _between(here, targets, references)
    reference = references[0]
    right = here.right[targets] - here.right[reference]
    away = here.away[targets] - here.away[reference]
    up = here.up[targets] - here.up[reference]
    distance = np.hypot(right, away)
    near = _near(here, targets, reference, distance)
    if relation is Relation.NEXT_TO:
        return near
    if relation in (Relation.ON, Relation.UNDER, Relation.IN):
        # Over one another and touching; a thing that is in another hides behind its rim, a little above its middle.
        over = _near(here, targets, reference, 2 * distance)
        higher = up if relation is not Relation.UNDER else -up
        return over * np.clip(0.5 + higher / np.maximum(1e-6, 0.3 * here.size[reference]), 0, 1)
    along = {Relation.LEFT: -right, Relation.RIGHT: right, Relation.FRONT: -away, Relation.BEHIND: away}[relation]
    straight = np.clip((along / np.maximum(distance, 1e-9) - _VAGUE) / (_CLEAR - _VAGUE), 0, 1)
    # Of two things that are to the left the nearer is rather meant.
    return straight * (0.5 + 0.5 * near)


def _near(here: Places, targets: Index, references: Index, distance: np.ndarray) -> np.ndarray:
    gap = np.maximum(0.0, distance - (here.size[targets] + here.size[references]) / 2)
    return 1 / (1 + (gap / here.reach) ** 2)


def _between(here: Places, targets: Index, references: Sequence[Index]) -> np.ndarray:
    start, end = references[0], references[-1]
    line_right, line_away = here.right[end] - here.right[start], here.away[end] - here.away[start]
    right, away = here.right[targets] - here.right[start], here.away[targets] - here.away[start]
    square = line_right**2 + line_away**2
    known = np.maximum(square, 1e-12)  # two in one place have nothing between them
    along = (right * line_right + away * line_away) / known
    off = np.abs(right * line_away - away * line_right) / known
    inside = np.clip(np.minimum(along, 1 - along) / 0.15, 0, 1)
    return np.where(square < 1e-12, 0.0, inside / (1 + (off / _BETWEEN) ** 2))


def _outermost(relation: Relation, here: Places, targets: Index) -> np.ndarray:
    axis = here.right if relation in (Relation.LEFT, Relation.RIGHT) else here.away
    sign = -1 if relation in (Relation.LEFT, Relation.FRONT) else 1
    low, high = (sign * axis).min(), (sign * axis).max()
    own = sign * axis[targets]
    return (own - low) / (high - low) if high > low else np.ones_like(own)


def _level(positions: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far away and how high points [N, 3] in the camera's optical frame are on the ground that most stand on.

    The camera is level about its axis and looks down by the angle at which heights differ least; by 35 degrees where
    there are too few points to say, which are those that are ``known``, bool [N].
    """
    angles = np.radians(np.arange(0.0, 81.0, 1.0))
    down, forward = positions[:, 1], positions[:, 2]
    heights = -np.cos(angles)[:, None] * down[known] - np.sin(angles)[:, None] * forward[known]
    spread = np.median(np.abs(heights - np.median(heights, axis=1, keepdims=True)), axis=1)
    angle = angles[int(spread.argmin())] if known.sum() > 3 else np.radians(35.0)
    away = np.cos(angle) * forward - np.sin(angle) * down
    return away, -np.cos(angle) * down - np.sin(angle) * forward
