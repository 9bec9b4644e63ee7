"""State of an object that the tracker compares with detections, and the same state of many objects as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from osprey_ros.scene.types import Detection

_EMBEDDING_RATE, _AREA_RATE, _POSITION_RATE = 0.2, 0.1, 0.3  # weight of the newest value in running means


def _unknown() -> np.ndarray:
    return np.full(3, np.nan)


@dataclass
class Track:
    """Appearance and place of an object over time.

    Attributes:
        embedding: float32 [D], running mean of the mask tokens. Larger views have more weight. Zero if it is unknown.
        last_embedding: float32 [D], mask token of the latest region. Zero if it is unknown.
        area: Running mean of the region's pixels.
        box: float64 [4], x, y, width, height in pixels of the latest image, which may not show the object.
        last_frame, start_frame: Numbers of the latest and the first frame with a region of the object.
        position: float64 [3], meters in the map; nan if unknown.
        velocity: float64 [2], pixels a frame, in addition to the camera motion.
    """

    embedding: np.ndarray
    last_embedding: np.ndarray
    area: float
    box: np.ndarray
    last_frame: int
    start_frame: int
    position: np.ndarray = field(default_factory=_unknown)
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))

    @classmethod
    def begin(cls, detection: Detection, frame: int, position: np.ndarray) -> Track:
        """Return the track of an object that was first detected in a frame. ``position``: as for `add`."""
        embedding, box = np.asarray(detection.appearance, np.float32), np.array(detection.box, np.float64)
        return cls(embedding.copy(), embedding, float(detection.area), box, frame, frame, position.copy())

    def add(self, detection: Detection, frame: int, position: np.ndarray) -> None:
        """Add a detection in a frame. ``position``, float64 [3], is in the map; nan if unknown."""
        embedding, box = np.asarray(detection.appearance, np.float32), np.array(detection.box, np.float64)
        # A small part of an object, behind another one or at the border of the image, says less of its appearance.
        share = min(1.0, detection.area / max(self.area, 1.0))
        rate = np.float32(_EMBEDDING_RATE * share if self.last_embedding.any() else 1.0)
        self.embedding = self.embedding + rate * (embedding - self.embedding)
        self.last_embedding = embedding
        self.area += _AREA_RATE * (detection.area - self.area)
        in_previous_frame = self.last_frame == frame - 1
        moved = box[:2] + box[2:] / 2 - (self.box[:2] + self.box[2:] / 2)  # of the center
        self.velocity = (self.velocity + moved) / 2 if in_previous_frame else np.zeros(2)
        if not np.isnan(position).any():
            known = in_previous_frame and not np.isnan(self.position).any()
            self.position = self.position + _POSITION_RATE * (position - self.position) if known else position.copy()
        self.box, self.last_frame = box, frame

    def set_embedding(self, embedding: np.ndarray) -> None:
        """Replace the appearance by that of another model, float32 [D]; zero if it is unknown."""
        self.embedding, self.last_embedding = embedding.copy(), embedding.copy()

    def scale(self, across: float, down: float) -> None:
        """Convert pixels to those of an image with another width and height; the arguments are the factors."""
        self.box = self.box * (across, down, across, down)
        self.velocity = self.velocity * (across, down)
        self.area *= across * down


class TrackArrays:
    """The state of T tracks as arrays.

    Attributes:
        ids: int64 [T].
        missed: int [T], frames since the latest one with the object, not counting the current one.
    """

    def __init__(self, tracks: Mapping[int, Track], frame: int) -> None:
        values = list(tracks.values())
        self.ids = np.array(list(tracks), np.int64)
        self.embeddings = np.stack([track.embedding for track in values])
        self.last_embeddings = np.stack([track.last_embedding for track in values])
        self.boxes = np.stack([track.box for track in values])
        self.positions = np.stack([track.position for track in values])
        self.velocities = np.stack([track.velocity for track in values])
        self.last_frames = np.array([track.last_frame for track in values])
        self.start_frames = np.array([track.start_frame for track in values])
        self.missed = frame - self.last_frames - 1


def add_detections(
    tracks: Sequence[Track | None], detections: Sequence[Detection], frame: int, positions: np.ndarray | None
) -> list[Track]:
    """Add a detection in a frame to each track, and begin one where there is none. Return all of them.

    ``positions``, float64 [N, 3], are in the map; nan or None if unknown.
    """
    if positions is None:
        positions = np.full((len(tracks), 3), np.nan)
    added = []
    for track, detection, position in zip(tracks, detections, positions, strict=True):
        if track is None:
            track = Track.begin(detection, frame, position)
        else:
            track.add(detection, frame, position)
        added.append(track)
    return added
