"""The scene as it is remembered: its objects, what was said of each, and whether that still holds.

Words are of an object as it looked then. It has changed where its mask token lies far from what it was. How far it may
lie depends on the view: seen from the same place a thing keeps its looks but for noise; one that moves in the picture
shows other sides, and one that is partly hidden looks like something else. A thing that has changed is described again
when it has settled: while others pass before it, or it is being moved, words would not hold for long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from osprey_ros.errors import InputError
from osprey_ros.scene.types import Caption, SceneObject, State

_NEW = "it is new"
_LEFT_OUT = "it was left out when it was seen last"
_SAME_PLACE = 0.9  # overlap (intersection over union) of two boxes of a thing that is seen from the same place
_MOVED = 4.0  # times as far may the looks of a thing lie that has moved in the picture, or is partly hidden
# Shares of the pixels that were described: with fewer a thing is taken to be partly hidden, or is not judged at all, as
# words of a better view hold.
_PARTLY, _MOSTLY = 0.75, 0.5
_SETTLED = 2  # frames on end in which a changed thing must look as in the frame before, to be described again
_PATIENCE = 10  # frames after which it is described though it has not settled
_STILL, _STILL_AREA = 0.5, 1.2  # share of the threshold, and factor of area, from one frame to the next


@dataclass(frozen=True)
class Change:
    """How far an object may be from what was described: see `StepSettings`."""

    appearance: float = 0.2
    view: float = 2.0


@dataclass(frozen=True)
class Detection:
    """A region of a frame, and whose it is. The fields are those of `SceneObject`."""

    track_id: int
    instance_id: int
    box: tuple[int, int, int, int]
    area: int
    appearance: np.ndarray
    position: tuple[float, float, float] | None = None
    size: tuple[float, float, float] | None = None
    label: str = ""
    score: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """The scene after the frame with this stamp (0 before the first), all objects by rising track id."""

    stamp: int
    frame_id: str
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class _View:
    """How an object looked once. ``looks``: its appearance, of length 1; or 0, as of a mask that has vanished."""

    looks: np.ndarray
    box: tuple[int, int, int, int]
    area: int


@dataclass
class _Entry:
    """An object and what is needed to judge it.

    ``why``: why it needs words. ``described``: the view that the words are of, None where they do not hold whatever is
    seen; ``anchor``: the first of the views since then from the same place; ``latest``: that of the latest frame with
    it. ``settled``: frames on end in which it looked as in the one before; ``changed``: frames in which it was stale.
    ``number``: the how-many-eth frame showed it last, for stamps may go back; below 0 where it was not seen yet.
    """

    object: SceneObject
    why: str = ""
    number: int = 0
    described: _View | None = None
    anchor: _View | None = None
    latest: _View | None = None
    settled: int = 0
    changed: int = 0
    asked: bool = False
    waited: int = 0


_Boxed = TypeVar("_Boxed", SceneObject, _View)


class Scene:
    """Objects by track id. Bounded: those unseen for longest are forgotten first, then the smallest.

    Raises InputError for a bound below 1.
    """

    def __init__(self, max_objects: int = 1000) -> None:
        if max_objects < 1:
            raise InputError(f"max_objects is {max_objects}: a scene needs room for at least one object")
        self.max_objects = max_objects
        self._entries: dict[int, _Entry] = {}
        self._stamp, self._frame_id = 0, ""
        self._frames = 0
        self._shape: tuple[int, int] | None = None  # of the latest picture, in whose pixels all boxes are

    def __len__(self) -> int:
        return len(self._entries)

    def update(
        self,
        stamp: int,
        frame_id: str,
        detections: Sequence[Detection],
        change: Change,
        shape: tuple[int, int] | None = None,
    ) -> None:
        """Takes in a frame: these objects are in view, no others. Judges whether their words still hold.

        ``shape``, (height, width) of its picture, may change; without it all pictures are taken to be of one size.
        """
        self._stamp, self._frame_id = stamp, frame_id
        self._frames += 1
        if shape is not None:
            if self._shape is not None and shape != self._shape:
                for entry in self._entries.values():
                    _scale(entry, shape[1] / self._shape[1], shape[0] / self._shape[0])
            self._shape = shape
        seen = {detection.track_id for detection in detections}
        for track_id, entry in self._entries.items():
            if track_id not in seen and (entry.object.visible or entry.object.state is State.SKIPPED):
                entry.object = replace(_lasting(entry), visible=False)
        for detection in detections:
            known = self._entries.get(detection.track_id)
            if known is None:
                thing = _new_object(detection, stamp)
                self._entries[detection.track_id] = _Entry(thing, _NEW, self._frames, latest=_view(thing))
            else:
                known.number = self._frames
                known.object = replace(_lasting(known), last_seen=stamp, visible=True, **vars(detection))
                _judge(known, change)

    def needing_caption(self) -> list[SceneObject]:
        """The objects in view that need words now, new or other ones, in no order."""
        return [entry.object for entry in self._entries.values() if entry.object.visible and _ripe(entry)]

    def set_caption(self, track_id: int, words: Caption) -> None:
        """Takes in words about an object as it is in view now. Raises KeyError for one that is not known."""
        entry = self._entries[track_id]
        entry.object = replace(entry.object, state=State.FRESH, reason="", caption=words)
        entry.described = entry.anchor = _view(entry.object)
        entry.asked, entry.waited, entry.changed = False, 0, 0

    def skip(self, track_id: int, reason: str) -> None:
        """Notes that an object in view was left out of this frame, and why. Raises KeyError."""
        entry = self._entries[track_id]
        entry.object = replace(entry.object, state=State.SKIPPED, reason=f"{reason}; {entry.why}")
        entry.waited += 1

    def invalidate(self, reason: str) -> None:
        """All words become stale: something else is wanted than what was asked then."""
        for entry in self._entries.values():
            if entry.object.caption is not None:
                entry.object = replace(entry.object, state=State.STALE, reason=reason)
                entry.why, entry.described, entry.anchor = reason, None, None

    def prioritize(self, track_ids: Iterable[int]) -> None:
        """These objects come first, until they have words that hold; those that are not known are passed over."""
        for track_id in track_ids:
            if track_id in self._entries:
                entry = self._entries[track_id]
                entry.asked = entry.object.state is not State.FRESH

    def is_prioritized(self, track_id: int) -> bool:
        """Whether an object comes first. Raises KeyError."""
        return self._entries[track_id].asked

    def waited(self, track_id: int) -> int:
        """In how many frames an object was left out since it was last described. Raises KeyError."""
        return self._entries[track_id].waited

    def object(self, track_id: int) -> SceneObject:
        """What is known of an object. Raises KeyError for one that is not known."""
        return self._entries[track_id].object

    def snapshot(self) -> Snapshot:
        """All that is known now."""
        return Snapshot(self._stamp, self._frame_id, tuple(self._entries[t].object for t in sorted(self._entries)))

    def persistent_objects(self) -> tuple[SceneObject, ...]:
        """All objects, as `restore` takes them: without what was true of the latest frame only.

        Those that would be forgotten last come first.
        """
        return tuple(map(_lasting, sorted(self._entries.values(), key=_worth, reverse=True)))

    def forget(self, track_ids: Iterable[int] | None = None) -> tuple[int, ...]:
        """Forgets objects, all by default; returns the track ids of those that there were."""
        gone = tuple(self._entries) if track_ids is None else tuple(t for t in track_ids if t in self._entries)
        for track_id in gone:
            self._entries.pop(track_id, None)
        return tuple(dict.fromkeys(gone))

    def merge(self, young: int, older: int) -> None:
        """An object that seemed new turned out to be an older one: it is forgotten, but for words that the other lacks.

        Those that are not known are passed over.
        """
        entry, known = self._entries.pop(young, None), self._entries.get(older)
        if entry is None or known is None:
            return
        if known.object.caption is None:
            known.object = replace(
                known.object, caption=entry.object.caption, state=entry.object.state, reason=entry.object.reason
            )
            known.why, known.described, known.anchor = entry.why, entry.described, entry.anchor
        known.asked = (known.asked or entry.asked) and known.object.state is not State.FRESH

    def forget_surplus(self) -> tuple[int, ...]:
        """Forgets what is beyond ``max_objects``, as `update` may bring more; returns the track ids."""
        surplus = len(self._entries) - self.max_objects
        if surplus <= 0:
            return ()
        order = sorted(self._entries, key=lambda t: _worth(self._entries[t]))
        return self.forget(order[:surplus])

    def restore(self, objects: Iterable[SceneObject]) -> None:
        """Takes up objects that were known before; none is in view until it is seen. Those of the same id are replaced.

        Captions that held are taken to belong to the appearance that comes with them. The reason why a SKIPPED object
        (`persistent_objects` returns none) needs a caption is lost. Stamps say which object was seen before which.
        """
        things = list(objects)
        stamps = sorted({thing.last_seen for thing in things})
        number_of = {stamp: number - len(stamps) for number, stamp in enumerate(stamps)}
        for thing in things:
            why = thing.reason
            if thing.state is State.SKIPPED:
                why = _NEW if thing.caption is None else _LEFT_OUT
            entry = _Entry(thing, why, number_of[thing.last_seen])
            entry.object = replace(_lasting(entry), visible=False)
            if thing.state is State.FRESH:
                entry.described = entry.anchor = _view(thing)
            self._entries[thing.track_id] = entry


def overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection over union of two boxes x, y, width, height, 0 to 1."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine distance of two looks of length 1, [hidden]: 0 (alike) to 2; 0 where one has no length."""
    return 1.0 - float(a @ b) if a.any() and b.any() else 0.0


def _judge(entry: _Entry, change: Change) -> None:
    """Finds out whether the words of an object in view still hold."""
    said, anchor, now = entry.described, entry.anchor, _view(entry.object)
    entry.settled = entry.settled + 1 if entry.latest is not None and _alike(entry.latest, now, change) else 0
    entry.latest = now
    if said is None or anchor is None:
        return
    if now.area < _MOSTLY * said.area:
        entry.settled = 0
        return
    far = _distance(now.looks, said.looks)
    whole = now.area >= _PARTLY * said.area
    in_place = whole and overlap(now.box, anchor.box) >= _SAME_PLACE
    jumped = in_place and _distance(now.looks, anchor.looks) > change.appearance
    changed = far > _MOVED * change.appearance or (jumped and far > change.appearance)
    if now.area > change.view * said.area:
        entry.why = "it is seen larger than when it was described"
    elif changed:
        entry.why = "it looks otherwise than when it was described"
    elif entry.object.state is State.FRESH or far <= change.appearance:
        if whole and not in_place:
            entry.anchor = now
        entry.asked, entry.changed = False, 0
        entry.object = replace(entry.object, state=State.FRESH, reason="")
        return
    # Else it had changed before, and has moved since.
    entry.changed += 1
    entry.object = replace(entry.object, state=State.STALE, reason=entry.why)
    if not _ripe(entry):
        entry.object = replace(entry.object, reason=f"{entry.why}, and has not settled")


def _alike(before: _View, now: _View, change: Change) -> bool:
    """Whether a thing looks as in the frame before."""
    far = _distance(now.looks, before.looks)
    return far < _STILL * change.appearance and 1 / _STILL_AREA < now.area / max(1, before.area) < _STILL_AREA


def _ripe(entry: _Entry) -> bool:
    """Whether an object needs words, and they would hold for a while."""
    if entry.object.state is State.FRESH:
        return False
    if entry.described is None or entry.asked:
        return True
    return entry.settled >= _SETTLED or entry.changed > _PATIENCE


def _lasting(entry: _Entry) -> SceneObject:
    """The object without what was true of one frame only."""
    if entry.object.state is State.FRESH:
        return entry.object
    state = State.PENDING if entry.object.caption is None else State.STALE
    return replace(entry.object, state=state, reason=entry.why)


def _new_object(detection: Detection, stamp: int) -> SceneObject:
    return SceneObject(
        state=State.PENDING,
        reason=_NEW,
        caption=None,
        first_seen=stamp,
        last_seen=stamp,
        visible=True,
        **vars(detection),
    )


def _scale(entry: _Entry, across: float, down: float) -> None:
    """Turns pixels of one picture into those of another, so many times as wide and high."""

    def scaled(thing: _Boxed) -> _Boxed:
        x, y, width, height = thing.box
        box = (round(x * across), round(y * down), round(width * across), round(height * down))
        return replace(thing, box=box, area=round(thing.area * across * down))

    entry.object = scaled(entry.object)
    for name in ("described", "anchor", "latest"):
        view = getattr(entry, name)
        setattr(entry, name, None if view is None else scaled(view))


def _view(thing: SceneObject) -> _View:
    length = float(np.linalg.norm(thing.appearance))
    return _View(thing.appearance / length if length else thing.appearance, thing.box, thing.area)


def _worth(entry: _Entry) -> tuple[bool, int, int]:
    """Objects with the least of it are forgotten first."""
    return entry.object.visible, entry.number, entry.object.area
