"""Generated COCO files: the reader of training and `python -m evaluation.own_masks`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TinyModel
from fuzz.commands import check_text, new_folder, run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evaluation import own_masks
from osprey_ros.describer import Describer
from osprey_ros.errors import OspreyError
from osprey_torch.readers import coco
from osprey_torch.readers.records import Skipped

HEIGHT, WIDTH = 24, 32
ODD = st.sampled_from([None, "1", 1.0, -1, 0, True, "", [], {}, "x", 10**12, float("nan"), 2.5])


def _usually(draw: st.DrawFn, value: Any) -> Any:
    """Return a value, or now and then an odd one."""
    return draw(ODD) if draw(st.integers(0, 19)) == 0 else value


@st.composite
def segmentations(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(["polygon", "polygon", "runs", "text", "empty", "outside", "broken"]))
    x, y = draw(st.integers(0, WIDTH - 4)), draw(st.integers(0, HEIGHT - 4))
    if kind == "polygon":
        return [[x, y, x + 3, y, x + 3, y + 3, x, y + 3]]
    if kind == "runs":
        inside = draw(st.integers(1, HEIGHT * WIDTH))
        return {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH - inside, inside]}
    if kind == "text":
        return {"size": [HEIGHT, WIDTH], "counts": draw(st.text(max_size=8))}
    if kind == "outside":
        return [[x + 100, y, x + 103, y, x + 103, y + 3]]
    if kind == "empty":
        return draw(st.sampled_from([[], [[]], [[1, 2]], {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}]))
    return draw(st.sampled_from([None, 3, "mask", [["a", "b"]], {"size": [2, 2], "counts": [4]}, {"counts": [1]}]))


@st.composite
def coco_files(draw: st.DrawFn) -> dict[str, Any]:
    images = [
        {"id": _usually(draw, 1), "file_name": _usually(draw, "image.png"), "width": WIDTH, "height": HEIGHT},
        {"id": 2, "file_name": draw(st.sampled_from(["image.png", "gone.png"])), "width": WIDTH, "height": HEIGHT},
    ]
    annotations = [
        {
            "id": number,
            "image_id": _usually(draw, draw(st.integers(1, 2))),
            "category_id": _usually(draw, 1),
            "caption": _usually(draw, "a box"),
            "iscrowd": draw(st.sampled_from([0, 0, 0, 1])),
            "segmentation": draw(segmentations()),
        }
        for number in range(draw(st.integers(0, 4)))
    ]
    data: dict[str, Any] = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
    if draw(st.integers(0, 14)) == 0:
        data.pop(draw(st.sampled_from(sorted(data))))
    for entries in data.values():
        for entry in entries:
            if draw(st.integers(0, 29)) == 0:
                entry.pop(draw(st.sampled_from(sorted(entry))))
    return data


@pytest.fixture(scope="module")
def bundle(tiny_model: TinyModel) -> Iterator[str]:
    """A bundle whose engines are loaded once."""
    shared = Describer(tiny_model.bundle, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_masks, "Describer", lambda *arguments, **options: shared)
        yield str(tiny_model.bundle)


@given(data=coco_files(), cut=st.integers(0, 400), damaged=st.integers(0, 9))
def test_coco_files(data: dict[str, Any], cut: int, damaged: int, bundle: str, tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(folder / "image.png")
    text = json.dumps(data)
    file = folder / "masks.json"
    file.write_text(text[:cut] if damaged == 0 else text)
    skipped = Skipped()
    try:
        records = list(coco.own_masks(file, folder, skipped))
    except OspreyError as error:
        check_text(str(error), str(file))
    else:
        usable = sum(len(record.masks) for record in records)
        assert usable == len(data["annotations"]) or skipped.total, "masks are left out and not counted"
        assert all(dialogue for record in records for dialogue in record.dialogues)
    run(own_masks.main, ["--bundle", bundle, "--file", str(file), "--images", str(folder)])
