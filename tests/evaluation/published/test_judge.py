"""The judge of descriptions: its message, the scores of a reply, the ratio, and the commands with recorded replies."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from PIL import Image

from evaluation.published import ferret_bench, gpt_description
from evaluation.published.judge import FAILED, message, parse_scores, ratio, without_boxes


@pytest.mark.parametrize(
    "reply",
    ["7, 5", "7  5", " 7 5", "7 5 ", "7\t5", "8/10 7/10", "**8 9**", "", "8", "8 9 10", "Score: 8 9", "\n8 9"],
)
def test_the_published_parser_fails_on_these(reply: str) -> None:
    assert parse_scores(reply) == FAILED


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("8 9", (8, 9)), ("8 9.\nBecause", (8, 9)), ("8,9", (8, 9)), ("８ ９", (8, 9)), ("7.5 1e1", (7.5, 10))],
)
def test_the_published_parser_reads_these(reply: str, expected: tuple[float, float]) -> None:
    assert parse_scores(reply) == expected


def test_not_a_number_is_read() -> None:
    first, second = parse_scores("nan 5")
    assert math.isnan(first)
    assert second == 5


def test_the_ratio_rounds_the_means_first_and_counts_failures_as_minus_one() -> None:
    scores = [(8.0, 7.0), (9.0, 6.0), (7.0, 7.0)]
    assert ratio(scores, 2) == round(6.667 / 8.0 * 100, 2) == 83.34
    assert ratio(scores, 1) == 83.3
    assert ratio([(9.0, 9.0), FAILED], 2) == 100.0
    assert math.isnan(ratio([], 2))


def test_the_message_has_a_backslash_before_the_context() -> None:
    text = message("A cup.", "What is <region>?", "one", "two", "Assistant", "Rate.")
    assert text == (
        "[Context]\\A cup.\n\n[Question]\nWhat is <region>?\n\n[Assistant 1]\none\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\ntwo\n\n[End of Assistant 2]\n\n[System]\nRate.\n\n"
    )


def test_boxes_are_removed_where_a_space_stands_before_them() -> None:
    assert without_boxes("a cup [1, 2] on[3] a [4] table") == "a cup on[3] a table"


_POLYGON = {"bbox": [4, 4, 10, 10], "segmentation": [[4, 4, 14, 4, 14, 14, 4, 14]]}


def _questions(folder: Path, name: str) -> list[dict[str, object]]:
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (32, 24), (90, 60, 30)).save(folder / "images" / "a.jpg")
    records: list[dict[str, object]] = [
        {"question_id": n, "image": "a.jpg", "category": "description", "text": "Describe <region>.",
         "annotation": _POLYGON}
        for n in (5, 6)
    ]  # fmt: skip
    (folder / name).write_text(json.dumps(records))
    return records


def test_descriptions_are_scored_with_recorded_replies(tmp_path: Path) -> None:
    records = _questions(tmp_path, "questions.json")
    (tmp_path / "prompt.json").write_text(json.dumps([{"image": "a.jpg", "prompt": "A brown image."}]))
    (tmp_path / "answers.json").write_text(json.dumps([{"question_id": 0, "text": t} for t in ("first", "second")]))
    (tmp_path / "rule.json").write_text(json.dumps({"description": {"role": "Assistant", "prompt": "Rate."}}))
    said, replies, out = (tmp_path / name for name in ("said.json", "replies.jsonl", "out.json"))
    said.write_text(json.dumps({"5": "It says: a cup: here", "6": "brown</s>"}))
    replies.write_text("".join(json.dumps({"content": text}) + "\n" for text in ("8 6\nGood.", "7, 5")))
    line = ["--data", str(tmp_path), "--answers", str(said), "--json", str(out)]
    assert gpt_description.main([*line, "--replies", str(replies), "--model", "a judge", "--resamples", "20"]) == 0
    result = json.loads(out.read_text())
    first = result["items"]["5"]
    assert first["stored_text"] == " a cup"
    assert first["judge_user"] == message(
        "A brown image.", "Describe <region>.", "first", " a cup", "Assistant", "Rate."
    )
    assert (first["scores"], result["items"]["6"]["scores"]) == ([8.0, 6.0], [-1.0, -1.0])
    assert result["totals"] == {
        "judge": "a judge",
        "replies": 2,
        "failed_replies": 1,
        "score": round(2.5 / 3.5 * 100, 2),
        "by_category": {"description": 71.43},
    }
    assert records[0]["question_id"] == 5
    assert "Describe <mask><pos>. ASSISTANT:" in first["prompt"]


def test_ferret_needs_its_own_files_for_the_judge_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _questions(tmp_path / "data", "box_refer_reason.json")
    said, out = tmp_path / "said.json", tmp_path / "out.json"
    said.write_text(json.dumps({"5": "a: cup [0.1, 0.2]", "6": "brown"}))
    line = ["--data", str(tmp_path / "data"), "--answers", str(said), "--json", str(out)]
    assert ferret_bench.main(line) == 0
    result = json.loads(out.read_text())
    assert result["items"]["5"]["stored_text"] == "a: cup [0.1, 0.2]"  # no cut at the colon
    assert "judge_user" not in result["items"]["5"]
    ferret = tmp_path / "refer_reason"
    ferret.mkdir()
    category = {"image": "b.jpg", "category": "refer_reason"}
    for name, texts in (("question", "Why? [0, 1]"), ("answer", "Because."), ("context", "Objects:")):
        (ferret / f"{name}.jsonl").write_text(f"{json.dumps({**category, 'text': texts})}\n" * 2)
    rules = {"refer_reason": {"role": "Assistant", "prompt": "Rate."}}
    (tmp_path / "rule.json").write_text(json.dumps(rules))
    assert ferret_bench.main([*line, "--ferret", str(ferret)]) == 0
    message_of_first = json.loads(out.read_text())["items"]["5"]["judge_user"]
    assert message_of_first == message("Objects:", "Why? [0, 1]", "Because.", "a: cup", "Assistant", "Rate.")
    assert ferret_bench.main([*line, "--ferret", str(tmp_path)]) == 2
    assert "lacks one of question.jsonl" in capsys.readouterr().err


def test_replies_can_be_parsed_alone(tmp_path: Path) -> None:
    replies, out = tmp_path / "replies.json", tmp_path / "parsed.json"
    replies.write_text(json.dumps({"a": "8 9", "b": "none"}))
    assert gpt_description.main(["--parse", str(replies), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["parser"] == {"a": [8.0, 9.0], "b": [-1.0, -1.0]}
