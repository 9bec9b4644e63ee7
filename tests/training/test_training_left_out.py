"""What readers and training leave out is counted with its reason, and the rest is used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coco_files import HEIGHT, SQUARE, WIDTH, annotation, coco_file, only, write
from PIL import Image

from osprey_ros.errors import InputError
from osprey_torch.readers import coco, osprey724k
from osprey_torch.readers.records import Skipped
from osprey_torch.readers.usable import decoded_masks, usable_records


def test_crowds_are_left_out_and_counted_with_the_reason(tmp_path: Path) -> None:
    file = coco_file(tmp_path / "a.json", [annotation(iscrowd=1), annotation(), annotation(ignore=True)])
    skipped = Skipped(strict=True)  # left out on purpose: no fault
    (record,) = coco.own_masks(file, tmp_path, skipped)
    assert len(record.masks) == 1
    assert (skipped.count, skipped.total) == (0, 2)
    assert "2 records or single masks were skipped" in skipped.summary()
    assert "1 left out: an annotation has iscrowd 1; set it to 0 if it is one object" in skipped.summary()
    assert "1 left out: an annotation has ignore True" in skipped.summary()


@pytest.mark.parametrize("image_id", ["9", 9.0, " 9"])
def test_the_same_id_as_text_and_as_number_is_one_id(tmp_path: Path, image_id: object) -> None:
    file = coco_file(tmp_path / "a.json", [annotation(image_id=image_id, category_id="1")])
    skipped = Skipped()
    assert only(coco.own_masks(file, tmp_path, skipped), skipped).dialogues[0][0].answer == "dining table"
    assert not skipped.total


def test_annotations_of_no_image_and_images_without_one_are_counted(tmp_path: Path) -> None:
    file = coco_file(tmp_path / "a.json", [annotation(image_id=77), annotation(image_id=None)])
    skipped = Skipped()
    assert not list(coco.own_masks(file, tmp_path, skipped))
    assert "2 left out: the image_id of an annotation is not among the file's images" in skipped.summary()
    assert "1 left out: an image has no annotation" in skipped.summary()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"category_id": 99}, "annotation 7: category_id 99 is not among the file's categories"),
        ({"segmentation": {"counts": [5], "size": [1, 5]}}, "annotation 7: the mask's size"),
        ({"segmentation": None}, "annotation 7: a mask must be run lengths, or polygons"),
        ({"caption": 5}, "annotation 7: the caption is 5"),
        (None, "a.json, annotation 1: it is NoneType, not an object"),
    ],
)
def test_a_bad_annotation_is_named_and_the_others_are_read(tmp_path: Path, bad: dict | None, reason: str) -> None:
    bad_one = None if bad is None else annotation(id=7, **bad) if "caption" in bad else annotation(**{"id": 7, **bad})
    file = coco_file(tmp_path / "a.json", [annotation(), bad_one, annotation(category_id=2)])
    skipped = Skipped()
    (record,) = coco.own_masks(file, tmp_path, skipped)
    assert [turns[0].answer for turns in record.dialogues] == ["dining table", "Quadruped Head"]
    assert skipped.count == 1
    assert reason in skipped.summary()


@pytest.mark.parametrize("kind", ["description", "conversations"])
def test_a_bad_mask_of_a_record_is_named_and_the_other_questions_are_kept(tmp_path: Path, kind: str) -> None:
    parts = [{"segmentation": [[1, 2]]}, {"segmentation": SQUARE}]
    entry = {"file_name": "9.jpg", "height": HEIGHT, "width": WIDTH, "annotation": parts}
    texts = ["Is <region1> red?", "No.", "Is <region2> red?", "Yes."]
    talk = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
    said = {"description": ["<region1>: No.", "<region2>: Yes."], "conversations": talk}[kind]
    file = write(tmp_path / "l.json", [{**entry, kind: said}])
    read = {"description": osprey724k.detailed_descriptions, "conversations": osprey724k.lvis_positive_negative}[kind]
    skipped = Skipped()
    (record,) = read(file, tmp_path, skipped)
    assert [(turns[0].answer, turns[0].regions) for turns in record.dialogues] == [("Yes.", (0,))]
    assert len(record.masks) == 1
    assert "record 0, annotation 0: a mask must be run lengths, or polygons" in skipped.summary()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"categories": [{"id": 1}]}, "'categories' must be an object with 'id' and 'name'"),
        ({"annotations": None}, "must hold lists 'images' and 'annotations'"),
        ({"images": {}}, "must hold lists 'images' and 'annotations'"),
    ],
)
def test_coco_files_of_another_layout_are_named(tmp_path: Path, change: dict, reason: str) -> None:
    file = coco_file(tmp_path / "a.json", [annotation()])
    write(file, {**json.loads(file.read_text()), **change})
    with pytest.raises(InputError, match=f"a.json.*{reason}"):
        list(coco.own_masks(file, tmp_path, Skipped()))


def _photo(path: Path, size: tuple[int, int], orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(path, exif=exif)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_masks_are_for_the_upright_image(tmp_path: Path, orientation: int) -> None:
    size = (HEIGHT, WIDTH) if orientation == 6 else (WIDTH, HEIGHT)
    _photo(tmp_path / "000000000009.jpg", size, orientation)
    file = coco_file(tmp_path / "a.json", [annotation()])
    skipped = Skipped()
    only(usable_records(coco.own_masks(file, tmp_path, skipped), skipped), skipped)
    stored = coco_file(tmp_path / "b.json", [annotation()], width=HEIGHT, height=WIDTH)
    assert not list(usable_records(coco.own_masks(stored, tmp_path, skipped), skipped))
    reason = "remove the EXIF orientation" if orientation == 6 else "the ratio of width and height differs"
    assert reason in skipped.summary()


def test_masks_of_another_resolution_are_resized_and_it_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _photo(tmp_path / "000000000009.jpg", (WIDTH * 2, HEIGHT * 2))
    file = coco_file(tmp_path / "a.json", [annotation(), annotation(category_id=2)])
    skipped = Skipped()
    record = only(usable_records(coco.own_masks(file, tmp_path, skipped), skipped), skipped)
    masks = decoded_masks(record, [0, 1], (HEIGHT * 2, WIDTH * 2))
    assert masks.sum(axis=(1, 2)).tolist() == [400, 400]
    assert caplog.text.count("resized by nearest neighbor") == 1


@pytest.mark.parametrize("damage", ["cut", "text", "missing"])
def test_images_that_cannot_be_read_are_counted(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "000000000009.jpg"
    _photo(path, (WIDTH, HEIGHT))
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9] if damage == "cut" else b"version https://git-lfs.github.com/spec/v1")
    file = coco_file(tmp_path / "a.json", [annotation()])
    skipped = Skipped()
    assert not list(usable_records(coco.own_masks(file, tmp_path, skipped), skipped))
    shown = {"cut": "end-of-image marker is missing", "text": "a Git LFS pointer", "missing": "does not exist"}
    assert skipped.count == 1
    assert shown[damage] in skipped.summary()


def test_an_empty_mask_is_counted_and_the_others_are_kept(tmp_path: Path) -> None:
    _photo(tmp_path / "000000000009.jpg", (WIDTH, HEIGHT))
    empty = {"counts": [HEIGHT * WIDTH], "size": [HEIGHT, WIDTH]}
    file = coco_file(tmp_path / "a.json", [annotation(segmentation=empty), annotation(category_id=2)])
    skipped = Skipped()
    (record,) = usable_records(coco.own_masks(file, tmp_path, skipped), skipped)
    assert [turns[0].answer for turns in record.dialogues] == ["Quadruped Head"]
    assert "a.json, record 0, mask 0: it has no pixel inside the image" in skipped.summary()
