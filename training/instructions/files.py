"""Writes the five files of Osprey-724K, and one COCO file of the same regions, in the formats of the readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from osprey_ros.files import write_file
from osprey_ros.strict_json import to_json
from training.instructions.facts import KnownImage, KnownRegion
from training.instructions.templates import Pair

DESCRIPTION, CONVERSATION, SHORT_FORM, PART_LEVEL, POSITIVE_NEGATIVE, MASKS = KINDS = (
    "detail_description",
    "conversations",
    "short_form",
    "part_level",
    "lvis_positive_negative",
    "masks",
)

FILES: dict[str, str] = {kind: f"osprey_{kind}.json" for kind in KINDS[:-1]} | {MASKS: "masks.json"}


def talk_entry(known_image: KnownImage, regions: Sequence[KnownRegion], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return a record of questions and answers about regions."""
    turns = []
    for question, answer in pairs:
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {**_head(known_image, regions), "conversations": turns}


def description_entry(known_image: KnownImage, regions: Sequence[KnownRegion], texts: Sequence[str]) -> dict[str, Any]:
    """Return a record of one description a region."""
    described = [f"<region{number}>: {text}" for number, text in enumerate(texts, 1)]
    return {**_head(known_image, regions), "description": described}


def masks_file(known: Sequence[KnownImage]) -> dict[str, Any]:
    """Return all regions in COCO's layout with what is known of them, for the reader `own_masks`."""
    names = sorted({region.category for known_image in known for region in known_image.regions if region.category})
    numbers = {name: number for number, name in enumerate(names, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, known_image in enumerate(known, 1):
        size = {"height": known_image.height, "width": known_image.width}
        images.append({"id": image_id, "file_name": known_image.file_name, **size})
        for region in known_image.regions:
            if not region.category:
                continue
            number = len(annotations) + 1
            ids = {"id": number, "image_id": image_id, "category_id": numbers[region.category]}
            annotation: dict[str, Any] = {**ids, **_annotation(region)}
            if region.captions:
                annotation["caption"] = region.captions[0]
            if region.detailed:
                annotation["description"] = region.detailed
            if region.color:
                annotation["attributes"] = {"color": region.color}
            annotations.append(annotation)
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_files(folder: Path, contents: Mapping[str, Any]) -> None:
    """Write the content of each kind under its name in FILES; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, content in contents.items():
        write_file(folder / FILES[kind], to_json(content, ensure_ascii=False) + "\n")


def _head(known_image: KnownImage, regions: Sequence[KnownRegion]) -> dict[str, Any]:
    size = {"height": known_image.height, "width": known_image.width}
    return {"file_name": known_image.file_name, **size, "annotation": [_annotation(region) for region in regions]}


def _annotation(region: KnownRegion) -> dict[str, Any]:
    return {"segmentation": region.mask.data, "bbox": list(region.box), "area": region.area, "iscrowd": 0}
