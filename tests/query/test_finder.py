"""Objects are found by words: those in view by what the model says of them, the others by what was said."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation import queries as measured
from osprey_ros.describer import Describer
from osprey_ros.errors import PromptError, StoppedError
from osprey_ros.pipeline import Seen
from osprey_ros.query import finder as queries
from osprey_ros.query.finder import Finder
from osprey_ros.query.grammar import Relation
from osprey_ros.query.spatial import Places, holds
from osprey_ros.results import EncodedRegions, Scores
from osprey_ros.scene.attributes import AttributeSpec
from osprey_ros.scene.types import UNKNOWN, Attribute, SceneObject, State, Words


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
    # Nor are they needed to tell a kind from the others.
    assert [match.track_id for match in finder.find("the clock", silent, seen).matches] == [clock.track_id]
    both = finder.find("scissors", objects, seen)
    assert len(both.matches) == 2
    assert [m.score for m in both.matches] == sorted((m.score for m in both.matches), reverse=True)
    assert finder.find("scissors", objects, seen, limit=1).matches == both.matches[:1]
    right = finder.find("the scissors on the right", objects, seen).matches[0].track_id
    left = finder.find("the scissors on the left", objects, seen).matches[0].track_id
    box = {thing.track_id: thing.box[0] for thing in objects}
    assert {left, right} == {m.track_id for m in both.matches}
    assert box[left] < box[right]


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
    # The same objects in view of another frame are judged by it, the rest by their words.
    assert finder.find("mug", [], None).why == "no object is known yet"
    with pytest.raises(PromptError, match="empty"):
        finder.find("  ", objects, None)


def test_one_without_a_place_in_space_leaves_the_others_theirs(describer: Describer) -> None:
    # In space the blue mug is left of the bowl; the boxes, of moments before the camera turned, have it otherwise.
    objects = [
        _known(1, "a white bowl", "bowl", position=(0.0, 0.0, 1.0)),
        _known(2, "a blue mug", "mug", position=(-0.3, 0.0, 1.0)),
        _known(3, "a red mug", "mug", position=(0.3, 0.0, 1.0), box=(0, 50, 30, 30)),
        _known(4, "a grey lamp", "lamp"),
    ]

    def tracks(text: str) -> list[int]:
        return [match.track_id for match in Finder(describer).find(text, objects, None).matches]

    assert tracks("the mug to the left of the bowl") == [2]
    # What may be meant itself must have one: the boxes count for all again.
    objects[3] = _known(4, "a green mug", "mug")
    assert tracks("the mug to the left of the bowl") == [3]


@pytest.mark.parametrize("text", ["?", " ...!", "the mug next to -", "between the mug and --"])
def test_a_question_without_words_is_refused(
    describer: Describer, scene: tuple[tuple[SceneObject, ...], Seen], text: str
) -> None:
    objects, seen = scene
    for things, view in (((), None), (objects, None), (objects, seen)):
        with pytest.raises(PromptError, match=f"{re.escape(repr(text))} has no word.*ask for something"):
            Finder(describer).find(text, things, view)


@pytest.mark.parametrize(
    ("text", "most"), [("the book between the mug and the bowl", 1024), ("the book next to the bowl", 200)]
)
def test_relations_between_many_objects_cost_little(
    describer: Describer, monkeypatch: pytest.MonkeyPatch, text: str, most: int
) -> None:
    objects = [_known(n + 1, "a grey box", "box", box=(60 * (n % 20), 60 * (n // 20), 30, 30)) for n in range(200)]
    names = {3: "a green book", 23: "a red mug", 24: "a blue book", 25: "a white bowl", 181: "a white book"}
    for n, description in names.items():
        objects[n] = _known(n + 1, description, description.split()[2], box=objects[n].box)
    evaluated = 0

    def counted(relation: Relation, here: Places, targets: Any, references: Any) -> Any:
        nonlocal evaluated
        degrees = holds(relation, here, targets, references)
        evaluated += np.size(degrees)
        assert evaluated <= most * len(objects)
        return degrees

    monkeypatch.setattr(queries, "holds", counted)
    found = Finder(describer).find(text, objects, None, limit=1).matches
    assert [match.track_id for match in found] == [25]
    assert evaluated > 0


def test_as_many_kinds_are_compared_as_can_be_in_view(
    describer: Describer, scene: tuple[tuple[SceneObject, ...], Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, seen = scene
    clock = next(thing for thing in objects if thing.category == "clock")
    gone = [_known(1000 + n, f"a grey kind{n}", f"kind{n}") for n in range(200)]
    scored: list[str] = []
    score = describer.score

    def watched(regions: EncodedRegions, phrases: Sequence[str], *others: Any, **options: Any) -> Scores:
        scored.extend(phrases)
        return score(regions, phrases, *others, **options)

    monkeypatch.setattr(describer, "score", watched)
    (match,) = Finder(describer).find("the pink clock", [*gone, *objects], seen).matches
    assert match.track_id == clock.track_id
    in_view = {thing.category for thing in objects} - {UNKNOWN}
    assert in_view <= set(scored)
    assert set(scored) - set(queries.COLOUR.values) <= {*in_view, "clock"}

    many = [replace(thing, words=_known(1, "a grey box", f"kind{n}").words) for n, thing in enumerate(objects)]
    many = [*many, *(replace(many[0], words=thing.words) for thing in gone)]
    scored.clear()
    Finder(describer).find("the clock", many, seen)
    assert "clock" in scored
    assert len(scored) <= 32


def test_a_search_can_be_stopped(describer: Describer, scene: tuple[tuple[SceneObject, ...], Seen]) -> None:
    objects, seen = scene
    texts = ("the pink clock", "something to drink from", "the clock between the scissors")
    for text in texts:
        asked = 0

        def count() -> bool:
            nonlocal asked
            asked += 1
            return False

        found = Finder(describer).find(text, objects, seen, should_stop=count)
        assert asked > 1
        for last in range(1, asked):  # the last time, all may be there already
            left = iter(range(last - 1))
            finder = Finder(describer)
            with pytest.raises(StoppedError, match="stopped"):
                finder.find(text, objects, seen, should_stop=lambda left=left: next(left, None) is None)
            if last in (1, asked - 1):  # and asked again, it is found
                again = finder.find(text, objects, seen)
                assert [match.track_id for match in again.matches] == [match.track_id for match in found.matches]


def test_a_sample_of_the_measured_questions_is_answered(describer: Describer) -> None:
    asked = measured.ask(describer, 32, "test")
    assert [one.kind for one in asked] == measured.kinds(32)
    shares = measured.summary(asked)
    assert shares[measured.NAMED] >= 0.85  # 300 questions are in the evaluation; these are a sample
    assert shares[measured.RELATED] >= 0.60
    assert shares[measured.ABSENT] <= 0.25
    again = measured.ask(describer, 4, "test")
    assert [one.text for one in again] == [one.text for one in asked[:4]]


def test_what_was_not_asked_has_no_share() -> None:
    one = measured.Asked(0, measured.NAMED, "the red mug", (1,), True, (0.9,), (True,))
    assert measured.summary([one]) == {measured.NAMED: 1.0}
    missed = replace(one, kind=measured.ABSENT)
    assert measured.summary([one, missed]) == {measured.NAMED: 1.0, measured.ABSENT: 0.0}
    assert measured.summary([]) == {}


def test_the_command_leaves_out_what_was_not_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The object is far from what was asked: no score comes into question.
    asked = [measured.Asked(0, measured.NAMED, "the red mug", (), False, (0.001,), (True,))]
    monkeypatch.setattr(measured, "ask", lambda *_: asked)
    out = tmp_path / "out.json"
    assert measured.main(["--questions", "1", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert measured.NAMED in printed
    assert measured.RELATED not in printed
    assert measured.ABSENT not in printed
    assert "calibration error" not in printed
    assert set(json.loads(out.read_text())) == {"shares", "asked"}


@pytest.mark.parametrize("option", ["--questions", "--fit-questions"])
def test_no_question_is_a_usage_error(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        measured.main(["--bundle", str(tmp_path / "none"), option, "0"])
    assert ended.value.code == 2
    assert f"argument {option}: '0' is not a whole number of at least 1" in capsys.readouterr().err


def test_the_command_prints_its_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert measured.main(["--questions", "4", "--no-depth", "--json", str(out)]) == 0
    assert "target 85%" in capsys.readouterr().out
    assert len(json.loads(out.read_text())["asked"]) == 4
    assert measured.main(["--bundle", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
