"""Score spatial relations and orders of objects by where they are, in space or in the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from osprey_ros.query.answers import check_stop
from osprey_ros.query.question import Order, Rank, Relation
from osprey_ros.scene.types import SceneObject
from osprey_ros.system.cancellation import CancellationToken

Index: TypeAlias = "int | np.ndarray"

# "left of" holds fully at 1.5 times as far to the left as towards or away from the camera, and not at all where the
# target is 4 times as far towards or away as to the left. Both are sines of the angle to the direction of view.
FULL_DIRECTION = 1.5 / np.hypot(1.5, 1.0)
NO_DIRECTION = 1.0 / np.hypot(1.0, 4.0)
IMAGE_DEPTH_FACTOR = 1.6  # distance away on a level surface by rows of the image, seen from about 40 degrees above
REACH_METERS = 0.15  # gap at which "next to" is half true
BETWEEN_WIDTH = 0.3  # distance from the line of "between" at which it is half true, as a share of the line's length
END_OF_LINE = 0.15  # share of the line at either end within which "between" fades
DEFAULT_TILT = np.radians(35.0)  # of a camera above a table, where too few objects tell
SUPPORT_RATIO = 3.0  # size of a surface that carries several objects, relative to theirs
UNLIKELY = 0.001  # objects below it are not compared in relations
MAX_REFERENCES = 1024  # references, or pairs of them, that objects are related to
MAX_PAIRS_AT_ONCE = 1 << 16  # targets times references in one array
# Objects count as equal in an order up to these differences.
EQUAL_POSITIONS = 0.25  # of the mean object size
EQUAL_SIZES = 0.08  # of the size


@dataclass(frozen=True)
class Places:
    """Where objects are as seen from the camera, float64 [N] each, all in meters or all in mean object widths.

    Attributes:
        right, away: on the ground.
        up: height of the center.
        size: the larger of width and height.
        reach: the gap at which objects are half "next to" each other.
    """

    right: np.ndarray
    away: np.ndarray
    up: np.ndarray
    size: np.ndarray
    reach: float


def places(objects: Sequence[SceneObject], needed: np.ndarray | None = None) -> Places:
    """Return places in space if all needed objects have a position, else in the image as if all stood on level ground.

    Positions are in the camera's frame at each object's own last sighting, so they are comparable only as long as the
    camera has not moved in between.

    Args:
        objects: the objects [N].
        needed: bool [N], all by default. Other objects without a position get NaN.
    """
    unknown = (np.nan, np.nan, np.nan)
    positions = np.array([thing.position or unknown for thing in objects], dtype=np.float64).reshape(-1, 3)
    known = np.asarray(np.isfinite(positions).all(axis=1))
    needed = np.ones(len(objects), dtype=np.bool_) if needed is None else needed
    if needed.any() and known[needed].all():
        positions[~known] = np.nan
        sizes = [max(thing.size[:2]) if thing.size is not None else REACH_METERS for thing in objects]
        away, up = _level(positions, known)
        return Places(positions[:, 0], away, up, np.array(sizes), REACH_METERS)
    boxes = _boxes(objects)
    size = boxes[:, 2:].max(axis=1)
    unit = max(1.0, float(size.mean())) if len(size) else 1.0
    x, y, width, height = boxes.T / unit
    return Places(x + width / 2, -IMAGE_DEPTH_FACTOR * (y + height), -(y + height / 2), size / unit, 1.0)


def holds(relation: Relation, here: Places, targets: Index, references: Sequence[Index]) -> np.ndarray:
    """Return how well a relation holds, float64 in 0..1, NaN where a place is unknown.

    Args:
        relation: the relation of the target to the references.
        here: the places of all objects.
        targets: indices of objects; broadcast against the references.
        references: none for a side of the image (compared with all other objects), two for BETWEEN, else one.
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
        # One above the other and touching. An object inside another one shows a little above its middle.
        # A table reaches further under what is on it than a book.
        wide = here.size[reference] > SUPPORT_RATIO * here.size[targets]
        over = _near(here, targets, reference, np.where(wide, distance, 2 * distance))
        higher = up if relation is not Relation.UNDER else -up
        stacked: np.ndarray = over * np.clip(0.5 + higher / np.maximum(1e-6, 0.3 * here.size[reference]), 0, 1)
        return stacked
    along = {Relation.LEFT: -right, Relation.RIGHT: right, Relation.FRONT: -away, Relation.BEHIND: away}[relation]
    straight = np.clip((along / np.maximum(distance, 1e-9) - NO_DIRECTION) / (FULL_DIRECTION - NO_DIRECTION), 0, 1)
    # Of two objects on the left, the nearer one is more likely meant.
    result: np.ndarray = straight * (0.5 + 0.5 * near)
    return result


def precedence(order: Order, objects: Sequence[SceneObject], reference: SceneObject | None = None) -> np.ndarray:
    """Return how likely each object comes before each other one in an order, float64 [N, N] in 0..1.

    Entry (i, j) is about object i before object j: 1 if it clearly does, 0.5 if both are about equal. Left, right, top
    and bottom are those of the image. Distances and sizes are in meters if depth gave all of them, else by the image:
    an object further down is nearer. NEAR and FAR are measured from the reference, by default from the camera.
    """
    boxes = _boxes(objects)
    spread = max(1.0, float(boxes[:, 2:].mean())) if len(boxes) else 1.0
    x, y = boxes[:, 0] + boxes[:, 2] / 2, boxes[:, 1] + boxes[:, 3] / 2
    if order in (Order.LEFT, Order.RIGHT):
        key, equal = -x, EQUAL_POSITIONS * spread
    elif order in (Order.TOP, Order.BOTTOM):
        key, equal = -y, EQUAL_POSITIONS * spread
    elif order in (Order.NEAR, Order.FAR):
        key, equal = _nearness(objects, boxes) if reference is None else _nearness_to(reference, objects)
    else:
        key, equal = np.log(_sizes(order, objects, boxes)), EQUAL_SIZES
    if order in (Order.RIGHT, Order.BOTTOM, Order.FAR, Order.SMALL, Order.SHORT):
        key = -key
    return np.clip(0.5 + (key[:, None] - key) / (2 * max(equal, 1e-9)), 0.0, 1.0)


def related(
    relation: Relation,
    here: Places,
    own: np.ndarray,
    references: Sequence[np.ndarray],
    cancel: CancellationToken | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return how likely each object is in a relation to uncertain references, and to which ones it is most likely.

    Args:
        relation: the relation.
        here: the places of all objects [N].
        own: how likely each object is meant by the rest of the phrase, [N]. Unlikely objects get 0.
        references: how likely each object is meant by each reference, [N] each; none for a side of the image.
        cancel: ends the work; StoppedError is raised.

    Returns float64 [N] and the indices of the references, [N, references].
    """
    others, likely = _combinations(references)
    targets = np.flatnonzero(own > UNLIKELY)
    scores, best = np.zeros(len(own)), np.zeros(len(own), dtype=np.intp)
    step = max(1, MAX_PAIRS_AT_ONCE // max(1, len(targets)))
    for start in range(0, len(others), step):
        check_stop(cancel)
        part = others[start : start + step]
        degrees = holds(relation, here, targets[:, None], tuple(part.T)) * likely[start : start + step]
        degrees[np.isnan(degrees)] = 0.0  # without a position in space
        degrees[(targets[:, None, None] == part).any(axis=2)] = 0.0  # an object is not next to itself
        first = degrees.argmax(axis=1)
        found = degrees[np.arange(len(targets)), first]
        better = found > scores[targets]
        scores[targets[better]], best[targets[better]] = found[better], start + first[better]
    return scores, others[best] if len(others) else np.zeros((len(own), len(references)), dtype=np.intp)


def rank_probabilities(
    rank: Rank, objects: Sequence[SceneObject], fits: np.ndarray, reference: SceneObject | None = None
) -> np.ndarray:
    """Return the probability of each object, if it fits, to be at a place in an order, float64 [N].

    Which objects fit is uncertain. The number of fitting objects before an object therefore has a Poisson binomial
    distribution.

    Args:
        rank: the order and the place.
        objects: all objects [N].
        fits: how likely each object is among the sorted ones, [N]; 0 for all others.
        reference: what distances are measured from, None for the camera.
    """
    candidates = np.flatnonzero(fits)
    before = precedence(rank.order, [objects[int(n)] for n in candidates], reference).T * fits[candidates]
    np.fill_diagonal(before, 0.0)  # (i, j): j fits and comes before i
    counts = np.zeros((len(candidates), rank.place))  # probabilities of 0, 1, ... objects before i
    counts[:, 0] = 1.0
    for one in before.T:
        one_more = np.roll(counts, 1, axis=1)
        one_more[:, 0] = 0.0
        counts += (one_more - counts) * one[:, None]
    likely = np.zeros(len(objects))
    likely[candidates] = counts[:, -1]
    return likely


def _combinations(references: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return objects that may be the references together, integers [C, references], and how likely they are, [C].

    Without references there is one empty combination. Combinations are sorted by their indices.
    """
    if not references:
        return np.zeros((1, 0), dtype=np.intp), np.ones(1)
    most = round(MAX_REFERENCES ** (1 / len(references)))
    kept = []
    for part in references:
        likely = np.flatnonzero(part > UNLIKELY)
        kept.append(np.sort(likely[np.argsort(-part[likely], kind="stable")[:most]]))
    together = np.stack([numbers.ravel() for numbers in np.meshgrid(*kept, indexing="ij")], axis=1)
    return together, np.prod([part[together[:, n]] for n, part in enumerate(references)], axis=0)


def _nearness(objects: Sequence[SceneObject], boxes: np.ndarray) -> tuple[np.ndarray, float]:
    """Return keys that are larger for nearer objects, and the difference below which they count as equal."""
    positions = [thing.position for thing in objects]
    if all(position is not None for position in positions):
        return -np.linalg.norm(np.array(positions, dtype=np.float64).reshape(-1, 3), axis=1), 0.02
    return boxes[:, 1] + boxes[:, 3], EQUAL_POSITIONS * max(1.0, float(boxes[:, 2:].mean()))


def _nearness_to(reference: SceneObject, objects: Sequence[SceneObject]) -> tuple[np.ndarray, float]:
    """Return keys that are larger for objects nearer to a reference, and the difference up to which they are equal."""
    here = places([*objects, reference])
    distances = np.hypot(here.right[:-1] - here.right[-1], here.away[:-1] - here.away[-1])
    return -distances, EQUAL_POSITIONS * float(here.size.mean())


def _sizes(order: Order, objects: Sequence[SceneObject], boxes: np.ndarray) -> np.ndarray:
    """Return heights for TALL and SHORT, else the geometric mean of width and height; always above 0."""
    if all(thing.size is not None for thing in objects):
        extents = np.array([thing.size[:2] for thing in objects if thing.size is not None]).reshape(-1, 2)
    else:
        extents = boxes[:, 2:]
    extents = np.maximum(extents, 1e-6)
    result: np.ndarray = extents[:, 1] if order in (Order.TALL, Order.SHORT) else np.sqrt(extents.prod(axis=1))
    return result


def _boxes(objects: Sequence[SceneObject]) -> np.ndarray:
    return np.array([thing.box for thing in objects], dtype=np.float64).reshape(-1, 4)


def _near(here: Places, targets: Index, references: Index, distance: np.ndarray) -> np.ndarray:
    gap = np.maximum(0.0, distance - (here.size[targets] + here.size[references]) / 2)
    result: np.ndarray = 1 / (1 + (gap / here.reach) ** 2)
    return result


def _between(here: Places, targets: Index, references: Sequence[Index]) -> np.ndarray:
    start, end = references[0], references[-1]
    line_right, line_away = here.right[end] - here.right[start], here.away[end] - here.away[start]
    right, away = here.right[targets] - here.right[start], here.away[targets] - here.away[start]
    square = line_right**2 + line_away**2
    length = np.maximum(square, 1e-12)  # nothing is between two objects in the same place
    along = (right * line_right + away * line_away) / length
    off = np.abs(right * line_away - away * line_right) / length
    inside = np.clip(np.minimum(along, 1 - along) / END_OF_LINE, 0, 1)
    return np.where(square < 1e-12, 0.0, inside / (1 + (off / BETWEEN_WIDTH) ** 2))


def _outermost(relation: Relation, here: Places, targets: Index) -> np.ndarray:
    axis = here.right if relation in (Relation.LEFT, Relation.RIGHT) else here.away
    sign = -1 if relation in (Relation.LEFT, Relation.FRONT) else 1
    low, high = (sign * axis).min(), (sign * axis).max()
    own = sign * axis[targets]
    return (own - low) / (high - low) if high > low else np.ones_like(own)


def _level(positions: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how far away and how high points are relative to the ground that most of them stand on, float64 [N] each.

    The camera is level about its axis and looks down by the angle at which the heights differ least, or by
    `DEFAULT_TILT` if at most 3 points are known.

    Args:
        positions: points [N, 3] in the camera's optical frame.
        known: bool [N], the points to use for the angle.
    """
    angles = np.radians(np.arange(0.0, 81.0, 1.0))
    down, forward = positions[:, 1], positions[:, 2]
    heights = -np.cos(angles)[:, None] * down[known] - np.sin(angles)[:, None] * forward[known]
    spread = np.median(np.abs(heights - np.median(heights, axis=1, keepdims=True)), axis=1)
    angle = angles[int(spread.argmin())] if known.sum() > 3 else DEFAULT_TILT
    away = np.cos(angle) * forward - np.sin(angle) * down
    return away, -np.cos(angle) * down - np.sin(angle) * forward
