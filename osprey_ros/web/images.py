"""The images that are open in the page, with their regions and words. They are kept in memory only, and bounded."""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from osprey_ros.errors import InputError, OspreyError
from osprey_ros.regions.masks import MaskCrop, mask_from_rle, rle_from_mask
from osprey_ros.regions.regions import Regions, regions_from_crops
from osprey_ros.results import Description
from osprey_ros.segmenter.segmenter import Segments
from osprey_ros.web.limits import Limits

CLICK, BOX, EVERYTHING = "click", "box", "everything"  # what a region was found by
_OUTLINE_DETAIL = 1000  # an outline deviates from its mask by at most the longer side of the image divided by this
_ENLARGED, _LARGE = 4, 250_000  # how much masks are enlarged for it, and the pixels from which they are not


class MissingError(OspreyError):
    """An image, a region or a sample that the server does not have."""


@dataclass(frozen=True)
class FoundRegion:
    """A region of an image.

    Attributes:
        id: Number of the region in its image, from 1 up.
        source: CLICK, BOX or EVERYTHING.
        counts: uint32 [n], run lengths of its mask inside the box.
        box: x, y, width, height in pixels.
        area: Number of its pixels.
        score: Predicted IoU of its mask.
        outline: Path data of SVG, in pixels of the image; edges lie between pixels.
        words: Its description by each bundle, by name.
    """

    id: int
    source: str
    counts: np.ndarray
    box: tuple[int, int, int, int]
    area: int
    score: float
    outline: str
    words: Mapping[str, Description] = field(default_factory=dict)


@dataclass(frozen=True)
class AskedQuestion:
    """A question with its answers by each bundle, by name. ``region``: its id; None: the whole image."""

    question: str
    region: int | None
    words: Mapping[str, Description]


class OpenImage:
    """An image with its regions and the questions about it. The event loop's thread owns it; `rgb` never changes.

    Args:
        name: File name of the image.
        rgb: uint8 [H, W, 3].
        limits: Bounds of its regions and questions.

    Attributes:
        id: Hard to guess, so that only those who opened an image find it.
        regions: By id, in the order in which they were found.
        asked: The latest questions.
    """

    def __init__(self, name: str, rgb: np.ndarray, limits: Limits) -> None:
        self.id, self.name, self.rgb = secrets.token_urlsafe(12), name, rgb
        self.regions: dict[int, FoundRegion] = {}
        self.asked: deque[AskedQuestion] = deque(maxlen=limits.answers)
        self._most, self._last = limits.regions, 0

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]

    def room(self, source: str) -> int:
        """Return how many more regions found by ``source`` fit. Everything takes the place of an earlier everything.

        Raises InputError if none fits.
        """
        kept = sum(region.source != EVERYTHING or source != EVERYTHING for region in self.regions.values())
        if kept >= self._most:
            raise InputError(f"the image has {kept} regions, which is the most; remove some")
        return self._most - kept

    def add(self, found: Sequence[FoundRegion]) -> list[int]:
        """Add regions, which get new ids, and return the ids. Everything takes the place of an earlier everything."""
        if any(region.source == EVERYTHING for region in found):
            self.regions = {n: region for n, region in self.regions.items() if region.source != EVERYTHING}
        ids = []
        for region in found[: max(0, self._most - len(self.regions))]:
            self._last += 1
            self.regions[self._last] = replace(region, id=self._last)
            ids.append(self._last)
        return ids

    def region(self, number: int) -> FoundRegion:
        """Return a region. Raises MissingError if there is none of this number."""
        if number not in self.regions:
            raise MissingError(f"the image has no region {number}; it was removed")
        return self.regions[number]

    def describe(self, words: Mapping[int, Mapping[str, Description]]) -> None:
        """Set the words of regions, by id. Regions that were removed meanwhile are passed over."""
        for number, described in words.items():
            if number in self.regions:
                self.regions[number] = replace(self.regions[number], words=described)


class OpenImages:
    """The images that are open, the one that was used last at the end."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._images: OrderedDict[str, OpenImage] = OrderedDict()

    def add(self, name: str, rgb: np.ndarray) -> OpenImage:
        """Open an image, uint8 [H, W, 3], and drop those that no longer fit."""
        image = OpenImage(name, rgb, self._limits)
        self._images[image.id] = image
        while len(self._images) > 1 and not self._fits():
            self._images.popitem(last=False)
        return image

    def get(self, identifier: str) -> OpenImage:
        """Return an image. Raises MissingError if it was dropped or never opened."""
        if identifier not in self._images:
            raise MissingError(
                f"the image is no longer open; the server keeps the latest {self._limits.images}: open it again"
            )
        self._images.move_to_end(identifier)
        return self._images[identifier]

    def remove(self, identifier: str) -> None:
        """Forget an image. Raises MissingError as `get` does."""
        self.get(identifier)
        del self._images[identifier]

    def _fits(self) -> bool:
        size = sum(image.rgb.nbytes for image in self._images.values())
        return len(self._images) <= self._limits.images and size <= self._limits.image_bytes


def found_regions(
    segments: Segments, source: str, words: Sequence[Mapping[str, Description]], shape: tuple[int, int]
) -> list[FoundRegion]:
    """Return the regions of a segmenter with their words, [N], as an image keeps them. Their ids are still 0."""
    found = []
    for row in range(len(segments)):
        x, y, width, height = (int(value) for value in segments.boxes[row])
        mask = segments.crop(row)
        found.append(
            FoundRegion(
                id=0,
                source=source,
                counts=rle_from_mask(mask),
                box=(x, y, width, height),
                area=int(segments.areas[row]),
                score=float(segments.scores[row]),
                outline=_outline(mask, x, y, max(shape) / _OUTLINE_DETAIL),
                words=words[row],
            )
        )
    return found


def as_regions_of(found: Sequence[FoundRegion], shape: tuple[int, int]) -> Regions:
    """Return regions of an image of ``shape`` (height, width) for the describer."""
    crops = []
    for region in found:
        x, y, width, height = region.box
        inside = mask_from_rle(region.counts, height, width)
        crops.append(MaskCrop(x + inside.left, y + inside.top, inside.mask))
    return regions_from_crops(crops, [region.id for region in found], *shape)


def _outline(mask: np.ndarray, left: int, top: int, tolerance: float) -> str:
    """Return the outlines of a mask, bool [h, w], as path data of SVG; those of holes, too.

    OpenCV's outlines run through the centers of pixels. Small masks are enlarged, so that they are nearer to the edges
    and the outline of a thin mask has an area.
    """
    scale = _ENLARGED if mask.size < _LARGE else 1
    large = np.pad(np.kron(mask, np.ones((scale, scale), np.bool_)), 1).view(np.uint8)
    contours, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parts = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, scale * tolerance, True).reshape(-1, 2)
        if len(points) > 2:
            corners = (points - 0.5) / scale + (left, top)
            parts.append("M" + " ".join(f"{x:g} {y:g}" for x, y in corners) + "Z")
    return "".join(parts)
