"""Collects the facts about regions, from data sets or from the simulator, for the instructions.

Only records about one region at a time contribute facts; conversations do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.strict_json import to_json
from osprey_ros.vision.image_io import save_image
from osprey_sim.dialogues import COLOR_QUESTION, region_facts
from osprey_sim.render import render_scenes
from osprey_sim.words import visible_objects
from osprey_torch.readers.coco import PART_QUESTION, REFERRING_QUESTION, REFERRING_QUESTION_WITHOUT_PLACE
from osprey_torch.readers.records import Record, Skipped
from osprey_torch.readers.segmentation import Segmentation

WIDTH, HEIGHT = 640, 480  # of simulated images
_LEAST_PART = 60  # visible pixels of a part at that size

_CAPTIONS = (QUESTIONS["short"], REFERRING_QUESTION, REFERRING_QUESTION_WITHOUT_PLACE)


@dataclass(frozen=True)
class KnownRegion:
    """One region and its facts; "" and () if unknown.

    Attributes:
        parts: names of an object's parts, None if they are unknown, so that none can be denied.
        part_of: the object of a part; "" for objects.
    """

    mask: Segmentation
    category: str = ""
    captions: tuple[str, ...] = ()
    detailed: str = ""
    color: str = ""
    parts: tuple[str, ...] | None = None
    part_of: str = ""

    @property
    def described(self) -> bool:
        """Whether a category, a caption or a description is known."""
        return bool(self.category or self.captions or self.detailed)

    @cached_property
    def _encoded(self) -> dict[str, Any]:
        encoded = coco_masks.encode(np.asfortranarray(self.mask.decode().astype(np.uint8)))
        return {"size": [self.mask.height, self.mask.width], "counts": encoded["counts"]}

    @property
    def area(self) -> int:
        """Pixels."""
        return int(coco_masks.area(self._encoded))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x, y, width, height in pixels."""
        x, y, width, height = (float(v) for v in coco_masks.toBbox(self._encoded))
        return x, y, width, height


@dataclass(frozen=True)
class KnownImage:
    """One image, its file below the folder of images, and its regions."""

    file_name: str
    height: int
    width: int
    regions: tuple[KnownRegion, ...]

    @property
    def objects(self) -> tuple[KnownRegion, ...]:
        return tuple(region for region in self.regions if not region.part_of)

    @property
    def parts(self) -> tuple[KnownRegion, ...]:
        return tuple(region for region in self.regions if region.part_of)


def images_from_records(records: Iterable[Record], images: Path, skipped: Skipped) -> list[KnownImage]:
    """Gather what the records of each image say: an image may come many times, and so may one of its masks.

    Images whose records say nothing of single regions, and masks without a pixel, are left out and counted.
    """
    by_name: dict[str, dict[str, KnownRegion]] = {}
    for record in records:
        name = record.image.relative_to(images).as_posix() if record.image.is_relative_to(images) else str(record.image)
        regions = by_name.setdefault(name, {})
        for turns in record.dialogues:
            if len(turns) == 1 and len(turns[0].regions) == 1:
                mask = record.masks[turns[0].regions[0]]
                key = to_json(mask.data)
                regions[key] = _learned(regions.get(key) or KnownRegion(mask), turns[0].question, turns[0].answer)
    known = []
    for name, gathered in by_name.items():
        for region in gathered.values():
            if not region.area:
                skipped.leave_out("a mask has no pixel inside its image")
        useful = tuple(region for region in gathered.values() if region.described and region.area > 0)
        if not useful:
            skipped.leave_out("nothing is known of a single region of an image")
        else:
            known.append(KnownImage(name, useful[0].mask.height, useful[0].mask.width, useful))
    return known


def images_from_scenes(count: int, split: str, folder: Path, first: int = 0) -> Iterator[KnownImage]:
    """Render scenes `first` .. first+count-1 of a split into `folder` as PNG files. Yield the facts about each."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene, frame in render_scenes(split, range(first, first + count), (WIDTH, HEIGHT)):
        name = f"{split}{scene.seed:06d}.png"
        save_image(folder / name, frame.rgb)
        seen = {obj.instance_id: obj for obj in visible_objects(scene, frame)}
        regions = []
        for facts in region_facts(scene, frame):
            owner = facts.id if facts.kind == "object" else frame.parts[facts.id][0]
            if owner not in seen or (facts.kind == "part" and facts.area < _LEAST_PART):
                continue
            ids = frame.instance_ids if facts.kind == "object" else frame.part_ids
            regions.append(
                KnownRegion(
                    mask=segmentation_of(ids == facts.id),
                    category=facts.category,
                    captions=(facts.short,),
                    detailed=facts.detailed,
                    color=facts.color,
                    parts=facts.parts if facts.kind == "object" else None,
                    part_of="" if facts.kind == "object" else seen[owner].category,
                )
            )
        if regions:
            yield KnownImage(name, HEIGHT, WIDTH, tuple(regions))


def segmentation_of(mask: np.ndarray) -> Segmentation:
    """Return a mask bool [H, W] as compressed run lengths, which JSON can hold."""
    encoded = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    height, width = mask.shape
    return Segmentation({"size": [height, width], "counts": encoded["counts"].decode()}, height, width)


def vocabulary(known: Iterable[KnownImage]) -> tuple[str, ...]:
    """Return every category of an object that occurs, sorted."""
    return tuple(
        sorted({region.category for known_image in known for region in known_image.objects if region.category})
    )


def named_in(text: str, names: Iterable[str]) -> set[str]:
    """Return which names stand in a text, in singular or plural."""
    lowered = text.lower()
    return {name for name in names if re.search(rf"\b{re.escape(name.lower())}(?:s|es)?\b", lowered)}


def _learned(region: KnownRegion, question: str, answer: str) -> KnownRegion:
    if question == QUESTIONS["category"]:
        return replace(region, category=answer)
    if question == PART_QUESTION:
        part, _, whole = answer.partition(" of ")
        return replace(region, category=part, part_of=re.sub(r"^an? ", "", whole))
    if question in _CAPTIONS:
        return replace(region, captions=tuple(dict.fromkeys((*region.captions, answer))))
    if question == QUESTIONS["detailed"]:
        return replace(region, detailed=answer)
    if question == COLOR_QUESTION:
        return replace(region, color=answer)
    return region
