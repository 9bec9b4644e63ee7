"""One step of the robot's perception: a frame in, its described objects out. Knows nothing of ROS.

A frame is numpy arrays and an integer stamp here; ``osprey_ros.ros.messages`` turns messages into these and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from osprey_ros.describer import Describer, Timing
from osprey_ros.errors import OspreyError
from osprey_ros.prompt import QUESTIONS
from osprey_ros.regions import NoRegionError, Regions, regions_from_id_image


class FrameError(OspreyError):
    """A frame whose parts do not belong together; the message names what differs and the remedy."""


@dataclass(frozen=True)
class Frame:
    """A picture and its segmentation, of one moment.

    ``stamp`` is in nanoseconds, ``rgb`` uint8 [H, W, 3], ``ids`` uint8, uint16 or int32 [H, W], 0 being background.
    """

    stamp: int
    frame_id: str
    rgb: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True)
class StepSettings:
    """What is said about which regions."""

    style: str = "short"  # a key of prompt.QUESTIONS
    categories: bool = True  # whether the category is asked for as well
    min_area: int = 50  # pixels; smaller regions are left out
    max_regions: int = 32  # the largest ones are taken
    max_new_tokens: int = 0  # tokens of one answer; 0: what suits the style


@dataclass(frozen=True)
class DescribedObject:
    """One region of a frame in words. ``box`` is x, y, width, height in pixels, ``described_at`` a frame's stamp."""

    instance_id: int
    box: tuple[int, int, int, int]
    area: int
    category: str
    description: str
    confidence: float
    described_at: int


@dataclass(frozen=True)
class StepResult:
    """The objects of a frame by rising instance id, and their regions; ``nothing`` says why there are none."""

    objects: tuple[DescribedObject, ...]
    regions: Regions | None
    timing: Timing | None
    nothing: str = ""


def describe_frame(describer: Describer, frame: Frame, settings: StepSettings) -> StepResult:
    """Describes the regions of a frame: all regions and both questions (category and style) in one decode.

    A segmentation without any region, or with none of ``min_area``, gives an empty result that says so. Raises
    FrameError for a segmentation of another size than the picture, RegionError for one that cannot be used.
    """
    height, width = frame.rgb.shape[:2]
    if frame.ids.shape != (height, width):
        raise FrameError(
            f"the segmentation is {frame.ids.shape[1]}x{frame.ids.shape[0]} pixels and the image {width}x{height}: "
            "publish both in the same size (scale the segmentation with nearest neighbour)"
        )
    try:
        regions = _regions(frame.ids, settings)
    except NoRegionError as error:
        return StepResult(objects=(), regions=None, timing=None, nothing=str(error))

    styles = [settings.style]
    if settings.categories and settings.style != "category":
        styles.append("category")
    describer.set_image(frame.rgb)
    results = describer.answer(regions, [QUESTIONS[s] for s in styles], max_new_tokens=settings.max_new_tokens or None)
    by_style = dict(zip(styles, results, strict=True))
    categories: Sequence[str] = (
        [d.text for d in by_style["category"]] if "category" in by_style else [""] * len(regions.ids)
    )
    objects = tuple(
        DescribedObject(
            instance_id=int(description.region_id),
            box=(int(box[0]), int(box[1]), int(box[2]), int(box[3])),
            area=int(area),
            category=category,
            description=description.text,
            confidence=float(description.confidence),
            described_at=frame.stamp,
        )
        for description, category, box, area in zip(
            by_style[settings.style], categories, regions.boxes, regions.areas, strict=True
        )
    )
    return StepResult(objects=objects, regions=regions, timing=results[0].timing)


def _regions(ids: np.ndarray, settings: StepSettings) -> Regions:
    """The regions to describe, by rising id: those of ``min_area``, the largest where there are too many."""
    regions = regions_from_id_image(ids, min_area=settings.min_area)
    if len(regions) <= settings.max_regions:
        return regions
    largest = np.argsort(-regions.areas, kind="stable")[: settings.max_regions]
    return regions.select(regions.ids[np.sort(largest)])
