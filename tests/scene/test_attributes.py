"""Attributes: how they are configured, asked for together with the description, and turned into words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import SampleImage, TinyModel, up_to

from osprey_ros import Describer
from osprey_ros.decoding.constraints import Matching, OneOf
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.errors import InputError
from osprey_ros.results import Description, Result
from osprey_ros.scene.attributes import AttributeSpec, attributes_from
from osprey_ros.scene.captions import captions_from, questions_for
from osprey_ros.scene.settings import StepSettings
from osprey_ros.scene.types import UNKNOWN
from osprey_ros.timing import Timing

COLOR = AttributeSpec("colour", values=("red", "green"))
WIDTH = AttributeSpec("width", "How wide is <mask><pos>?", pattern=r"\d{1,2} cm")


SETTINGS = StepSettings(attributes=(COLOR, WIDTH))


def _answer(text: str, confidence: float, ended: bool = True) -> Result:
    logprobs = np.log(np.full(2, confidence, np.float32))
    return Result("", (Description(3, text, np.array([5, 2]), logprobs, confidence, 0.99, ended),), Timing())


def test_lines_become_attributes() -> None:
    lines = ["colour = red | green", r"width = /\d{1,2} cm/; How wide is <mask><pos>?", "state", "kind; What is it?"]
    specs = attributes_from(lines)
    assert specs[:2] == (COLOR, WIDTH)
    assert [spec.question for spec in specs] == [
        *("What color is <mask><pos>?", "How wide is <mask><pos>?", "What state is <mask><pos>?", "What is it?"),
    ]
    assert [spec.constraint for spec in specs] == [OneOf(("red", "green")), Matching(r"\d{1,2} cm"), None, None]
    assert attributes_from(["a = /x;y|z/; Which?"]) == (AttributeSpec("a", "Which?", pattern="x;y|z"),)
    assert attributes_from([]) == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "write NAME"),
        ("= red", "write NAME"),
        ("2nd = red", "'2nd': a name is letters"),
        ("colour = red || green", "an answer in the list"),
        ("width = /(/", "not a regular expression"),
    ],
)
def test_wrong_lines_are_named(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("|", r"\|")):
        attributes_from([line])


def test_an_attribute_has_values_or_a_pattern() -> None:
    with pytest.raises(InputError, match="values or a pattern, not both"):
        AttributeSpec("a", values=("x",), pattern="y")


def test_a_name_comes_once() -> None:
    with pytest.raises(InputError, match="colour is given more than once"):
        attributes_from(["colour", "width", "colour = red"])


def test_words_are_made_of_one_call(tiny_model: TinyModel, sample: SampleImage) -> None:
    describer = Describer(tiny_model.bundle, threads=1)
    describer.set_image(sample.rgb)
    settings = SETTINGS
    questions, constraints = questions_for(settings)
    assert questions == [QUESTIONS["short"], QUESTIONS["category"], COLOR.question, WIDTH.question]
    results = describer.answer(sample.ids, questions, config=up_to(30), constraints=constraints)
    words = captions_from(results, settings, stamp=17)
    assert len(words) == 5
    for row, said in enumerate(words):
        assert (said.description, said.category) == (results[0][row].text or UNKNOWN, results[1][row].text or UNKNOWN)
        assert said.described_at == 17
        colour, width = said.attributes
        assert (colour.name, width.name) == ("colour", "width")
        assert colour.value in COLOR.values
        assert 0.5 <= colour.confidence <= 1
        assert width.value == UNKNOWN or Matching(WIDTH.pattern).accepts(width.value)
    assert any(said.attributes[1].value != UNKNOWN for said in words)


def test_the_category_alone_is_description_too() -> None:
    (said,) = captions_from([_answer("mug", 0.9)], StepSettings(style="category"), 1)
    assert (said.category, said.description) == ("mug", "mug")
    (said,) = captions_from([_answer("a mug", 0.9)], StepSettings(categories=False), 1)
    assert (said.category, said.description) == ("", "a mug")


def test_an_answer_with_less_confidence_is_unknown() -> None:
    results = [_answer("a mug", 0.5), _answer("mug", 0.75), _answer("red", 0.59), _answer("9 cm", 0.73)]
    (said,) = captions_from(results, replace(SETTINGS, min_confidence=0.6), 1)
    assert (said.description, said.category, said.confidence) == (UNKNOWN, "mug", 0.5)
    assert [(a.value, a.confidence) for a in said.attributes] == [(UNKNOWN, 0.59), ("9 cm", 0.73)]


def test_what_was_cut_off_is_unknown() -> None:
    results = [
        _answer("a m", 0.9, ended=False),
        _answer("", 0.9),
        _answer("red", 0.9),
        _answer("9 c", 0.9),
    ]
    (said,) = captions_from(results, SETTINGS, 1)
    assert (said.description, said.category, said.confidence) == (UNKNOWN, UNKNOWN, 0.0)
    assert [(a.value, a.confidence > 0) for a in said.attributes] == [("red", True), (UNKNOWN, False)]
