"""Small made-up data sets in the published layouts, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_questions(folder: Path, count: int = 3, name: str = "questions.json") -> Path:
    """Write images with two questions each, in the layout of detailed descriptions and Ferret-Bench."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(5)
    records: list[dict[str, Any]] = []
    for number in range(count):
        rgb = np.full((48, 64, 3), 90, np.uint8)
        for place, left in enumerate((6, 36)):
            rgb[10:40, left : left + 20] = rng.integers(0, 256, 3)
            polygon = [left, 10, left + 20, 10, left + 20, 40, left, 40]
            records.append(
                {
                    "question_id": 2 * number + place,
                    "image": f"{number}.png",
                    "category": "description",
                    "text": "Describe <region>.",
                    "annotation": {"bbox": [left, 10, 20, 30], "segmentation": [polygon]},
                }
            )
        Image.fromarray(rgb).save(folder / "images" / f"{number}.png")
    (folder / name).write_text(json.dumps(records))
    return folder


def write_judge(folder: Path, count: int = 3) -> Path:
    """Write the files of the judge of detailed descriptions beside the questions."""
    contexts = [{"image": f"{number}.png", "prompt": f"Image {number}."} for number in range(count)]
    (folder / "prompt.json").write_text(json.dumps(contexts))
    (folder / "answers.json").write_text(json.dumps([{"text": f"reference {n}"} for n in range(2 * count)]))
    (folder / "rule.json").write_text(json.dumps({"description": {"role": "Assistant", "prompt": "Rate."}}))
    return folder


def segment(number: int, category: int, area: int, crowd: int = 0) -> dict[str, int]:
    """Return a segment of a panoptic file."""
    return {"id": number, "category_id": category, "area": area, "iscrowd": crowd}


def write_png(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file)


def write_panoptic(file: Path, ids: np.ndarray) -> None:
    write_png(file, np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8))


IDS = np.repeat(np.repeat(np.array([[300, 300, 70000], [300, 300, 5]]), 12, axis=0), 12, axis=1)
_CATEGORIES = [
    {"id": 0, "name": "wall", "isthing": 0},
    {"id": 1, "name": "cup", "isthing": 1},
    {"id": 2, "name": "dog", "isthing": 1},
]


def write_ade(folder: Path) -> Path:
    """Write a data set of three classes in the layout of ADE20K, with a second entry without its files."""
    root = folder / "ADEChallengeData2016"
    write_panoptic(root / "ade20k_panoptic_val" / "ADE_1.png", IDS)
    semantic = np.select([IDS == 300, IDS == 70000], [0, 1], 2).astype(np.uint8)
    write_png(root / "annotations_detectron2" / "validation" / "ADE_1.png", semantic)
    write_png(root / "images" / "validation" / "ADE_1.jpg", np.zeros((24, 36, 3), np.uint8))
    segments = [segment(300, 0, 576), segment(70000, 1, 144), segment(5, 2, 144)]
    broken = {"image_id": "ADE_2", "file_name": "ADE_2.png", "segments_info": [segment(1, 0, 5)]}
    content: dict[str, Any] = {
        "images": [{"id": "ADE_1"}],
        "annotations": [{"image_id": "ADE_1", "file_name": "ADE_1.png", "segments_info": segments}, broken],
        "categories": _CATEGORIES,
    }
    (root / "ade20k_panoptic_val.json").write_text(json.dumps(content))
    boxes = {70000: [24, 0, 12, 12], 5: [24, 12, 12, 12]}
    instances = {
        "images": [{"id": "ADE_1", "height": 24, "width": 36}],
        "categories": _CATEGORIES[1:],
        "annotations": [
            {"id": number, "image_id": "ADE_1", "category_id": category, "iscrowd": 0, "area": 144, "bbox": boxes[one],
             "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
            for number, (one, category) in enumerate(((70000, 1), (5, 2)), 1)
            for x, y, w, h in [boxes[one]]
        ],
    }  # fmt: skip
    (root / "ade20k_instance_val.json").write_text(json.dumps(instances))
    (folder / "ade20k_3_with_prompt_eng.txt").write_text("0:invalid_class_id\n1:wall,walls\n2:cup,mug\n3:dog\n")
    return folder
