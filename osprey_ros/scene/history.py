"""The latest frames, for questions about them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from osprey_ros.regions.regions import Regions
from osprey_ros.results import EncodedRegions
from osprey_ros.scene.scene import Scene


@dataclass(frozen=True, eq=False)
class ObservedFrame:
    """A frame that was processed, with its N encoded regions.

    Attributes:
        stamp: Of the image, in nanoseconds.
        frame_id: The camera's optical frame.
        regions: The regions that were encoded.
        encoded: Their tokens, in the same order.
        rgb: uint8 [H, W, 3].
        assigned_ids: int64 [N], the track id of each region when the frame was processed.
        scene: The scene that has these objects; None if it is not that of later frames.
    """

    stamp: int
    frame_id: str
    regions: Regions
    encoded: EncodedRegions
    rgb: np.ndarray = field(repr=False)
    assigned_ids: np.ndarray
    scene: Scene | None

    @property
    def track_ids(self) -> np.ndarray:
        """int64 [N], the object that each region belongs to by now; 0 if it was forgotten."""
        return np.zeros_like(self.assigned_ids) if self.scene is None else self.scene.current_ids(self.assigned_ids)
