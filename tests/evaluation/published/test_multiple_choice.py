"""DLC-Bench: prompts, which choice a reply makes, and scores with recorded replies."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from evaluation.published.dlc_bench import main
from evaluation.published.multiple_choice import INFLECT, parse_choice, prompt, recognition, score_replies
from osprey_ros.errors import InputError

_COLORS = ["The color is not mentioned.", "The color is red.", "red"]
_YES_NO = ["Yes", "No"]


def _inflect() -> str:
    try:
        return version("inflect")
    except PackageNotFoundError:
        return ""


needs_inflect = pytest.mark.skipif(_inflect() != INFLECT, reason=f"inflect {INFLECT} is not installed")


@pytest.mark.parametrize(
    ("reply", "choices", "expected"),
    [
        ("The color is red.", _COLORS, 1),
        ("b. the color is RED.", _COLORS, 1),
        ("C", _COLORS, 2),
        ("It is red, I think", _COLORS, 2),
        ("A. maybe", _COLORS, 0),  # a letter with a full stop
        ("red. The color is red.", _COLORS, 1),  # the sentence begins later than the first "red"
        ("color is red", _COLORS, 2),  # the only choice inside
        ("color", _COLORS, 0),  # the longest choice around it
        ("Unknown", _YES_NO, 1),
        ("not likely", _YES_NO, 1),
        ("D)", _COLORS, None),
        ("The answer is B", _COLORS, None),
        ("b\nbecause", _COLORS, 1),
    ],
)
def test_the_choice_of_a_reply(reply: str, choices: list[str], expected: int | None) -> None:
    assert parse_choice(reply, choices) == expected


@pytest.mark.parametrize("reply", ["", "  ", "c", "E"])
def test_the_published_parser_stops_at_an_empty_reply_and_at_a_letter_without_a_choice(reply: str) -> None:
    with pytest.raises(IndexError):
        parse_choice(reply, _YES_NO)


def _questions() -> list[dict[str, Any]]:
    return [
        {"question": "Is it a cup?", "choices": [["Yes", "correct"], ["No", "incorrect"]], "type": "recognition"},
        {"question": "Color?", "choices": [["none", 0], ["red", 1], ["blue", -1]], "type": "positive"},
        {"question": "Size?", "choices": [["none", 0], ["small", 0.5]], "type": "positive"},
        {"question": "A lid?", "choices": [["a lid", -1], ["nothing", 1]], "type": "negative"},
    ]


def test_scores_by_hand() -> None:
    scored = score_replies(_questions(), ["Yes", "B", "small", "nothing"])
    assert scored["score_pos"] == (1 + 0.5) / 2
    assert scored["score_neg"] == 1
    assert scored["score"] == (1 + 0.5 + 1) / 3


def test_without_recognition_no_score_is_above_0() -> None:
    scored = score_replies(_questions(), ["No", "B", "small", "a lid"])
    assert (scored["score_pos"], scored["score_neg"]) == (0, -1)


def test_a_reply_without_a_choice_scores_0_and_an_empty_one_is_an_error() -> None:
    assert score_replies(_questions(), ["Yes", "D)", "none", "nothing"])["score_pos"] == 0
    with pytest.raises(InputError, match=r"the reply '' to 'Color\?' is empty"):
        score_replies(_questions(), ["Yes", "", "none", "nothing"])


def test_the_prompt_lists_the_choices_with_letters() -> None:
    text = prompt("A red cup.", _questions()[1])
    assert text.endswith("one of the choices:\nColor?\nA. none\nB. red\nC. blue\n")
    assert "The description is:\nA red cup.\n\nFrom" in text


@needs_inflect
@pytest.mark.parametrize(
    ("name", "words"),
    [("cup", "object in the description is a cup or"), ("apple", "is an apple or"), ("bus", "is a bus or"),
     ("wine glass", "objects in the description are wine glass or"), ("Bus", "objects in the description are Bus or"),
     ("dress", "are dress or"), ("skis", "are skis or")],
)  # fmt: skip
def test_plurals_are_those_of_the_pinned_library(name: str, words: str) -> None:
    assert words in recognition(name)["question"]


def test_evaluated_outputs_are_replayed_without_the_questions_of_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated = {}
    for key, replies in (("11", ["Yes", "B", "small", "nothing"]), ("12", ["No", "red", "none", "a lid"])):
        details: dict[str, list[dict[str, Any]]] = {"recognition": [], "positive": [], "negative": []}
        for number, question in enumerate(_questions()):
            details[question["type"]].append({**question, "question_index": number - 1})
        evaluated[key] = {
            "details_recognition": details["recognition"],
            "details_positives": details["positive"],
            "details_negatives": details["negative"],
            "response": replies,
        }
    (tmp_path / "said_eval.json").write_text(json.dumps({**evaluated, "avg_pos": 0.0}))
    (tmp_path / "said.json").write_text('{"11": "A small red cup.", "12": "A dog."}')
    out = tmp_path / "out.json"
    line = ["--data", str(tmp_path), "--answers", str(tmp_path / "said.json"), "--json", str(out)]
    assert main([*line, "--replies", str(tmp_path / "said_eval.json"), "--model", "a judge"]) == 0
    totals = json.loads(out.read_text())["totals"]
    assert totals["avg_pos"] == (0.75 + 0) / 2
    assert totals["avg_neg"] == (1 - 1) / 2
    assert totals["avg"] == 0.1875
    assert totals["judge"] == "a judge"
    assert "avg, judged by a judge" in capsys.readouterr().out
    # The results are replies themselves.
    assert main([*line[:4], "--replies", str(tmp_path / "said_eval.json"), "--json", str(tmp_path / "again.json")]) == 0
    assert main(line) == 2
    assert "has no qa.json" in capsys.readouterr().err
