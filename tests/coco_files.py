"""Small files in COCO's layout for the tests of readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from osprey_torch.readers.records import Record, Skipped

HEIGHT, WIDTH = 20, 30
SQUARE = [[2, 3, 12, 3, 12, 13, 2, 13]]  # 10 x 10 pixels


def write(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data))
    return path


def coco_file(path: Path, annotations: list[dict], **image: Any) -> Path:
    entry = {"id": 9, "file_name": "000000000009.jpg", "height": HEIGHT, "width": WIDTH, **image}
    names = ("dining_table", "Quadruped Head", "cow:ear", "Car Side Mirror")
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return write(path, {"images": [entry], "annotations": annotations, "categories": categories})


def annotation(**values: Any) -> dict:
    return {"id": 1, "image_id": 9, "category_id": 1, "segmentation": SQUARE, **values}


def only(records: Any, skipped: Skipped) -> Record:
    (record,) = list(records)
    assert skipped.count == 0, skipped.summary()
    return record
