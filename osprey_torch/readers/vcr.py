"""Visual Commonsense Reasoning: questions about people and things of a film still, with answer and rationale."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from osprey_ros.decoding.prompt import REGION_TEXT
from osprey_torch.readers.files import read_json, read_lines
from osprey_torch.readers.records import Record, Skipped, Turn, each_record
from osprey_torch.readers.segmentation import Segmentation

WHY = "Why do you think so?"

_NO_SPACE_BEFORE = re.compile(r"\s+([.,;:!?]|'\w*|n't\b)")


def vcr(file: Path, images: Path, skipped: Skipped) -> Iterator[Record]:
    """Read `train.jsonl` with `vcr1images/`: one dialogue a record, the answer first and then the reason for it.

    Texts refer to objects by lists of indices, which are replaced by class and region.
    """

    def read(entry: dict[str, Any], origin: str) -> Record | None:
        meta = read_json(images / entry["metadata_fn"])
        height, width = int(meta["height"]), int(meta["width"])
        masks = tuple(Segmentation(_polygons(parts), height, width) for parts in meta["segms"])
        names = list(entry["objects"])
        if len(names) != len(masks):
            raise ValueError(f"{len(names)} objects are named, {entry['metadata_fn']} has {len(masks)} masks")
        regions = ", ".join(f"region{number}{REGION_TEXT}" for number in range(1, len(masks) + 1))
        question = f"Given {regions}. {_sentence(entry['question'], names)}"
        answer = _sentence(entry["answer_choices"][entry["answer_label"]], names)
        reason = _sentence(entry["rationale_choices"][entry["rationale_label"]], names)
        turns = (Turn(question, answer, tuple(range(len(masks)))), Turn(WHY, reason))
        return Record(images / entry["img_fn"], masks, (turns,), origin)

    return each_record(read_lines(file), file, skipped, read)


def _sentence(tokens: list[str | list[int]], names: list[str]) -> str:
    """Return words and lists of object indices as one sentence."""
    words = []
    for token in tokens:
        if isinstance(token, str):
            words.append(token)
        else:
            words.append(" and ".join(f"the {names[index]} at region{index + 1}" for index in token))
    text = _NO_SPACE_BEFORE.sub(r"\1", " ".join(words)).strip()
    return text[:1].upper() + text[1:]


def _polygons(parts: list[list[list[float]]]) -> list[list[float]]:
    """[[x, y], ...] a polygon, as COCO's flat lists; a polygon of fewer than three points has no area."""
    return [[float(v) for point in part for v in point] for part in parts if len(part) >= 3]
