"""POPE: which answers are a yes, the ratios, and the command on files of the published layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.published.pope import main, ratios, says_yes


@pytest.mark.parametrize(
    "answer",
    ["yes", "", "no!", "no\nthere", "no\tdog", "none", "i don't know", "no,yes", ".no", "yes. no.", "NO", "no-one"],
)
def test_these_answers_are_a_yes(answer: str) -> None:
    assert says_yes(answer)


@pytest.mark.parametrize("answer", ["no", "no, it is a cat", "yes no", "   no", "not.", "is there no dog? yes", "No"])
def test_these_answers_are_a_no(answer: str) -> None:
    assert not says_yes(answer)


def test_ratios_by_hand() -> None:
    says = np.array([1, 1, 1, 0, 0], bool)
    true = np.array([1, 0, 1, 0, 1], bool)
    found = ratios(says, true)
    assert (found["TP"], found["FP"], found["TN"], found["FN"]) == (2, 1, 1, 1)
    assert found["accuracy"] == 3 / 5
    assert found["precision"] == found["recall"] == pytest.approx(2 / 3, abs=1e-15)
    assert found["yes_ratio"] == 3 / 5


def test_without_a_yes_there_is_no_precision() -> None:
    assert np.isnan(ratios(np.zeros(3, bool), np.ones(3, bool))["precision"])


def _data(folder: Path, lines: list[str]) -> Path:
    (folder / "images").mkdir(parents=True)
    for number in (1, 2):
        Image.new("RGB", (32, 24), (90, 60, 30)).save(folder / "images" / f"00000000000{number}.jpg")
    (folder / "coco_pope_random.json").write_text("\n".join(lines))
    return folder


def _line(number: int, image: int, label: str) -> str:
    record = {"question_id": number, "image": f"COCO_val2014_00000000000{image}.jpg", "text": "A dog?", "label": label}
    return json.dumps(record)


def test_the_command_scores_answers_and_counts_broken_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [_line(1, 1, "yes"), "{", _line(2, 1, "no"), '{"question_id": 3}', _line(4, 2, "Yes")]
    data = _data(tmp_path / "data", lines)
    answers, out = tmp_path / "answers.json", tmp_path / "out.json"
    answers.write_text('{"1": "Yes", "2": "No.", "4": "none"}')
    line = ["--data", str(data), "--answers", str(answers), "--json", str(out), "--report", str(tmp_path / "report")]
    assert main([*line, "--resamples", "50"]) == 0
    result = json.loads(out.read_text())
    assert result["totals"]["accuracy"] == 1.0
    assert result["items"]["2"] == {
        "prompt": result["items"]["2"]["prompt"],
        "stored": {"question": "A dog?", "answer": "no."},
        "pred": 0,
        "label": 0,
    }
    assert result["items"]["4"]["label"] == 1  # any label but "no" is a yes
    assert result["figures"]["accuracy"]["count"] == 3
    broken = result["left_out"]["broken"]
    assert "line 2: it is not JSON" in broken[0]
    assert broken[1].endswith("line 4: the key 'text' is missing") or "the key" in broken[1]
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("<figure>") == 3
    assert (tmp_path / "report" / "images" / "0_0.jpg").is_file()
    assert main([*line, "--strict"]) == 2
    assert "coco_pope_random.json, line 2" in capsys.readouterr().err


def test_two_sets_of_answers_are_compared(tmp_path: Path) -> None:
    data = _data(tmp_path / "data", [_line(number, 1 + number % 2, "no") for number in range(1, 9)])
    right, wrong, out = (tmp_path / name for name in ("right.json", "wrong.json", "out.json"))
    right.write_text(json.dumps({str(n): "no" for n in range(1, 9)}))
    wrong.write_text(json.dumps({str(n): "yes" for n in range(1, 9)}))
    line = ["--data", str(data), "--answers", str(right), "--answers", str(wrong), "--json", str(out)]
    assert main([*line, "--resamples", "50"]) == 0
    result = json.loads(out.read_text())
    (difference,) = result["differences"].values()
    assert difference["accuracy"]["value"] == -1.0
    assert 0.4 < difference["accuracy"]["p"] < 0.6  # of two images, half of the flips are as extreme


def test_nothing_to_score_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == 2
    assert "give --answers FILE, or --bundle DIR" in capsys.readouterr().err
