"""Detailed description, judged: the model's description against a reference description.

Source: osprey/eval/osprey_generate_gpt_description_answer.py and eval_gpt.py of CircleRadon/Osprey, commit deb0e57.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.published.command import run_task
from evaluation.published.data import find_file, find_image, image_folder, numbered_records
from evaluation.published.items import Item
from evaluation.published.judged import JudgedData, JudgedItem, JudgedTask, parse_file
from evaluation.published.texts import between_colons, stripped
from osprey_ros.cli._edge import command
from osprey_ros.decoding.prompt import REGION_TEXT
from osprey_ros.errors import InputError
from osprey_ros.vision.image_io import image_size
from osprey_torch.readers.coco import mask_of
from osprey_torch.readers.files import read_json
from osprey_torch.readers.records import Skipped

OPENING = "dotted"


def region_items(file: Path, folder: Path, skipped: Skipped) -> list[tuple[Item, dict[str, Any], int]]:
    """Return the items of a list {question_id, image, category, text with "<region>", annotation}.

    With each item come its record and its place in the list, by which the judge's files are read.

    Broken records are counted. Raises InputError for other files.
    """
    found: list[tuple[Item, dict[str, Any], int]] = []
    for place, origin, record in numbered_records(file, skipped):
        with origin:
            image = find_image(folder, str(record["image"]))
            width, height = _size(image, record)
            mask = mask_of(record["annotation"], height, width)
            question = str(record["text"]).replace("<region>", REGION_TEXT)
            if question.count(REGION_TEXT) != 1:
                raise ValueError(f"its text names {question.count(REGION_TEXT)} regions: {record['text']!r}")
            one = str(record["question_id"])
            if any(item.id == one for item, _, _ in found):
                raise ValueError(f"the question_id {one} occurs twice")
            found.append((Item(one, image, question, OPENING, mask), record, place))
    return found


def _size(image: Path, record: dict[str, Any]) -> tuple[int, int]:
    """Return width and height of an image: of its run lengths, else of the file."""
    segmentation = record["annotation"].get("segmentation")
    if isinstance(segmentation, dict) and "size" in segmentation:
        height, width = segmentation["size"]
        return int(width), int(height)
    return image_size(image)


def read(data: Path, images: Path | None, annotations: Path | None, skipped: Skipped) -> JudgedData:
    """Read `questions.json`, `prompt.json`, `answers.json` and `rule.json`, the last beside or above the others.

    Contexts are found by the image, reference answers by their place, as in the published code. Without the other files
    only the answers can be made. Raises InputError for files that do not belong together.
    """
    file = annotations or find_file(data, "questions.json", "--annotations")
    items = region_items(file, image_folder(data, images), skipped)
    folder = file.parent
    if not (folder / "prompt.json").is_file():
        return JudgedData([item for item, _, _ in items], {})
    contexts = {str(one["image"]): str(one["prompt"]) for one in _list(folder / "prompt.json")}
    references = [str(one["text"]) for one in _list(folder / "answers.json")]
    rule_file = next((f / "rule.json" for f in (folder, folder.parent) if (f / "rule.json").is_file()), None)
    if rule_file is None:
        raise InputError(f"{folder} has no rule.json; put it beside questions.json")
    rules = read_json(rule_file)
    judged = {}
    for item, record, place in items:
        category = str(record["category"])
        if category not in rules:
            raise InputError(f"{rule_file} has no rule for the category {category!r} of question {item.id}")
        if str(record["image"]) not in contexts or place >= len(references):
            raise InputError(f"{folder}: question {item.id} has no context or no reference answer")
        rule = rules[category]
        judged[item.id] = JudgedItem(
            category,
            contexts[str(record["image"])],
            str(record["text"]),
            references[place],
            rule["role"],
            rule["prompt"],
        )
    return JudgedData([item for item, _, _ in items], judged)


def _list(file: Path) -> list[Any]:
    content = read_json(file)
    if not isinstance(content, list):
        raise InputError(f"{file} must hold a list")
    return content


class _GptDescription(JudgedTask):
    name = "gpt_description"
    about = __doc__ or ""
    digits = 2

    def stored(self, answer: str) -> str:
        return between_colons(stripped(answer))

    def read(self, arguments: argparse.Namespace, skipped: Skipped) -> JudgedData:
        return read(arguments.data, arguments.images, arguments.annotations, skipped)


@command("osprey eval gpt_description")
def main(argv: Sequence[str] | None = None) -> int:
    return run_task(_GptDescription(), argv, parse_file)


if __name__ == "__main__":
    raise SystemExit(main())
