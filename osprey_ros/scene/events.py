"""Events: what became different about the objects of a scene from one frame to the next.

`events_after` is a pure function of what was reported before and the scene after a frame. `EventLog` keeps the former,
and the latest events.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from osprey_ros.scene.scene import Scene
from osprey_ros.scene.types import UNKNOWN, Caption, SceneObject, Snapshot
from osprey_ros.system.settings import Effect, ParameterGroup, parameter

KEPT = 256  # latest events of a log
_AT_REST = 0.25  # share of the distance that an object at rest moves at most from one frame to the next

Point = tuple[float, float, float]


class EventKind(str, Enum):
    """What happened to an object."""

    APPEARED = "appeared"  # it was detected for the first time
    MOVED = "moved"  # it lies somewhere else than it was reported
    CHANGED = "changed"  # it has a new caption with other words
    DESCRIBED = "described"  # it has its first caption
    LOW_CONFIDENCE = "low confidence"  # it has a new caption, which is not sure


# As in osprey_interfaces/SceneEvent.
EVENT_NUMBERS = {kind: number for number, kind in enumerate(EventKind)}


@dataclass(frozen=True)
class SceneEvent:
    """One event.

    Attributes:
        kind: What happened.
        object: The object after the frame.
        stamp: Of the frame, in nanoseconds.
        why: What was observed, in words.
    """

    kind: EventKind
    object: SceneObject
    stamp: int
    why: str


@dataclass(frozen=True)
class EventSettings(ParameterGroup):
    """Limits of events. Raises InputError for a value outside the limits of its field."""

    event_distance: float = parameter(
        0.1,
        "Distance that an object must have moved and come to rest for the event moved. It needs depth, and other "
        "objects that stay in their place.",
        Effect.FRAME,
        unit="m",
        limits=(0.01, 100.0),
    )
    event_confidence: float = parameter(
        0.3,
        "Confidence of a caption below which the event low confidence is published. 0: never.",
        Effect.FRAME,
        limits=(0.0, 1.0),
    )


@dataclass(frozen=True)
class Reported:
    """What was reported about objects, each by track id.

    Attributes:
        captions: The latest caption; None before the first.
        places: Where the object was at rest, in meters in the map; None if unknown.
        latest: Where it was in the latest frame that showed it.
        map_number: Of the map that the places are in.
    """

    captions: Mapping[int, Caption | None] = field(default_factory=dict)
    places: Mapping[int, Point | None] = field(default_factory=dict)
    latest: Mapping[int, Point | None] = field(default_factory=dict)
    map_number: int = 0


def events_after(
    before: Reported,
    after: Snapshot,
    places: Mapping[int, Point | None],
    map_number: int,
    settings: EventSettings,
) -> tuple[tuple[SceneEvent, ...], Reported]:
    """Return the events of a frame, by ascending track id, and what is reported with them.

    Args:
        before: What was reported with the frame before.
        after: The scene after the frame.
        places: Position of each object in the map, in meters; None if unknown.
        map_number: Of the map that the positions are in. Positions in another map are not compared.
        settings: Limits.
    """
    events: list[SceneEvent] = []
    same_map = map_number == before.map_number
    rest: dict[int, Point | None] = {}
    for thing in after.objects:
        track_id, place = thing.track_id, places.get(thing.track_id)
        known_place = before.places.get(track_id) if same_map else None
        rest[track_id] = known_place or place
        if track_id not in before.captions:
            events.append(SceneEvent(EventKind.APPEARED, thing, after.stamp, "it was not in the scene before"))
        elif thing.visible and place is not None and known_place is not None:
            step = before.latest.get(track_id) or known_place
            distance = math.dist(place, known_place)
            if distance > settings.event_distance and math.dist(place, step) < _AT_REST * settings.event_distance:
                why = f"it lies {distance:.2f} m from where it was"
                events.append(SceneEvent(EventKind.MOVED, thing, after.stamp, why))
                rest[track_id] = place
        events += _events_of_caption(before.captions.get(track_id), thing, after.stamp, settings)
    return tuple(events), Reported({thing.track_id: thing.caption for thing in after.objects}, rest, places, map_number)


def _events_of_caption(
    old: Caption | None, thing: SceneObject, stamp: int, settings: EventSettings
) -> list[SceneEvent]:
    new = thing.caption
    if new is None or new is old or (old is not None and old.described_at == new.described_at):
        return []
    events = []
    if old is None:
        events.append(SceneEvent(EventKind.DESCRIBED, thing, stamp, f"its first caption is {_said(new)!r}"))
    elif _words(old) != _words(new):
        events.append(SceneEvent(EventKind.CHANGED, thing, stamp, f"it was {_said(old)!r} and is {_said(new)!r}"))
    if new.confidence < settings.event_confidence or UNKNOWN in (new.category, new.description):
        why = new.reason or f"the confidence of {_said(new)!r} is {new.confidence:.2f}"
        events.append(SceneEvent(EventKind.LOW_CONFIDENCE, thing, stamp, why))
    return events


def _words(caption: Caption) -> tuple[str, ...]:
    return (caption.category, caption.description, *(f"{one.name}={one.value}" for one in caption.attributes))


def _said(caption: Caption) -> str:
    return caption.description or caption.category


class EventLog:
    """Events of one scene. Use it from the thread of the scene.

    Args:
        scene: The scene as it is now; its objects have been reported.

    Attributes:
        latest: The latest events, the newest last.
    """

    def __init__(self, scene: Scene) -> None:
        self.latest: deque[SceneEvent] = deque(maxlen=KEPT)
        _, self._reported = events_after(Reported(), *_view(scene), EventSettings())

    def update(self, scene: Scene, settings: EventSettings) -> tuple[SceneEvent, ...]:
        """Return the events since the latest call."""
        events, self._reported = events_after(self._reported, *_view(scene), settings)
        self.latest.extend(events)
        return events


def _view(scene: Scene) -> tuple[Snapshot, dict[int, Point | None], int]:
    places: dict[int, Point | None] = {}
    for track_id, track in scene.tracks.items():
        x, y, z = track.position.tolist()
        places[track_id] = (x, y, z) if math.isfinite(x + y + z) else None
    return scene.snapshot(), places, scene.map_number
