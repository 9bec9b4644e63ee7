"""Prompts of the published evaluation, what is kept of an answer, and what files of answers may look like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.published.answers import read_answers
from evaluation.published.items import Item
from evaluation.published.texts import between_colons, prompt_text, stripped
from osprey_ros.decoding.prompt import OSPREY_V1
from osprey_ros.errors import InputError

_ITEMS = [Item(f"a.jpg#{number}", Path("a.jpg"), "What?", "overview") for number in (3, 7)]


def _after_the_role(question: str, opening: str) -> str:
    text = prompt_text(question, opening)
    assert text.startswith(f"{OSPREY_V1.system} USER: <image>\n")
    return text.removeprefix(f"{OSPREY_V1.system} USER: ")


@pytest.mark.parametrize(
    ("question", "opening", "expected"),
    [
        ("What? ", "overview", "<image>\nThis provides an overview of the picture.\nWhat? ASSISTANT:"),
        ("  What?", "overview", "<image>\nThis provides an overview of the picture.\n  What? ASSISTANT:"),
        ("What?\n", "dotted", "<image>\n.\nThis provides an overview of the picture.\nWhat? ASSISTANT:"),
        ("What?", "demo", "<image>\n\nThis provides an overview of the picture.\nWhat? ASSISTANT:"),
        ("  Is it there? ", "image", "<image>\nIs it there? ASSISTANT:"),
        ("Is an <image> there?", "image", "<image>\nIs an  there? ASSISTANT:"),
    ],
)
def test_the_prompt_has_the_opening_and_loses_spaces_and_images_of_the_question(
    question: str, opening: str, expected: str
) -> None:
    assert _after_the_role(question, opening) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("  a cup  ", "a cup"), ("a cup</s>", "a cup"), ("a cup </s>", "a cup"), ("cup</s></s>", "cup</s>"), ("", "")],
)
def test_one_end_marker_and_outer_spaces_are_cut(answer: str, expected: str) -> None:
    assert stripped(answer) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a cup", "a cup"), ("a: b", " b"), ("a:b:c", "b"), ("the time is 4:35", "35"), ("cup:", "")],
)
def test_an_answer_with_colons_keeps_what_is_between_the_first_two(text: str, expected: str) -> None:
    assert between_colons(text) == expected


@pytest.mark.parametrize(
    ("content", "stored"),
    [
        ('{"a.jpg#3": "cup", "a.jpg#7": "mug"}', False),
        ('{"a.jpg": {"3": "cup", "7": "mug"}}', False),
        ('{"a.jpg": ["cup", "mug"]}', False),
        ('{"item": "a.jpg#7", "answer": "mug"}\n{"item": "a.jpg#3", "answer": "cup"}\n', False),
        ('[{"question_id": 1, "text": "cup"}, {"question_id": 2, "text": "mug"}]', True),
        ('{"question": "What?", "answer": "cup"}\n{"question": "What?", "answer": "mug"}\n', True),
        ('[{"image_id": "3", "caption": "cup"}, {"image_id": "7", "caption": "mug"}]', True),
    ],
)
def test_files_of_answers_have_many_forms(tmp_path: Path, content: str, stored: bool) -> None:
    file = tmp_path / "answers.json"
    file.write_text(content)
    answers = read_answers(file, _ITEMS)
    assert dict(answers.texts) == {"a.jpg#3": "cup", "a.jpg#7": "mug"}
    assert answers.stored == stored


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"a.jpg#3": "cup"}, r"no answer to 1 of 2 items, the first is 'a.jpg#7'"),
        ({"b.jpg#3": "cup"}, r"no answer belongs to the data"),
        ({"a.jpg": ["cup"]}, r"a.jpg: 1 answers for 2 regions"),
        ({"a.jpg#3": 5}, r"a.jpg#3: the answer is 5"),
        ([{"text": "cup"}], r"1 answers in order, the data have 2 items"),
        ([{"text": None}, {"text": "mug"}], r"a.jpg#3: the answer is None"),
    ],
)
def test_a_wrong_file_of_answers_is_named(tmp_path: Path, content: object, expected: str) -> None:
    file = tmp_path / "answers.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=expected):
        read_answers(file, _ITEMS)


def test_missing_answers_can_be_left_out(tmp_path: Path) -> None:
    file = tmp_path / "answers.json"
    file.write_text('{"a.jpg#3": "cup"}')
    assert dict(read_answers(file, _ITEMS, allow_missing=True).texts) == {"a.jpg#3": "cup"}
