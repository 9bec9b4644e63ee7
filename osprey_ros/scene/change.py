"""Judge whether the caption of an object still describes it.

The caption belongs to one view of the object. The object has changed if its mask token is far from that of the view.
The limit depends on how it is seen: an object that stays in its place changes by noise only, one that moves in the
image shows other sides, and one that is partly hidden looks like something else. An object that changed is described
again when it has settled: a caption of an object that is being moved, or that others pass, would soon be stale, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from osprey_ros.regions.geometry import box_overlap

_SAME_PLACE = 0.9  # least intersection over union of two boxes of an object that stayed in its place
_MOVED = 4.0  # factor on the limit for objects that moved in the image or are partly hidden
# Shares of the pixels that were described. With less an object counts as partly hidden, or is not judged at all: the
# caption of a better view still holds.
_PARTLY, _MOSTLY = 0.75, 0.5
SETTLED_FRAMES = 2  # frames in a row without a change, after which an object has settled
CHANGE_PATIENCE = 10  # frames after which a changed object is described although it has not settled
_STILL, _STILL_AREA = 0.5, 1.2  # largest change from frame to frame: share of the limit, and factor of the area


@dataclass(frozen=True)
class Change:
    """Limits above which an object has changed.

    Attributes:
        appearance: Cosine distance of the mask tokens, 0 to 2.
        view: Factor of the area in pixels.
    """

    appearance: float = 0.2
    view: float = 2.0


@dataclass(frozen=True)
class View:
    """An object in one frame. The fields are those of `SceneObject`."""

    appearance: np.ndarray
    box: tuple[int, int, int, int]
    area: int

    def scaled(self, across: float, down: float) -> View:
        """Return the view in pixels of an image with another width and height; the arguments are the factors."""
        return replace(self, box=scaled_box(self.box, across, down), area=round(self.area * across * down))


@dataclass
class CaptionCheck:
    """What is needed to judge the caption of one object.

    Attributes:
        reason: Why the object needs a caption; meaningless while the caption holds.
        described: The view that was described; None if the object needs a caption whatever it looks like.
        anchor: The first view since then in the same place.
        latest: The view in the latest frame with the object.
        settled: Number of frames in a row in which it looked as in the frame before.
        changed: Number of frames since the caption became stale.
    """

    reason: str
    described: View | None = None
    anchor: View | None = None
    latest: View | None = None
    settled: int = 0
    changed: int = 0

    def holds(self, now: View, fresh: bool, change: Change) -> bool | None:
        """Return whether the caption describes the view of a new frame, or None if it cannot be judged.

        ``fresh`` is the judgement of the frame before: a caption that was stale and is not so by the strict limit only
        stays stale.
        """
        said, anchor = self.described, self.anchor
        self.settled = self.settled + 1 if self.latest is not None and _alike(self.latest, now, change) else 0
        self.latest = now
        if said is None or anchor is None:
            return None
        if now.area < _MOSTLY * said.area:
            self.settled = 0
            return None
        distance = cosine_distance(now.appearance, said.appearance)
        whole = now.area >= _PARTLY * said.area
        in_place = whole and float(box_overlap(np.array(now.box), np.array(anchor.box))) >= _SAME_PLACE
        jumped = in_place and cosine_distance(now.appearance, anchor.appearance) > change.appearance
        if now.area > change.view * said.area:
            self.reason = "it appears larger than when it was described"
        elif distance > _MOVED * change.appearance or (jumped and distance > change.appearance):
            self.reason = "its appearance changed since it was described"
        elif fresh or distance <= change.appearance:
            if whole and not in_place:
                self.anchor = now
            self.changed = 0
            return True
        self.changed += 1
        return False

    def scale(self, across: float, down: float) -> None:
        """Convert pixels to those of an image with another width and height; the arguments are the factors."""
        self.described, self.anchor, self.latest = (
            view and view.scaled(across, down) for view in (self.described, self.anchor, self.latest)
        )


def judge(cases: Iterable[tuple[CaptionCheck, View, bool]], change: Change) -> list[bool | None]:
    """Return `CaptionCheck.holds` of each check, with the new view and whether the caption was fresh before."""
    return [check.holds(view, fresh, change) for check, view, fresh in cases]


def cosine_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return 1 - cosine of two embeddings [D], 0 to 2; 0 if one is zero, as the embedding of a vanished mask."""
    length = math.sqrt(float(a @ a) * float(b @ b))  # np.linalg.norm takes three times as long
    return 1.0 - float(a @ b) / length if length else 0.0


def scaled_box(box: tuple[int, int, int, int], across: float, down: float) -> tuple[int, int, int, int]:
    """Return a box x, y, width, height in pixels of an image with another width and height, by their factors."""
    x, y, width, height = box
    return round(x * across), round(y * down), round(width * across), round(height * down)


def _alike(before: View, now: View, change: Change) -> bool:
    """Return whether an object looks as in the frame before."""
    distance = cosine_distance(now.appearance, before.appearance)
    return distance < _STILL * change.appearance and 1 / _STILL_AREA < now.area / max(1, before.area) < _STILL_AREA
