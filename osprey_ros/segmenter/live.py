"""A segmenter on the images of a camera: ids that stay with their objects, and objects that were clicked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from osprey_ros.errors import InputError
from osprey_ros.regions.masks import MaskCrop
from osprey_ros.regions.regions import Regions, regions_from_crops
from osprey_ros.segmenter.clicked import ClickedObjects, without_copies
from osprey_ros.segmenter.segmenter import Segmenter
from osprey_ros.segmenter.stable_ids import StableIds, crops_of
from osprey_ros.system.cancellation import CancellationToken

Box = tuple[int, int, int, int]  # x, y, width, height in pixels


class LiveSegmenter:
    """Segments one image of a camera after another. Use it from one thread at a time.

    All methods raise as those of `Segmenter` do.

    Args:
        segmenter: The segmenter.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.restart()

    def restart(self, first_id: int = 1) -> None:
        """Forget all objects. New ids begin with ``first_id``."""
        self._ids, self._clicked = StableIds(first_id), ClickedObjects()
        self._stamp = 0  # of the image that is set
        self._rgb = np.zeros((0, 0, 3), np.uint8)

    def set_image(self, stamp: int, rgb: np.ndarray, cancel: CancellationToken | None = None) -> None:
        """Set the image, uint8 [H, W, 3], of the following calls. One with the same stamp is not encoded again."""
        if stamp == self._stamp:
            return
        self._stamp = 0
        self.segmenter.set_image(rgb, cancel=cancel)
        if rgb.shape != self._rgb.shape:
            self._clicked.clear()  # their masks are of another camera
        self._stamp, self._rgb = stamp, rgb

    def everything(self, cancel: CancellationToken | None = None) -> Regions:
        """Return all regions of the image, with ids that stay with their objects."""
        known = self._ids.update(self.segmenter.segment_everything(cancel=cancel))
        return self._with_clicked(crops_of(known), known.ids.tolist(), cancel)

    def detections(self, boxes: Regions, cancel: CancellationToken | None = None) -> Regions:
        """Return the regions in the boxes of regions, with their ids."""
        if not len(boxes):
            return self.clicked(cancel)
        found = self.segmenter.segment(boxes=boxes.boxes, cancel=cancel)
        return self._with_clicked(crops_of(found), [int(boxes.ids[number - 1]) for number in found.ids], cancel)

    def clicked(self, cancel: CancellationToken | None = None) -> Regions:
        """Return the objects that were clicked, in the image."""
        return self._with_clicked([], [], cancel)

    def click(
        self,
        points: Sequence[tuple[float, float]],
        boxes: Sequence[Box] = (),
        cancel: CancellationToken | None = None,
    ) -> list[tuple[int, MaskCrop]]:
        """Segment the objects at points and in boxes, and follow them from now on. Return the id and mask of each.

        Raises InputError if there is no point and no box, and where nothing is found.
        """
        masks: list[MaskCrop] = []
        for point in points:
            masks += _only(self.segmenter.segment(points=[point], cancel=cancel), f"({point[0]:g}, {point[1]:g})")
        for box in boxes:
            masks += _only(self.segmenter.segment(boxes=box, cancel=cancel), f"the box {box}")
        if not masks:
            raise InputError("the request is empty; set points or regions")
        return [(self._clicked.add(mask, self._rgb, self._ids.new_id), mask) for mask in masks]

    def _with_clicked(self, crops: list[MaskCrop], ids: list[int], cancel: CancellationToken | None) -> Regions:
        """Return masks, and clicked objects in place of masks of the same object or with the same id."""
        clicked = self._clicked.find(self.segmenter, self._rgb, cancel)
        others = [n for n in without_copies(crops, clicked.values()) if ids[n] not in clicked]
        crops, ids = [crops[n] for n in others], [ids[n] for n in others]
        return regions_from_crops([*crops, *clicked.values()], [*ids, *clicked], *self.segmenter.image_shape)


def _only(regions: Regions, place: str) -> list[MaskCrop]:
    if not len(regions):
        raise InputError(f"nothing was found at {place}; click inside an object")
    return crops_of(regions)
