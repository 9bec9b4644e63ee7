"""Objects are found by words: those in view by what the model says of them, the others by what was said."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from evaluation import queries as measured
from osprey_ros.attributes import AttributeSpec
from osprey_ros.describer import Describer
from osprey_ros.objects import UNKNOWN, Attribute, SceneObject, State, Words
from osprey_ros.pipeline import Seen
from osprey_ros.queries import Finder, QueryError


@pytest.fixture(scope="module")
def describer() -> Describer:
    return Describer("nano", threads=1)


@pytest.fixture(scope="module")
def scene(describer: Describer) -> tuple[tuple[SceneObject, ...], Seen]:
    """Test scene 1: three pairs of scissors, balls and others, in the picture of the describer."""
    ((_, _, objects, seen),) = islice(measured.seen_scenes(describer, "test", True, seed=1), 1)
    return objects, seen


def _known(track: int, description: str, category: str, confidence: float = 0.9, **other: object) -> SceneObject:
    attributes = (Attribute("colour", description.split()[1], confidence),)
    thing = SceneObject(
        track_id=track,
        state=State.FRESH,
        reason="",
        words=Words(category, description, confidence, 5, attributes),
        first_seen=5,
        last_seen=7 + track,
        visible=False,
        instance_id=track,
        box=(40 * track, 50, 30, 30),
        area=500,
        appearance=np.zeros(4, np.float32),
    )
    return replace(thing, **other)  # type: ignore[arg-type]


def test_what_is_in_view_is_found_by_what_the_model_sees(
    describer: Describer, scene: tuple[tuple[SceneObject, ...], Seen]
) -> None:
    objects, seen = scene
    finder = Finder(describer)
    # The words that objects carry do not matter for those in view.
    silent = [replace(thing, words=None) for thing in objects]
    (clock,) = finder.find("where is the pink clock?", silent, seen).matches
    assert next(thing for thing in objects if thing.track_id == clock.track_id).category == "clock"
    assert clock.score > 0.9
    assert "clock" in clock.reason
    assert "pink" in clock.reason
    (same,) = finder.find("something pink", silent, seen).matches
    assert same.track_id == clock.track_id
    both = finder.find("scissors", objects, seen)
    assert len(both.matches) == 2
    assert [m.score for m in both.matches] == sorted((m.score for m in both.matches), reverse=True)
    assert finder.find("scissors", objects, seen, limit=1).matches == both.matches[:1]
    right = finder.find("the scissors on the right", objects, seen).matches[0].track_id
    left = finder.find("the scissors on the left", objects, seen).matches[0].track_id
    box = {thing.track_id: thing.box[0] for thing in objects}
    assert {left, right} == {m.track_id for m in both.matches}
    assert box[left] < box[right]
    assert both.stamp == seen.stamp


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("the elephant", "nothing here is an elephant"),
        ("the black clock", "nothing here is a black clock"),
        ("the clock next to the elephant", "nothing here is an elephant"),
        ("something to drink from", "nothing here is something to drink from"),
        ("xyzzy plugh 42", "nothing here is"),
    ],
)
def test_what_is_not_there_is_not_found_and_said_why(
    describer: Describer, scene: tuple[tuple[SceneObject, ...], Seen], text: str, why: str
) -> None:
    found = Finder(describer).find(text, *scene)
    assert found.matches == ()
    assert found.why.startswith(why)
    assert "likeliest" in found.why


def test_a_list_of_the_user_tells_what_things_are_like(
    describer: Describer, scene: tuple[tuple[SceneObject, ...], Seen]
) -> None:
    objects, seen = scene
    shade = AttributeSpec("shade", "What color is <mask><pos>?", values=("pink", "red", "grey"))
    matches = Finder(describer, [shade]).find("the pink thing", objects, seen).matches
    assert objects[[thing.track_id for thing in objects].index(matches[0].track_id)].category == "clock"
    # Without one, such words only help to choose: all clocks may be meant.
    assert Finder(describer, []).find("the black clock", objects, seen).matches[0].track_id == matches[0].track_id


def test_what_is_out_of_view_is_found_by_its_words(describer: Describer) -> None:
    finder = Finder(describer)
    objects = [
        _known(1, "a red mug", "mug"),
        _known(2, "a blue mug", "mug"),
        _known(3, "a white bowl", UNKNOWN, 0.8),
        replace(_known(4, "a grey box", "box"), words=None, label="toaster", score=0.7),
    ]

    def tracks(text: str) -> list[int]:
        return [match.track_id for match in finder.find(text, objects, None).matches]

    assert tracks("mugs") == [1, 2]
    assert tracks("the blue mug") == [2]
    assert tracks("a bowl") == [3]
    assert tracks("the toaster") == [4]
    assert tracks("the green mug") == []
    assert tracks("the mug to the left of the bowl")[0] == 2  # the nearer
    assert tracks("the leftmost mug")[0] == 1
    assert finder.find("mug", objects, None).stamp == 11
    # The same objects in view of another frame are judged by it, the rest by their words.
    assert finder.find("mug", [], None).why == "no object is known yet"
    with pytest.raises(QueryError, match="empty"):
        finder.find("  ", objects, None)


def test_a_sample_of_the_measured_questions_is_answered(describer: Describer) -> None:
    asked = measured.ask(describer, 32, "test")
    assert [one.kind for one in asked] == measured.kinds(32)
    shares = measured.summary(asked)
    assert shares[measured.NAMED] >= 0.85  # 300 questions are in the evaluation; these are a sample
    assert shares[measured.RELATED] >= 0.60
    assert shares[measured.ABSENT] <= 0.25
    again = measured.ask(describer, 4, "test")
    assert [one.text for one in again] == [one.text for one in asked[:4]]


def test_the_command_prints_its_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert measured.main(["--questions", "4", "--no-depth", "--json", str(out)]) == 0
    assert "target 85%" in capsys.readouterr().out
    assert len(json.loads(out.read_text())["asked"]) == 4
    assert measured.main(["--bundle", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
