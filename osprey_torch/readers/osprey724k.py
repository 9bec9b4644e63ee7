"""Osprey-724K: the five JSON files of object-level instructions published with the model (arXiv 2312.10032)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from osprey_ros.decoding.prompt import QUESTIONS, REGION_TEXT
from osprey_torch.readers.files import read_list
from osprey_torch.readers.records import Record, Skipped, Turn, each_record
from osprey_torch.readers.segmentation import Segmentation, with_area

# What the published training adds to questions whose answers are a word or two.
BRIEFLY = " Answer the question using a single word or phrase."

_TAG = re.compile(r"<region(\d+)>")
_SPLIT = re.compile(r"^COCO_[a-z]+\d{4}_")
_DESCRIPTION = re.compile(r"<region\d+>\s*:\s*(.+)", re.DOTALL)


def conversations(file: Path, images: Path, skipped: Skipped) -> Iterator[Record]:
    """Read `osprey_conversations.json`: several turns about the regions of an image, which the first turn lists."""
    return _listed(file, images, skipped, "")


def short_form(file: Path, images: Path, skipped: Skipped) -> Iterator[Record]:
    """Read `osprey_short_form.json`: turns with answers of a word or two."""
    return _listed(file, images, skipped, BRIEFLY)


def part_level(file: Path, images: Path, skipped: Skipped) -> Iterator[Record]:
    """Read `osprey_part_level.json`: categories and attributes of parts, in a word or two."""
    return _listed(file, images, skipped, BRIEFLY)


def detailed_descriptions(file: Path, images: Path, skipped: Skipped) -> Iterator[Record]:
    """Read `osprey_detail_description.json`: one long description of each region."""

    def read(entry: dict[str, Any], origin: str) -> Record | None:
        masks, places = _usable_masks(entry, origin, skipped)
        dialogues = []
        for number, text in enumerate(entry["description"]):
            if number in places and places[number] is None:
                continue
            found = _DESCRIPTION.match(text.strip())
            if found is None:
                raise ValueError(f"description {number} does not begin with its region: {text[:60]!r}")
            dialogues.append((Turn(QUESTIONS["detailed"], found.group(1).strip(), (_place(number, places),)),))
        return Record(_image(entry, images), masks, tuple(dialogues), origin) if dialogues else None

    return each_record(read_list(file), file, skipped, read)


def lvis_positive_negative(file: Path, images: Path, skipped: Skipped) -> Iterator[Record]:
    """Read `osprey_lvis_positive_negative.json`: whether a region is of a category, each question naming its region."""

    def read(entry: dict[str, Any], origin: str) -> Record | None:
        masks, places = _usable_masks(entry, origin, skipped)
        dialogues = []
        for question, answer in _pairs(entry):
            named = [int(number) - 1 for number in _TAG.findall(question)]
            if any(number in places and places[number] is None for number in named):
                continue
            regions = tuple(_place(number, places) for number in named)
            dialogues.append((Turn(_TAG.sub(REGION_TEXT, question), answer, regions),))
        # The names of this file carry a folder ("train2017/000000000009.jpg"): they are used as they are.
        return Record(images / entry["file_name"], masks, tuple(dialogues), origin) if dialogues else None

    return each_record(read_list(file), file, skipped, read)


def _listed(file: Path, images: Path, skipped: Skipped, limit: str) -> Iterator[Record]:
    def read(entry: dict[str, Any], origin: str) -> Record | None:
        masks = _masks(entry)
        turns = []
        for number, (question, answer) in enumerate(_pairs(entry)):
            # Tags become plain words: the tokens of every region stand in the first question only.
            question, answer = _TAG.sub(r"region\1", question) + limit, _TAG.sub(r"region\1", answer)
            first = number == 0
            turns.append(
                Turn(_overview(len(masks)) + question, answer, tuple(range(len(masks))))
                if first
                else Turn(question, answer)
            )
        return Record(_image(entry, images), masks, (tuple(turns),), origin) if turns else None

    return each_record(read_list(file), file, skipped, read)


def _overview(count: int) -> str:
    regions = ", ".join(f"region{number}{REGION_TEXT}" for number in range(1, count + 1))
    return f"There {'is 1 region' if count == 1 else f'are {count} regions'} in the picture: {regions}. "


def _pairs(entry: dict[str, Any]) -> list[tuple[str, str]]:
    turns = entry["conversations"]
    if len(turns) % 2:
        raise ValueError(f"{len(turns)} turns do not come in pairs of question and answer")
    texts = [turn["value"].strip() for turn in turns]
    return list(zip(texts[0::2], texts[1::2], strict=True))


def _masks(entry: dict[str, Any]) -> tuple[Segmentation, ...]:
    height, width = int(entry["height"]), int(entry["width"])
    return tuple(Segmentation(with_area(part["segmentation"]), height, width) for part in entry["annotation"])


def _usable_masks(
    entry: dict[str, Any], origin: str, skipped: Skipped
) -> tuple[tuple[Segmentation, ...], dict[int, int | None]]:
    """Return the masks of a record that can be used, and the place of each among them by its number in the record.

    The place of a mask that cannot be used is None; it is counted.
    """
    height, width = int(entry["height"]), int(entry["width"])
    masks: list[Segmentation] = []
    places: dict[int, int | None] = {}
    for number, part in enumerate(entry["annotation"]):
        places[number] = None
        try:
            mask = Segmentation(with_area(part["segmentation"]), height, width)
        except KeyError as error:
            skipped.add(f"{origin}, annotation {number}", f"the key {error} is missing")
        except (TypeError, ValueError, AttributeError) as error:
            skipped.add(f"{origin}, annotation {number}", str(error))
        else:
            places[number] = len(masks)
            masks.append(mask)
    return tuple(masks), places


def _place(number: int, places: dict[int, int | None]) -> int:
    place = places.get(number)
    if place is None:
        raise ValueError(f"a question is about regions {(number,)}, there are {len(places)} masks")
    return place


def _image(entry: dict[str, Any], images: Path) -> Path:
    # Names carry the split ("COCO_train2014_000000000009.jpg"); most users have the images by number.
    named = images / str(entry["file_name"])
    return named if named.is_file() else images / _SPLIT.sub("", named.name)
