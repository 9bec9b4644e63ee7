"""Bundles and judges answer the questions of a task: resumed runs, openings, sampling, endpoints, recorded replies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_server import model_server
from nano import NANO
from published_files import write_ade, write_judge, write_questions

from evaluation.published import gpt_description, ovseg_ade, pope
from evaluation.published.comparison import differences, parts
from evaluation.published.items import Item, Scored, mean_measure
from osprey_ros.describer import Describer
from osprey_ros.errors import PromptError


def _line(data: Path, work: Path, out: Path, *more: str) -> list[str]:
    line = ["--data", str(data), "--bundle", str(NANO), "--work", str(work), "--json", str(out), "--resamples", "20"]
    return [*line, "--opening", "overview", "--max-new-tokens", "8", *more]


def test_a_run_that_was_stopped_continues_and_equals_an_uninterrupted_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_questions(tmp_path / "data")
    whole, first, resumed = (tmp_path / f"{name}.json" for name in ("whole", "first", "resumed"))
    assert gpt_description.main(_line(data, tmp_path / "a", whole)) == 0
    assert gpt_description.main(_line(data, tmp_path / "b", first, "--limit", "1")) == 0
    journal = tmp_path / "b" / "gpt_description" / "nano.jsonl"
    assert len(journal.read_text().splitlines()) == 3  # what the run is, and two answers
    with journal.open("a") as file:
        file.write('{"item": "2", "ans')  # what a kill cuts off
    assert gpt_description.main(_line(data, tmp_path / "b", resumed)) == 0
    expected, found = (json.loads(path.read_text()) for path in (whole, resumed))
    assert found["items"] == expected["items"]
    assert len(found["items"]) == 6
    assert journal.read_text() == (tmp_path / "a" / "gpt_description" / "nano.jsonl").read_text()
    line = ["--data", str(data), "--bundle", str(NANO), "--work", str(tmp_path / "b"), "--sample"]
    assert gpt_description.main(line) == 2
    assert "answers of another run" in capsys.readouterr().err


def test_sampling_depends_on_the_seed_only(tmp_path: Path) -> None:
    data = write_questions(tmp_path / "data", 1)
    found = {}
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        out = tmp_path / f"{name}.json"
        assert gpt_description.main(_line(data, tmp_path / name, out, "--sample", "--seed", seed)) == 0
        found[name] = {key: one["stored_text"] for key, one in json.loads(out.read_text())["items"].items()}
    assert found["a"] == found["b"]
    assert set(found["c"]) == {"0", "1"}


def test_an_image_that_cannot_be_read_is_named_and_counted(tmp_path: Path) -> None:
    data = write_questions(tmp_path / "data", 2)
    (data / "images" / "1.png").write_bytes(b"no image")
    out = tmp_path / "out.json"
    assert gpt_description.main(_line(data, tmp_path / "work", out)) == 0
    result = json.loads(out.read_text())
    assert set(result["items"]) == {"0", "1"}
    assert any("1.png" in reason for reason in result["left_out"]["broken"])


def test_questions_about_the_whole_image_name_no_region(tmp_path: Path) -> None:
    data = write_questions(tmp_path / "data", 1)
    line = {"question_id": 1, "image": "0.png", "text": "Is there a cup?", "label": "yes"}
    (data / "coco_pope_random.json").write_text(json.dumps(line))
    out = tmp_path / "out.json"
    assert pope.main(_line(data, tmp_path / "work", out)) == 0
    assert json.loads(out.read_text())["items"]["1"]["pred"] in (0, 1)
    with Describer(NANO, opening="image") as describer:
        describer.set_image(np.full((48, 64, 3), 90, np.uint8))
        assert describer.ask_image("Is there a cup?").region_id == 0
        with pytest.raises(PromptError, match="about the whole image"):
            describer.ask_image("What is <mask><pos>?")


def test_an_unknown_opening_is_an_error() -> None:
    with pytest.raises(PromptError, match="unknown opening 'none': choose one of overview, dotted, image, demo"):
        Describer(NANO, opening="none")


def _judgment(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], str]:
    """Fail once, then judge."""
    return (503, {}, "busy") if number == 1 else (200, {}, "8 6\nGood.")


def test_a_judge_is_asked_once_for_each_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_judge(write_questions(tmp_path / "data"))
    said, out = tmp_path / "said.json", tmp_path / "out.json"
    said.write_text(json.dumps({str(number): f"thing {number}" for number in range(6)}))
    with model_server(_judgment) as server:
        line = ["--data", str(data), "--answers", str(said), "--work", str(tmp_path / "work"), "--json", str(out)]
        judged = [*line, "--endpoint", server.url, "--model", "a judge", "--backoff", "0.01"]
        assert gpt_description.main([*judged, "--most-tokens", "100"]) == 0
        assert json.loads(out.read_text())["totals"]["replies"] == 0
        assert "bound on spending was reached: 6 items" in capsys.readouterr().err
        assert server.asked == []
        assert gpt_description.main(judged) == 0
        assert len(server.asked) == 7  # one was repeated
        first = server.asked[0]["messages"]
        assert [one["role"] for one in first] == ["system", "user"]
        assert first[1]["content"].startswith("[Context]\\Image ")
        assert gpt_description.main(judged) == 0
        assert len(server.asked) == 7
    totals = json.loads(out.read_text())["totals"]
    assert (totals["score"], totals["judge"], totals["replies"]) == (75.0, "a judge", 6)
    replies = {key: one["reply"] for key, one in json.loads(out.read_text())["items"].items()}
    (tmp_path / "replies.json").write_text(json.dumps(replies))
    assert gpt_description.main([*line, "--replies", str(tmp_path / "replies.json")]) == 0
    assert json.loads(out.read_text())["totals"]["score"] == 75.0
    assert gpt_description.main([*line, "--endpoint", "http://127.0.0.1:1/v1"]) == 2
    assert "--endpoint needs --model" in capsys.readouterr().err


class _Square:
    """A region of a given area."""

    def __init__(self, area: int) -> None:
        self.area = area

    def decode(self) -> np.ndarray:
        return np.ones((1, self.area), bool)


def _scored(values: dict[str, float], items: list[Item]) -> Scored:
    return Scored({}, {}, {}, [mean_measure("right", items, values)])


def test_parts_by_size_and_crowd_and_hidden_share() -> None:
    areas, crowds, hidden = (100, 1023, 1024, 9216), (1, 1, 3, 3), (0.0, 0.2, None, 0.8)
    items = [
        Item(str(n), Path(f"{n}.png"), "?", "overview", _Square(area), crowd=crowd, hidden=share)
        for n, (area, crowd, share) in enumerate(zip(areas, crowds, hidden, strict=True))
    ]
    found = parts(_scored({"0": 1.0, "1": 0.0, "2": 1.0, "3": 1.0}, items), {item.id: item for item in items}, 20)
    values = {
        kind: {part: (own["right"].value, own["right"].count) for part, own in members.items()}
        for kind, members in found.items()
    }
    assert values == {
        "size": {"small": (0.5, 2), "medium": (1.0, 1), "large": (1.0, 1)},
        "crowd": {"1 region": (0.5, 2), "2 to 5 regions": (1.0, 2)},
        "hidden": {"not hidden": (1.0, 1), "up to a quarter": (0.0, 1), "more": (1.0, 1)},
    }


def test_a_clear_difference_is_significant_and_none_is_not() -> None:
    items = [Item(str(n), Path(f"{n}.png"), "?", "overview") for n in range(40)]
    rng = np.random.default_rng(1)
    first = {item.id: float(value) for item, value in zip(items, rng.random(40), strict=True)}
    better = {one: value + 0.2 for one, value in first.items()}
    assert differences(_scored(first, items), _scored(better, items), 50)["right"]["p"] < 0.001
    assert differences(_scored(first, items), _scored(first, items), 50)["right"]["p"] == 1.0


def test_classes_can_be_scored_by_likelihood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_ade(tmp_path), tmp_path / "out.json"
    line = [*_line(data, tmp_path / "work", out)[:-4], "--opening", "overview", "--by", "likelihood"]
    assert ovseg_ade.main(line) == 0
    result = json.loads(out.read_text())
    shares = np.load(out.with_suffix(".npz"))["ADE_1__sim"]
    assert shares.shape == (3, 3)
    assert shares.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert result["items"]["ADE_1.jpg"]["label"] == shares.argmax(axis=1).tolist()
    (tmp_path / "said.json").write_text("{}")
    assert ovseg_ade.main(["--data", str(data), "--answers", str(tmp_path / "said.json"), "--by", "likelihood"]) == 2
    assert "give --bundle in place of --answers" in capsys.readouterr().err
