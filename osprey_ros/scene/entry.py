"""One object of the scene with everything that is kept about it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from osprey_ros.scene.change import CHANGE_PATIENCE, SETTLED_FRAMES, CaptionCheck, View, scaled_box
from osprey_ros.scene.track import Track
from osprey_ros.scene.types import Caption, Detection, SceneObject, State

_NEW = "new object"
_LEFT_OUT = "skipped in the last frame that showed it"
_RESTORED_MISSED = 40  # missed frames of a restored track: its place in the image says little


@dataclass
class Entry:
    """An object, its track and the state of its caption.

    Attributes:
        object: What the scene returns.
        track: What the tracker compares.
        check: Whether the caption holds.
        prioritized: Whether the object is described before others.
        waited: Frames in which the object needed a caption and did not get one, since the last caption.
    """

    object: SceneObject
    track: Track
    check: CaptionCheck
    prioritized: bool = False
    waited: int = 0

    @classmethod
    def begin(cls, track_id: int, detection: Detection, stamp: int, track: Track) -> Entry:
        """Return the entry of an object that is detected for the first time."""
        obj = SceneObject(
            track_id=track_id,
            state=State.PENDING,
            reason=_NEW,
            caption=None,
            first_seen=stamp,
            last_seen=stamp,
            visible=True,
            **vars(detection),
        )
        return cls(obj, track, CaptionCheck(_NEW, latest=view_of(obj)))

    @classmethod
    def restore(cls, obj: SceneObject, frame: int) -> Entry:
        """Return the entry of an object that an earlier run knew, before frame number ``frame`` + 1.

        The camera may be elsewhere now, so that only a position in the fixed frame is restored into the track.
        """
        embedding = np.array(obj.appearance, np.float32)
        box, last_frame = np.array(obj.box, np.float64), frame - _RESTORED_MISSED
        track = Track(embedding.copy(), embedding, float(obj.area), box, last_frame, last_frame)
        if obj.pose is not None:
            track.position = np.array(obj.pose.position)
        reason = obj.reason
        if obj.state is State.SKIPPED:
            reason = _NEW if obj.caption is None else _LEFT_OUT
        entry = cls(obj, track, CaptionCheck(reason))
        entry.object = replace(entry.persistent_object, visible=False)
        if obj.state is State.FRESH:
            entry._set_described()
        return entry

    def add(self, detection: Detection, stamp: int, holds: bool | None) -> None:
        """Add a detection. ``holds`` is the judgement of the caption, from `change.judge`."""
        known, seen = self.object.pose, detection.pose
        pose = known if seen is None else seen if known is None else known.then(seen)
        found = {**vars(detection), "pose": pose}
        self.object = replace(self.persistent_object, last_seen=stamp, visible=True, **found)
        if holds:
            self.prioritized = False
            reason = self.object.caption.reason if self.object.caption else ""
            self.object = replace(self.object, state=State.FRESH, reason=reason)
        elif holds is False:
            self.object = replace(self.object, state=State.STALE)
            unsettled = "" if self.needs_caption else ", and is still changing"
            self.object = replace(self.object, reason=f"{self.check.reason}{unsettled}")

    def hide(self) -> None:
        """Note that the latest frame does not show the object."""
        if self.object.visible or self.object.state is State.SKIPPED:
            self.object = replace(self.persistent_object, visible=False)

    def set_caption(self, caption: Caption) -> None:
        """Set a caption of the latest view."""
        self.object = replace(self.object, state=State.FRESH, reason=caption.reason, caption=caption)
        self._set_described()
        self.prioritized, self.waited = False, 0

    def skip(self, reason: str) -> None:
        """Note why the object did not get a caption in this frame."""
        self.object = replace(self.object, state=State.SKIPPED, reason=f"{reason}; {self.check.reason}")
        self.waited += 1

    def invalidate(self, reason: str) -> None:
        """Make a caption stale."""
        if self.object.caption is not None:
            self.object = replace(self.object, state=State.STALE, reason=reason)
            self.check = replace(self.check, reason=reason, described=None, anchor=None)

    def set_appearance(self, appearance: np.ndarray) -> None:
        """Replace the appearance by that of another model, float32 [D]; zero if it is unknown."""
        self.object = replace(self.object, appearance=appearance.copy())
        self.track.set_embedding(appearance)
        self.check = replace(self.check, described=None, anchor=None, latest=None)

    def absorb(self, other: Entry) -> None:
        """Take the caption of another entry of the same object if this one has none, and its priority."""
        if self.object.caption is None:
            theirs = other.object
            self.object = replace(self.object, caption=theirs.caption, state=theirs.state, reason=theirs.reason)
            self.check.reason = other.check.reason
            self.check.described, self.check.anchor = other.check.described, other.check.anchor
        self.prioritized = (self.prioritized or other.prioritized) and self.object.state is not State.FRESH

    def scale(self, across: float, down: float) -> None:
        """Convert pixels to those of an image with another width and height; the arguments are the factors."""
        box, area = scaled_box(self.object.box, across, down), round(self.object.area * across * down)
        self.object = replace(self.object, box=box, area=area)
        self.track.scale(across, down)
        self.check.scale(across, down)

    @property
    def needs_caption(self) -> bool:
        """Whether the object needs another caption that would hold for a while."""
        if self.object.state is State.FRESH:
            return False
        check = self.check
        settled = check.settled >= SETTLED_FRAMES or check.changed > CHANGE_PATIENCE
        return self.prioritized or check.described is None or settled

    @property
    def persistent_object(self) -> SceneObject:
        """The object without what is true of one frame only."""
        if self.object.state is State.FRESH:
            return self.object
        state = State.PENDING if self.object.caption is None else State.STALE
        return replace(self.object, state=state, reason=self.check.reason)

    @property
    def rank(self) -> tuple[bool, int, int, int]:
        """Objects with the lowest rank are forgotten first: those missing for longest, then the smallest.

        Stamps count only among objects of one frame number, which are restored ones: stamps can jump back.
        """
        return self.object.visible, self.track.last_frame, self.object.last_seen, self.object.area

    def _set_described(self) -> None:
        view = view_of(self.object)
        self.check = replace(self.check, described=view, anchor=view, changed=0)


def view_of(obj: SceneObject | Detection) -> View:
    """Return the view of an object in the latest frame with it."""
    return View(obj.appearance, obj.box, obj.area)
