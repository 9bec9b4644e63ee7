"""What the tracker keeps of a track while it lives, and all tracks side by side in arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from osprey_ros.scene import association

_CARRIED_ON = 5  # missed frames over which an object is supposed to go on as before


@dataclass
class LiveTrack:
    """A track while it lives. ``number`` is the update in which it was seen last, ``born`` the one it began in."""

    looks: np.ndarray  # float32 [D], mean of what was seen of it lately, larger views for more
    latest: np.ndarray  # [D], its latest region's
    area: float
    box: np.ndarray  # float64 [4], in the latest picture, also where it is not seen there
    position: np.ndarray  # float64 [3] in the map, nan where unknown
    last_seen: int
    number: int
    born: int
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))  # pixels a frame, beyond the camera's motion


class TrackArrays:
    """All tracks side by side."""

    def __init__(self, tracks: dict[int, LiveTrack], update: int) -> None:
        self._tracks = list(tracks.values())
        self.ids = np.array(list(tracks), np.int64)
        self.looks = np.stack([track.looks for track in self._tracks])
        self.latest = np.stack([track.latest for track in self._tracks])
        self.boxes = np.stack([track.box for track in self._tracks])
        self.positions = np.stack([track.position for track in self._tracks])
        self.velocities = np.stack([track.velocity for track in self._tracks])
        self.numbers = np.array([track.number for track in self._tracks])
        self.born = np.array([track.born for track in self._tracks])
        self.missed = update - self.numbers - 1

    def move(self, matrix: np.ndarray) -> None:
        """Carries the boxes of all tracks on with the picture."""
        self.boxes = association.moved_boxes(self.boxes, matrix)
        for track, box in zip(self._tracks, self.boxes, strict=True):
            track.box = box

    def nearness(self, boxes: np.ndarray) -> np.ndarray:
        """As `association.box_nearness`, of tracks that stood still or went on as before, whichever is nearer."""
        moved = self.boxes.copy()
        moved[:, :2] += self.velocities * np.minimum(self.missed + 1, _CARRIED_ON)[:, None]
        return np.maximum(association.box_nearness(self.boxes, boxes), association.box_nearness(moved, boxes))
