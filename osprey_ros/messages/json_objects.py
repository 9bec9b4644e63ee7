"""Objects, matches and events of osprey_interfaces as values for JSON. Works on messages of any library."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from osprey_ros.messages.objects import object_message
from osprey_ros.messages.stamps import NANOSECONDS
from osprey_ros.scene.events import EventKind, SceneEvent
from osprey_ros.scene.types import SceneObject, State

_DIGITS = 4


def seconds_of(time: Any) -> float:
    """Return a builtin_interfaces/Time in seconds, to the microsecond; 0 stands for none."""
    return round(float(time.sec) + float(time.nanosec) / NANOSECONDS, 6)


def object_json(thing: Any) -> dict[str, Any]:
    """Return an osprey_interfaces/ObjectDescription."""
    roi = thing.roi
    return {
        "track_id": int(thing.track_id),
        "visible": bool(thing.visible),
        "category": thing.category,
        "description": thing.description,
        "confidence": _number(thing.confidence),
        "label": thing.label,
        "state": list(State)[thing.state].value,
        "reason": thing.reason,
        "attributes": {one.name: one.value for one in thing.attributes},
        "box": [int(v) for v in (roi.x_offset, roi.y_offset, roi.width, roi.height)],
        "position": _point(thing.position) if thing.has_position else None,
        "size": _point(thing.size) if thing.has_position else None,
        "first_seen": seconds_of(thing.first_seen),
        "last_seen": seconds_of(thing.last_seen),
    }


def match_json(match: Any) -> dict[str, Any]:
    """Return an osprey_interfaces/ObjectMatch."""
    return {"score": _number(match.score), "evidence": match.reason, **object_json(match.object)}


def event_json(event: Any) -> dict[str, Any]:
    """Return an osprey_interfaces/SceneEvent."""
    return {
        "kind": list(EventKind)[event.kind].value,
        "track_id": int(event.track_id),
        "stamp": seconds_of(event.header.stamp),
        "frame_id": event.header.frame_id,
        "category": event.category,
        "description": event.description,
        "confidence": _number(event.confidence),
        "position": _point(event.position) if event.has_position else None,
        "why": event.why,
    }


def scene_object_json(thing: SceneObject) -> dict[str, Any]:
    """Return an object of the scene as `object_json` does."""
    return object_json(object_message(thing, _plain))


def scene_event_json(event: SceneEvent, frame_id: str) -> dict[str, Any]:
    """Return an event of the scene as `event_json` does. ``frame_id``: of the camera."""
    thing = scene_object_json(event.object)
    shared = {name: thing[name] for name in ("category", "description", "confidence", "position")}
    return {
        "kind": event.kind.value,
        "track_id": event.object.track_id,
        "stamp": round(event.stamp / NANOSECONDS, 6),
        "frame_id": frame_id,
        **shared,
        "why": event.why,
    }


def _plain(name: str, /, **fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**fields)


def _point(point: Any) -> list[float]:
    return [_number(point.x), _number(point.y), _number(point.z)]


def _number(value: float) -> float:
    return round(float(value), _DIGITS)
