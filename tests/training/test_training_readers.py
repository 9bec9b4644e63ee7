"""Readers of published data sets, on small folders in the layouts in which users download them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import HEIGHT, SQUARE, WIDTH, annotation, coco_file, only, write
from pycocotools import mask as coco_masks

from osprey_ros.errors import InputError
from osprey_torch.readers import coco, llava, osprey724k, vcr
from osprey_torch.readers.mixture import Mixture, Source
from osprey_torch.readers.records import Record, Skipped, Turn
from osprey_torch.readers.segmentation import Segmentation
from osprey_torch.readers.shards import Shards, write_shards


def _entry(**values: Any) -> dict:
    """A record of Osprey-724K."""
    return {
        "file_name": "COCO_train2014_000000000009.jpg",
        "height": HEIGHT,
        "width": WIDTH,
        "annotation": [{"segmentation": SQUARE}, {"segmentation": SQUARE}],
        **values,
    }


def _talk(*texts: str) -> list[dict]:
    return [{"from": "human" if n % 2 == 0 else "gpt", "value": text} for n, text in enumerate(texts)]


def test_coco_gives_a_dialogue_for_each_object(tmp_path: Path) -> None:
    crowd = {"counts": [0, HEIGHT * WIDTH], "size": [HEIGHT, WIDTH]}
    file = coco_file(tmp_path / "a.json", [annotation(), annotation(iscrowd=1, segmentation=crowd), annotation()])
    skipped = Skipped()
    record = only(coco.coco_instances(file, tmp_path / "imgs", skipped), skipped)
    assert record.image == tmp_path / "imgs" / "000000000009.jpg"
    assert [turns[0].answer for turns in record.dialogues] == ["dining table"] * 2
    assert [turns[0].regions for turns in record.dialogues] == [(0,), (1,)]
    mask = record.masks[0].decode()
    assert mask.shape == (HEIGHT, WIDTH)
    assert mask[3:13, 2:12].all()
    assert mask.sum() == 100


@pytest.mark.parametrize(
    ("reader", "category", "answer"),
    [
        (coco.part_imagenet, 2, "head of a quadruped"),
        (coco.part_imagenet, 4, "side mirror of a car"),
        (coco.pascal_part, 3, "ear of a cow"),
    ],
)
def test_parts_name_their_object(tmp_path: Path, reader: Any, category: int, answer: str) -> None:
    skipped = Skipped()
    file = coco_file(tmp_path / "a.json", [annotation(category_id=category)])
    assert only(reader(file, tmp_path, skipped), skipped).dialogues[0][0].answer == answer


@pytest.mark.parametrize("reader", [coco.refcoco, coco.refcoco_plus])
def test_referring_sentences_are_those_of_the_image_entry(tmp_path: Path, reader: Any) -> None:
    file = coco_file(
        tmp_path / "a.json", [annotation()], file_name="COCO_train2014_000000000009.jpg", caption="left table "
    )
    skipped = Skipped()
    record = only(reader(file, tmp_path, skipped), skipped)
    assert record.image.name == "000000000009.jpg"
    assert record.dialogues[0][0].answer == "left table"


def test_visual_genome_captions_are_those_of_the_annotation(tmp_path: Path) -> None:
    file = coco_file(tmp_path / "a.json", [annotation(caption="a red door"), annotation(caption="a step")])
    skipped = Skipped()
    record = only(coco.visual_genome(file, tmp_path, skipped), skipped)
    assert [turns[0].answer for turns in record.dialogues] == ["a red door", "a step"]


def test_own_masks_ask_for_category_and_caption(tmp_path: Path) -> None:
    file = coco_file(tmp_path / "a.json", [annotation(caption="a round table"), annotation()])
    skipped = Skipped()
    record = only(coco.own_masks(file, tmp_path, skipped), skipped)
    assert [(turns[0].answer, turns[0].regions) for turns in record.dialogues] == [
        ("dining table", (0,)),
        ("a round table", (0,)),
        ("dining table", (1,)),
    ]


def test_attributes_of_labeling_tools_are_ignored(tmp_path: Path) -> None:
    tools = annotation(attributes={"occluded": False, "rotation": 0.0, "color": " red", "note": ""})
    file = coco_file(tmp_path / "a.json", [tools, annotation(attributes=["rusty"], caption=None, description="")])
    skipped = Skipped()
    record = only(coco.own_masks(file, tmp_path, skipped), skipped)
    assert [(turns[0].question, turns[0].answer) for turns in record.dialogues] == [
        ("What is the category of <mask><pos>? Using only one word or phrase.", "dining table"),
        ("What color is <mask><pos>?", "red"),
        ("What is the category of <mask><pos>? Using only one word or phrase.", "dining table"),
    ]


def test_polygons_without_area_skip_no_image(tmp_path: Path) -> None:
    # Before the polygons of a mask, too: COCO's own tools take a list of four numbers in front for a box.
    beside = [[5, 5, 9, 9], *SQUARE, [1, 2]]
    boxes = [annotation(id=7, segmentation=[]), annotation(id=8, segmentation=[[1, 2, 3, 4]])]
    file = coco_file(tmp_path / "a.json", [annotation(segmentation=beside), *boxes, annotation()])
    skipped = Skipped()
    (record,) = coco.coco_instances(file, tmp_path, skipped)
    assert [mask.decode().sum() for mask in record.masks] == [100, 100]
    assert [turns[0].regions for turns in record.dialogues] == [(0,), (1,)]
    assert skipped.count == 2
    assert "record 0, annotation 7: its segmentation has no polygon" in skipped.summary()


def test_image_names_may_have_the_name_of_their_split(tmp_path: Path) -> None:
    file = write(tmp_path / "d.json", [_entry(description=["<region1>: A cup."])])
    (tmp_path / "COCO_train2014_000000000009.jpg").touch()
    skipped = Skipped()
    record = only(osprey724k.detailed_descriptions(file, tmp_path, skipped), skipped)
    assert record.image.name == "COCO_train2014_000000000009.jpg"


def test_conversations_list_their_regions_once(tmp_path: Path) -> None:
    talk = _talk("What is <region1>?", "A cup.", "And is <region2> behind <region1>?", "No, <region2> is in front.")
    file = write(tmp_path / "c.json", [_entry(conversations=talk)])
    skipped = Skipped()
    record = only(osprey724k.conversations(file, tmp_path, skipped), skipped)
    ((first, second),) = record.dialogues
    assert first.question == (
        "There are 2 regions in the picture: region1<mask><pos>, region2<mask><pos>. What is region1?"
    )
    assert first.regions == (0, 1)
    assert second == Turn("And is region2 behind region1?", "No, region2 is in front.")
    assert record.image.name == "000000000009.jpg"


@pytest.mark.parametrize("reader", [osprey724k.short_form, osprey724k.part_level])
def test_short_answers_are_asked_for(tmp_path: Path, reader: Any) -> None:
    file = write(tmp_path / "s.json", [_entry(conversations=_talk("What is <region1>?", "Cup"))])
    skipped = Skipped()
    question = only(reader(file, tmp_path, skipped), skipped).dialogues[0][0].question
    assert question.endswith("What is region1? Answer the question using a single word or phrase.")


def test_detailed_descriptions_belong_to_one_region_each(tmp_path: Path) -> None:
    file = write(tmp_path / "d.json", [_entry(description=["<region1>: A cup.\nIt is red.", "<region2>: A bowl."])])
    skipped = Skipped()
    record = only(osprey724k.detailed_descriptions(file, tmp_path, skipped), skipped)
    assert [(turns[0].answer, turns[0].regions) for turns in record.dialogues] == [
        ("A cup.\nIt is red.", (0,)),
        ("A bowl.", (1,)),
    ]


def test_positive_and_negative_questions_name_their_region(tmp_path: Path) -> None:
    talk = _talk("Is the object <region2> a cup?", "No.", "Is the object <region1> a cup?", "Yes.")
    file = write(tmp_path / "l.json", [_entry(conversations=talk, file_name="train2017/000000000009.jpg")])
    skipped = Skipped()
    record = only(osprey724k.lvis_positive_negative(file, tmp_path, skipped), skipped)
    assert [turns[0].regions for turns in record.dialogues] == [(1,), (0,)]
    assert record.dialogues[0][0].question == "Is the object <mask><pos> a cup?"
    assert record.image == tmp_path / "train2017" / "000000000009.jpg"


def test_vcr_names_people_by_class_and_region(tmp_path: Path) -> None:
    points = [[2, 3], [12, 3], [12, 13], [2, 13]]
    meta = {"height": HEIGHT, "width": WIDTH, "boxes": [[2, 3, 12, 13, 0.9]] * 2, "segms": [[points], [points]]}
    write(tmp_path / "still.json", meta)
    entry = {
        "img_fn": "still.jpg",
        "metadata_fn": "still.json",
        "objects": ["person", "dog"],
        "question": ["what", "does", [0], "hold", "?"],
        "answer_choices": [["x"], [[0], "holds", [1], "and", "2", "balls", "."]],
        "answer_label": 1,
        "rationale_choices": [[[0, 1], "are", "close", "."], ["y"]],
        "rationale_label": 0,
    }
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps(entry) + "\n")
    skipped = Skipped()
    record = only(vcr.vcr(file, tmp_path, skipped), skipped)
    ((first, second),) = record.dialogues
    assert first.question == ("Given region1<mask><pos>, region2<mask><pos>. What does the person at region1 hold?")
    assert first.answer == "The person at region1 holds the dog at region2 and 2 balls."
    assert second.answer == "The person at region1 and the dog at region2 are close."
    assert record.masks[1].decode().sum() == 100


def test_image_text_pairs_have_no_regions(tmp_path: Path) -> None:
    entry = {"image": "GCC/1.jpg", "conversations": _talk("<image>\nDescribe it.", "A street.")}
    skipped = Skipped()
    file = write(tmp_path / "chat.json", [entry])
    record = only(llava.image_text_pairs(file, tmp_path, skipped), skipped)
    assert record == Record(
        tmp_path / "GCC" / "1.jpg", (), ((Turn("Describe it.", "A street."),),), f"{file}, record 0"
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"height": None}, "int"),
        ({"annotation": [{"segmentation": [[1, 2]]}]}, "polygons of three points"),
        ({"annotation": [{"segmentation": {"counts": [600], "size": [30, 20]}}]}, r"\[30, 20\].*\[20, 30\]"),
        ({"annotation": [{}]}, "the key 'segmentation' is missing"),
        ({"conversations": _talk("Is <region3> red?", "No.")}, r"regions \(2,\), there are 2 masks"),
        ({"conversations": _talk("Is <region1> red?")}, "1 turns do not come in pairs"),
        ({"conversations": _talk("Is <region1> red?", " ")}, "a turn is empty"),
        ({"conversations": _talk("Is <region1> red?", "Like <mask>.")}, "<mask> is a marker"),
        ({"annotation": [{"segmentation": [[1, 2, 3, None, 5, 6]]}]}, "with numbers from"),
        ({"annotation": [{"segmentation": [[1, 2, 3, 1e12, 5, 6]]}]}, "with numbers from -1,000,000"),
        ({"annotation": [{"segmentation": {"counts": "4`", "size": [20, 30]}}]}, "run lengths are damaged"),
        ({"annotation": [{"segmentation": {"counts": "\uff00", "size": [20, 30]}}]}, "run lengths are damaged"),
        ({"annotation": [{"segmentation": {"counts": "44", "size": [20, 30]}}]}, "add up to 8 pixels"),
        ({"annotation": [{"segmentation": {"counts": [700, -100], "size": [20, 30]}}]}, "whole numbers of 0 or more"),
        ({"annotation": [{"segmentation": {"counts": [5, 7], "size": [20, 30]}}]}, "add up to 12 pixels.* has 600"),
    ],
)
def test_broken_records_are_named_and_counted(tmp_path: Path, change: dict, reason: str) -> None:
    good = _entry(conversations=_talk("Is <region1> red?", "No."))
    file = write(tmp_path / "l.json", [good, {**good, **change}, good])
    skipped = Skipped()
    assert len(list(osprey724k.lvis_positive_negative(file, tmp_path, skipped))) == 2
    assert skipped.count == 1
    assert "record 1" in skipped.summary()
    with pytest.raises(InputError, match=f"l.json, record 1(, annotation 0)?: .*{reason}"):
        list(osprey724k.lvis_positive_negative(file, tmp_path, Skipped(strict=True)))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.json cannot be read"):
        next(coco.coco_instances(tmp_path / "missing.json", tmp_path, Skipped()))
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"a": 1}\n{"a"\n')
    with pytest.raises(InputError, match=r"broken.jsonl, line 2 is not JSON"):
        next(vcr.vcr(broken, tmp_path, Skipped()))


def test_all_spellings_of_a_mask_are_the_same_mask() -> None:
    expected = Segmentation(SQUARE, HEIGHT, WIDTH).decode()
    compressed = coco_masks.encode(np.asfortranarray(expected.astype(np.uint8)))
    compressed["counts"] = compressed["counts"].decode()
    # Run lengths go down the columns, background first.
    flat = expected.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat, prepend=False, append=False))
    plain = {"counts": np.diff([0, *edges, flat.size]).tolist(), "size": [HEIGHT, WIDTH]}
    for data in (compressed, plain):
        np.testing.assert_array_equal(Segmentation(data, HEIGHT, WIDTH).decode(), expected)


def _records(name: str, count: int) -> list[Record]:
    masks = (Segmentation(SQUARE, HEIGHT, WIDTH),)
    return [
        Record(Path(f"{name}.jpg"), masks, ((Turn("What is <mask><pos>?", f"{name}{n}", (0,)),),), f"{name} {n}")
        for n in range(count)
    ]


def test_shards_give_back_what_was_written(tmp_path: Path) -> None:
    records = _records("ä", 7)
    skipped = Skipped(count=2)
    shards = write_shards(records, tmp_path, skipped, per_shard=3)
    assert len(list(tmp_path.glob("*.jsonl"))) == 3
    again = Shards(tmp_path)
    assert [again[n] for n in range(len(shards))] == records
    assert again.skipped == 2
    with pytest.raises(IndexError, match="record 7 of 7"):
        again[7]


def test_unfinished_shards_are_refused(tmp_path: Path) -> None:
    def fails() -> Any:
        yield from _records("a", 2)
        raise KeyboardInterrupt

    write_shards(_records("a", 4), tmp_path, Skipped(), per_shard=1)
    with pytest.raises(KeyboardInterrupt):
        write_shards(fails(), tmp_path, Skipped(), per_shard=1)
    with pytest.raises(FileNotFoundError, match=r"no index\.json"):
        Shards(tmp_path)


def test_mixture_keeps_weights_and_uses_every_record_once_a_pass() -> None:
    few, many = _records("few", 10), _records("many", 2000)
    mixture = Mixture([Source("few", few, 1), Source("many", many, 3)], seed=5)
    seen = [mixture[n].origin for n in range(1000)]
    counts = Counter(origin.split()[0] for origin in seen)
    assert counts == {"few": 250, "many": 750}
    # 250 draws of 10 records: each exactly 25 times; of the many none comes twice.
    of_each = Counter(seen)
    assert {of_each[record.origin] for record in few} == {25}
    assert max(of_each[record.origin] for record in many) == 1
    # A number always means the same record, in another order for another seed.
    assert [mixture[n].origin for n in (999, 3, 500)] == [seen[n] for n in (999, 3, 500)]
    other = Mixture(mixture.sources, seed=6)
    assert [other[n].origin for n in range(20)] != seen[:20]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([Source("a", [], 1.0)], "source a has no records"),
        ([Source("a", _records("a", 1), 0.0)], "weight 0.0"),
        ([], "1 to 1000 sources"),
    ],
)
def test_mixtures_that_cannot_be_made(sources: list[Source], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(sources, seed=0)
