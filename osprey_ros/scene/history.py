"""The latest frames, for questions about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osprey_ros.regions.regions import Regions
from osprey_ros.results import EncodedRegions


@dataclass(frozen=True)
class ObservedFrame:
    """A frame that was processed, with its encoded regions.

    Attributes:
        stamp: of the image, in nanoseconds.
        frame_id: the camera's optical frame.
        regions: the regions that were encoded.
        encoded: their tokens, in the same order.
        track_ids: int64 [N], the object that each region belongs to; 0 where the object was forgotten since.
        rgb: uint8 [H, W, 3].
    """

    stamp: int
    frame_id: str
    regions: Regions
    encoded: EncodedRegions
    track_ids: np.ndarray
    rgb: np.ndarray
