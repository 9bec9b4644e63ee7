"""State of an object that the tracker compares with detections, and the same state of many objects as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from osprey_ros.scene import association
from osprey_ros.scene.types import Detection

_EMBEDDING_RATE, _AREA_RATE, _POSITION_RATE = 0.2, 0.1, 0.3  # weight of the newest value in running means
_EXTRAPOLATED_FRAMES = 5  # missed frames over which an object is assumed to keep its velocity


def _unknown() -> np.ndarray:
    return np.full(3, np.nan)


@dataclass
class Track:
    """Appearance and place of an object over time.

    Attributes:
        embedding: float32 [D], running mean of the mask tokens. Larger views have more weight.
        last_embedding: float32 [D], mask token of the latest region.
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
    def begin(cls, detection: Detection, frame: int, position: np.ndarray | None = None) -> Track:
        """Return the track of an object that was first detected in a frame, at a position in the map if it is known."""
        embedding = np.asarray(detection.appearance, np.float32)
        known = _unknown() if position is None else np.array(position, np.float64)
        box = np.array(detection.box, np.float64)
        return cls(embedding.copy(), embedding, float(detection.area), box, frame, frame, known)

    def add(self, detection: Detection, frame: int, position: np.ndarray) -> None:
        """Add a detection in a frame. ``position``, float64 [3], is in the map; nan if unknown."""
        embedding, box = np.asarray(detection.appearance, np.float32), np.array(detection.box, np.float64)
        # A small part of an object, behind another one or at the border of the image, says less of its appearance.
        share = min(1.0, detection.area / max(self.area, 1.0))
        self.embedding = self.embedding + np.float32(_EMBEDDING_RATE * share) * (embedding - self.embedding)
        self.last_embedding = embedding
        self.area += _AREA_RATE * (detection.area - self.area)
        in_previous_frame = self.last_frame == frame - 1
        moved = association.centers(box[None])[0] - association.centers(self.box[None])[0]
        self.velocity = (self.velocity + moved) / 2 if in_previous_frame else np.zeros(2)
        if not np.isnan(position).any():
            known = in_previous_frame and not np.isnan(self.position).any()
            self.position = self.position + _POSITION_RATE * (position - self.position) if known else position.copy()
        self.box, self.last_frame = box, frame

    def scale(self, across: float, down: float) -> None:
        """Convert pixels to those of an image with another width and height; the arguments are the factors."""
        self.box = self.box * (across, down, across, down)
        self.velocity = self.velocity * (across, down)
        self.area *= across * down


class TrackArrays:
    """The state of T tracks as arrays, with their boxes moved as the image moved.

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

    def move(self, matrix: np.ndarray) -> None:
        """Move the boxes as a similarity, float64 [2, 3], moves the image."""
        self.boxes = association.moved_boxes(self.boxes, matrix)

    def nearness(self, boxes: np.ndarray) -> np.ndarray:
        """Return `association.box_nearness` of all tracks and boxes [N, 4], as float64 [T, N].

        An object may have stopped or have kept its velocity: the nearer of both places counts.
        """
        extrapolated = self.boxes.copy()
        extrapolated[:, :2] += self.velocities * np.minimum(self.missed + 1, _EXTRAPOLATED_FRAMES)[:, None]
        result: np.ndarray = np.maximum(
            association.box_nearness(self.boxes, boxes), association.box_nearness(extrapolated, boxes)
        )
        return result
