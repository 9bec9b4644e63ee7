"""What the robot knows of an object: plain data that the pipeline makes and everything else passes on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

UNKNOWN = "unknown"  # said instead of words that the model was not sure enough of


class State(str, Enum):
    """What the words about an object are worth."""

    PENDING = "pending"  # none yet: the object is new
    FRESH = "fresh"  # said of the object as it looks now
    STALE = "stale"  # said of it when it looked otherwise
    SKIPPED = "skipped"  # wanted in this frame, and left out of it


# As osprey_interfaces/ObjectDescription has them.
STATE_NUMBERS = {State.PENDING: 0, State.FRESH: 1, State.STALE: 2, State.SKIPPED: 3}


@dataclass(frozen=True)
class Attribute:
    """One typed property: its name ("colour"), its value ("red", or UNKNOWN), and how sure that is, 0 to 1."""

    name: str
    value: str
    confidence: float


@dataclass(frozen=True)
class Caption:
    """What was said about an object in one frame, whose stamp (nanoseconds) is ``described_at``.

    ``confidence`` is of the description, in 0..1, calibrated where the bundle says how. Words that were not sure enough
    are UNKNOWN.
    """

    category: str
    description: str
    confidence: float
    described_at: int
    attributes: tuple[Attribute, ...] = ()


@dataclass(frozen=True)
class SceneObject:
    """One object as it is known after a frame. Stamps are nanoseconds, of frames.

    Attributes:
        track_id: its own for as long as it is remembered, from 1 up.
        state, reason: what the words are worth; the reason is "" for FRESH ones.
        caption: the latest, also where it is stale; None before the first.
        first_seen, last_seen: frames with a region of it.
        visible: whether it has a region in the latest frame.
        instance_id, box, area: of its latest region; box is x, y, width, height in pixels.
        appearance: float32 [hidden], the mask token of its latest region.
        position, size: metres in the camera's optical frame at ``last_seen``, None without depth.
        label, score: what the segmentation said of the latest region; "" and 0 where it said nothing.
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

    @property
    def category(self) -> str:
        """The category that was said, "" where nothing was."""
        return self.caption.category if self.caption else ""

    @property
    def description(self) -> str:
        """The description that was said, "" where nothing was."""
        return self.caption.description if self.caption else ""
