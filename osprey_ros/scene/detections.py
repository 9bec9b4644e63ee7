"""The regions of one frame as the tracker and the scene take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from osprey_ros.frame import RegionLabel
from osprey_ros.regions.geometry import Extent
from osprey_ros.regions.regions import Regions
from osprey_ros.scene.pose import ObjectPose
from osprey_ros.scene.types import Detection

_NO_LABEL = RegionLabel("", 0.0)


@dataclass(frozen=True)
class Detections:
    """N regions with what is known of them.

    Attributes:
        regions: The regions, in the order of the other fields.
        embeddings: float32 [N, D], the mask tokens.
        extents: Position and size of each region, None if unknown. Empty without depth.
        labels: Classes from the segmentation by region id.
        fixed_frame: The frame of the poses, "" for none.
        poses: Pose of each region in the fixed frame, None if unknown. Empty without a fixed frame.
    """

    regions: Regions
    embeddings: np.ndarray
    extents: Sequence[Extent | None] = ()
    labels: Mapping[int, RegionLabel] = field(default_factory=dict)
    fixed_frame: str = ""
    poses: Sequence[ObjectPose | None] = ()

    def __len__(self) -> int:
        return len(self.regions.ids)

    def __iter__(self) -> Iterator[Detection]:
        """Yield the regions one by one, each with memory of its own."""
        for row, extent in enumerate(self.extents or [None] * len(self)):
            x, y, width, height = (int(v) for v in self.regions.boxes[row])
            instance_id = int(self.regions.ids[row])
            label = self.labels.get(instance_id, _NO_LABEL)
            yield Detection(
                instance_id=instance_id,
                box=(x, y, width, height),
                area=int(self.regions.areas[row]),
                appearance=self.embeddings[row].copy(),  # a view would keep the tokens of all regions alive
                position=extent.position if extent else None,
                size=extent.size if extent else None,
                pose=self.poses[row] if self.poses else None,
                label=label.label,
                score=label.score,
            )

    @property
    def fixed_positions(self) -> np.ndarray | None:
        """float64 [N, 3], meters in the fixed frame, nan if unknown. None without a fixed frame."""
        if not self.fixed_frame:
            return None
        unknown = (np.nan, np.nan, np.nan)
        rows = [pose.position if pose else unknown for pose in self.poses or [None] * len(self)]
        return np.array(rows, dtype=np.float64).reshape(-1, 3)

    @property
    def positions(self) -> np.ndarray | None:
        """float64 [N, 3], meters in the camera's optical frame, nan if unknown. None if all are unknown."""
        if not any(self.extents):
            return None
        unknown = (np.nan, np.nan, np.nan)
        return np.array([extent.position if extent else unknown for extent in self.extents], dtype=np.float64)
