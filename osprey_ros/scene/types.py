"""Objects, their captions and detections: plain data that the scene returns and everything above it reads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from osprey_ros.kinds.back_off import KindProbability
from osprey_ros.scene.pose import ObjectPose

UNKNOWN = "unknown"  # in place of an answer that the model was not confident of


class State(str, Enum):
    """Status of an object's caption."""

    PENDING = "pending"  # the object has no caption yet
    FRESH = "fresh"  # the caption describes the object as it looks now
    STALE = "stale"  # the object changed since it was described
    SKIPPED = "skipped"  # the object needed a caption in the latest frame and did not get one


# As in osprey_interfaces/ObjectDescription.
STATE_NUMBERS = {State.PENDING: 0, State.FRESH: 1, State.STALE: 2, State.SKIPPED: 3}


@dataclass(frozen=True)
class Attribute:
    """One property of an object.

    Attributes:
        name: Such as "color".
        value: Such as "red", or UNKNOWN.
        confidence: 0 to 1.
    """

    name: str
    value: str
    confidence: float


@dataclass(frozen=True)
class Caption:
    """Words about an object.

    Attributes:
        category: Such as "mug"; "" if it was not asked for. UNKNOWN if the model was not confident of it.
        description: The description, or UNKNOWN.
        confidence: Of the description, 0 to 1, calibrated if the bundle has a calibration.
        described_at: Stamp in nanoseconds of the image that was described.
        attributes: The attributes that were asked for.
        raw_confidence: Of the description before calibration, 0 to 1.
        reason: Why nothing can be said about the object, "" otherwise.
        kinds: Of a category from a tree of kinds: from the most likely kind up to the root, with the probability of
            each. The category is one of them.
        unlike_training: How unlike the object is to everything in the training data of the model, 0 to 1.
    """

    category: str
    description: str
    confidence: float
    described_at: int
    attributes: tuple[Attribute, ...] = ()
    raw_confidence: float = 0.0
    reason: str = ""
    kinds: tuple[KindProbability, ...] = ()
    unlike_training: float = 0.0


@dataclass(frozen=True)
class Detection:
    """One region of a frame. The fields are those of `SceneObject`."""

    instance_id: int
    box: tuple[int, int, int, int]
    area: int
    appearance: np.ndarray
    position: tuple[float, float, float] | None = None
    size: tuple[float, float, float] | None = None
    label: str = ""
    score: float = 0.0
    pose: ObjectPose | None = None


@dataclass(frozen=True)
class SceneObject:
    """One object of the scene after a frame. Stamps are those of frames, in nanoseconds.

    Attributes:
        track_id: Identity of the object, from 1 up. It stays the same while the scene remembers the object.
        state: Status of the caption.
        reason: Why the caption is not FRESH. If it is FRESH, why nothing can be said about the object, or "".
        caption: The latest caption, also if it is stale. None before the first one.
        first_seen, last_seen: Stamps of the first and the latest frame with a region of the object.
        visible: Whether the latest frame has a region of the object.
        instance_id: Number of the latest region in the segmentation.
        box: Bounding box of the latest region as x, y, width, height in pixels.
        area: Pixels of the latest region.
        appearance: float32 [hidden size], the mask token of the latest region.
        position, size: Meters in the camera's optical frame at ``last_seen``. None without depth.
        label, score: Class of the latest region from the segmentation; "" and 0 if it gave none.
        pose: In the fixed frame, from all views so far. None without a fixed frame or depth.
    """

    track_id: int
    state: State
    reason: str
    caption: Caption | None
    first_seen: int
    last_seen: int
    visible: bool
    instance_id: int
    box: tuple[int, int, int, int]
    area: int
    appearance: np.ndarray
    position: tuple[float, float, float] | None = None
    size: tuple[float, float, float] | None = None
    label: str = ""
    score: float = 0.0
    pose: ObjectPose | None = None

    @property
    def category(self) -> str:
        """The category of the caption, "" without one."""
        return self.caption.category if self.caption else ""

    @property
    def description(self) -> str:
        """The description of the caption, "" without one."""
        return self.caption.description if self.caption else ""


@dataclass(frozen=True)
class Snapshot:
    """All objects after a frame.

    Attributes:
        stamp: Of the frame, in nanoseconds; 0 before the first.
        frame_id: The camera's optical frame.
        objects: By ascending track id.
    """

    stamp: int
    frame_id: str
    objects: tuple[SceneObject, ...]
