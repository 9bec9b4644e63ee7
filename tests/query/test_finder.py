"""Objects are found by words: in view by the model's answers, else by their captions."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evaluation import queries as measured
from osprey_ros.describer import Describer
from osprey_ros.errors import PromptError, StoppedError
from osprey_ros.kinds.back_off import KindProbability
from osprey_ros.query import spatial
from osprey_ros.query.finder import COLOR, MAX_UNCONFIRMED_SCORE, Finder
from osprey_ros.query.question import Relation
from osprey_ros.query.spatial import Places, holds
from osprey_ros.results import EncodedRegions, Scores
from osprey_ros.scene.attributes import AttributeSpec
from osprey_ros.scene.history import ObservedFrame
from osprey_ros.scene.types import UNKNOWN, Attribute, Caption, SceneObject, State
from osprey_ros.system.cancellation import CancellationToken, PolledToken


@pytest.fixture(scope="module")
def describer() -> Describer:
    return Describer("nano", threads=1)


@pytest.fixture(scope="module")
def scene(describer: Describer) -> tuple[tuple[SceneObject, ...], ObservedFrame]:
    """Test scene 1: three pairs of scissors, balls and others, in the image of the describer."""
    ((_, objects, seen),) = measured.seen_scenes(describer, "test", True, [1])
    return objects, seen


def _known(track: int, description: str, category: str, confidence: float = 0.9, **other: object) -> SceneObject:
    attributes = (Attribute("colour", description.split()[1], confidence),)
    thing = SceneObject(
        track_id=track,
        state=State.FRESH,
        reason="",
        caption=Caption(category, description, confidence, 5, attributes),
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
    describer: Describer, scene: tuple[tuple[SceneObject, ...], ObservedFrame]
) -> None:
    objects, seen = scene
    finder = Finder(describer)
    # The words that objects carry do not matter for those in view.
    silent = [replace(thing, caption=None) for thing in objects]
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


def test_the_tree_of_kinds_is_evidence(
    describer: Describer, scene: tuple[tuple[SceneObject, ...], ObservedFrame]
) -> None:
    """Objects whose category is "object" are compared by their most likely kinds, and found by more general ones."""
    objects, seen = scene

    def backed_off(thing: SceneObject) -> SceneObject:
        kinds = (thing.category, 0.7), ("tool" if thing.category == "scissors" else "thing", 0.8), ("object", 1.0)
        assert thing.caption is not None
        chain = tuple(KindProbability(*kind) for kind in kinds)
        return replace(thing, caption=replace(thing.caption, category="object", kinds=chain))

    vague, finder = [backed_off(thing) for thing in objects], Finder(describer)
    for text in ("the clock", "scissors"):
        assert [(m.track_id, m.score) for m in finder.find(text, vague, seen).matches] == [
            (m.track_id, pytest.approx(m.score, abs=0.01)) for m in finder.find(text, objects, seen).matches
        ]
    scissors = {thing.track_id for thing in objects if thing.category == "scissors"}
    for frame in (seen, None):
        found = finder.find("the tools", vague, frame).matches
        assert {m.track_id for m in found} == scissors
        assert all(m.score > 0.75 for m in found)
        assert {m.reason for m in found} == {"tools 0.80"}


@pytest.fixture(scope="module")
def find(describer: Describer) -> Callable[[str], dict[str, float]]:
    """Ask about test scene 7: captions of the matches with their scores, and "" with the message if there is one.

    It shows a small blue ball and a red ball on the left of it, a small green bottle with a cap, a small green vase, an
    orange hammer, a cyan can, a large orange lamp and a small purple dice.
    """
    ((_, objects, seen),) = measured.seen_scenes(describer, "test", True, [7])
    captions = {thing.track_id: thing.description for thing in objects}
    finder = Finder(describer)

    def ask(text: str) -> dict[str, float]:
        describer.set_image(seen.rgb, seen.encoded.image_id)
        found = finder.find(text, objects, seen)
        answers = {captions[match.track_id]: match.score for match in found.matches}
        return answers | ({found.message: 0.0} if found.message else {})

    return ask


RED, BLUE, BOTTLE, VASE = "a red ball", "a small blue ball", "a small green bottle", "a small green vase"
HAMMER, CAN, LAMP, DICE = "an orange hammer", "a cyan can", "a large orange lamp", "a small purple dice"
ALL = {RED, BLUE, BOTTLE, VASE, HAMMER, CAN, LAMP, DICE}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("not the red ball", ALL - {RED}),
        ("the ball that is not red", {BLUE}),
        ("the bottle with a cap", {BOTTLE}),
        ("anything but the ball", ALL - {RED, BLUE}),
        ("neither the lamp nor the can", ALL - {LAMP, CAN}),
        ("the balls except the biggest", {BLUE}),
        ("the biggest ball", {RED}),
        ("the smallest ball", {BLUE}),
        ("the leftmost ball", {RED}),
        ("the second ball from the left", {BLUE}),
        ("the last ball from the left", {BLUE}),
        ("the farthest orange thing", {LAMP}),
        ("the ball nearest to the can", {RED}),
        ("the ball farthest from the can", {BLUE}),
        ("the ball in red", {RED}),
        ("the ball of blue color", {BLUE}),
        ("the small ball", {BLUE}),
        ("the thing with a handle", {HAMMER}),
        ("the orange thing without a handle", {LAMP}),
        ("the red ball and the green vase", {RED, VASE}),
        ("the ball that is to the left of the can", {RED}),
        ("the ball that is not to the left of the can", {BLUE}),
        ("where did I put the dice?", {DICE}),
        ("which one is green?", {BOTTLE, VASE}),
        ("can you see the gray dice or the violet dice?", {DICE}),
    ],
)
def test_the_form_of_a_question_is_understood(
    find: Callable[[str], dict[str, float]], text: str, expected: set[str]
) -> None:
    found = find(text)
    assert set(found) == expected
    assert min(found.values()) > MAX_UNCONFIRMED_SCORE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the vase that is not green", "nothing here is a vase and not green"),
        ("the bottle without a cap", "nothing here is a bottle and without a cap"),
        ("second mug from the left", "nothing here is a mug"),
        ("the third ball from the left", "nothing is clearly the third ball from the left"),
        ("where did I put the keys", "nothing here is keys"),
        ("everything green but the bottle and the vase", "nothing here is green"),
    ],
)
def test_nothing_is_found_where_nothing_fits(find: Callable[[str], dict[str, float]], text: str, message: str) -> None:
    (found,) = find(text)
    assert found.startswith(message)


@pytest.mark.parametrize(
    ("text", "expected", "message"),
    [
        ("the dice for board games", {DICE}, "left out: for board games"),
        ("the hammer that I bought yesterday", {HAMMER}, "left out: that i bought yesterday"),
        ("the second ball", {BLUE}, "left out: second"),
        ("the lamp with a red handle", set(), "left out: red"),
    ],
)
def test_words_that_are_left_out_are_listed_and_make_matches_uncertain(
    find: Callable[[str], dict[str, float]], text: str, expected: set[str], message: str
) -> None:
    found = find(text)
    assert {caption for caption in found if caption in ALL} == expected
    assert max(found.values()) <= MAX_UNCONFIRMED_SCORE
    assert any(message in words for words in found)


@pytest.mark.parametrize("text", ["the old dice", "the dice with a zipper", "the dice without a zipper"])
def test_what_nothing_confirms_is_uncertain(find: Callable[[str], dict[str, float]], text: str) -> None:
    found = find(text)
    assert max(found.values(), default=0.0) <= MAX_UNCONFIRMED_SCORE


def test_a_match_of_one_reading_is_uncertain(describer: Describer) -> None:
    # Only the red mug is next to the bowl, and only the blue one is to the left of the box.
    objects = [
        _known(1, "a red mug", "mug", box=(100, 50, 30, 30)),
        _known(2, "a blue mug", "mug", box=(10, 50, 30, 30)),
        _known(3, "a white bowl", "bowl", box=(135, 50, 30, 30)),
        _known(4, "a grey box", "box", box=(260, 50, 30, 30)),
    ]
    finder = Finder(describer)
    assert [m.track_id for m in finder.find("the mug next to the bowl", objects, None).matches] == [1]
    ambiguous = finder.find("the mug next to the bowl and the box", objects, None).matches
    assert {match.track_id for match in ambiguous} == {1, 4}
    assert max(match.score for match in ambiguous) <= MAX_UNCONFIRMED_SCORE


def test_what_no_caption_tells_is_uncertain(describer: Describer) -> None:
    objects = [_known(1, "a red mug", "mug"), replace(_known(2, "a blue mug", "mug"), caption=None)]

    def scores(text: str) -> dict[int, float]:
        return {match.track_id: match.score for match in Finder(describer).find(text, objects, None).matches}

    found = scores("not the red bowl")
    assert found[1] > MAX_UNCONFIRMED_SCORE
    assert found.get(2, 0.0) <= MAX_UNCONFIRMED_SCORE
    assert scores("mug without a lid") == {1: pytest.approx(MAX_UNCONFIRMED_SCORE)}


@pytest.mark.parametrize("text", ["wo ist der rote Ball", "la taza roja", "赤いボール"])
def test_other_languages_are_refused(describer: Describer, text: str) -> None:
    with pytest.raises(PromptError, match="English only"):
        Finder(describer).check(text)


def test_markers_of_regions_are_no_words(describer: Describer) -> None:
    for marker in ("<region1>", "<mask>", "<box>"):
        with pytest.raises(PromptError, match=f"contains {marker}: say in words.* with <mask><pos>, are asked with"):
            Finder(describer).check(f"where is {marker}?")


def test_a_question_has_a_bound(describer: Describer) -> None:
    finder = Finder(describer)
    finder.check("mug next to " * 19 + "the mug")
    with pytest.raises(PromptError, match="has 300 words; ask with at most 60"):
        finder.check("not " * 300)


def test_nothing_of_a_frame_is_kept_but_answers(
    describer: Describer, scene: tuple[tuple[SceneObject, ...], ObservedFrame]
) -> None:
    objects, seen = scene
    describer.set_image(seen.rgb, seen.encoded.image_id)
    frame = replace(seen)
    finder = Finder(describer)
    assert finder.find("the pink clock", objects, frame, cancel=CancellationToken()).matches
    gone = weakref.ref(frame)
    del frame
    gc.collect()
    assert gone() is None
    # Nor is a function that stopped an earlier search asked again.
    with pytest.raises(StoppedError):
        finder.find("the red clock", objects, seen, cancel=PolledToken(lambda: True))
    assert finder.find("the pink clock", objects, seen).matches


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the elephant", "nothing here is an elephant"),
        ("the black clock", "nothing here is a black clock"),
        ("the clock next to the elephant", "nothing here is an elephant"),
        ("something to drink from", "nothing here is something to drink from"),
        ("xyzzy plugh 42", "nothing here is"),
    ],
)
def test_what_is_not_there_is_not_found_and_said_why(
    describer: Describer, scene: tuple[tuple[SceneObject, ...], ObservedFrame], text: str, message: str
) -> None:
    found = Finder(describer).find(text, *scene)
    assert found.matches == ()
    assert found.message.startswith(message)
    assert "likeliest" in found.message


def test_a_list_of_the_user_tells_what_things_are_like(
    describer: Describer, scene: tuple[tuple[SceneObject, ...], ObservedFrame]
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
        replace(_known(4, "a grey box", "box"), caption=None, label="toaster", score=0.7),
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
    assert finder.find("mug", [], None).message == "no object is known yet"
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
    describer: Describer, scene: tuple[tuple[SceneObject, ...], ObservedFrame], text: str
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

    monkeypatch.setattr(spatial, "holds", counted)
    found = Finder(describer).find(text, objects, None, limit=1).matches
    assert [match.track_id for match in found] == [25]
    assert evaluated > 0


def test_as_many_kinds_are_compared_as_can_be_in_view(
    describer: Describer, scene: tuple[tuple[SceneObject, ...], ObservedFrame], monkeypatch: pytest.MonkeyPatch
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
    assert set(scored) - set(COLOR.values) <= {*in_view, "clock"}

    many = [replace(thing, caption=_known(1, "a grey box", f"kind{n}").caption) for n, thing in enumerate(objects)]
    many = [*many, *(replace(many[0], caption=thing.caption) for thing in gone)]
    scored.clear()
    Finder(describer).find("the clock", many, seen)
    assert "clock" in scored
    assert len(scored) <= 32


def test_a_search_can_be_stopped(describer: Describer, scene: tuple[tuple[SceneObject, ...], ObservedFrame]) -> None:
    objects, seen = scene
    texts = ("the pink clock", "something to drink from", "the clock between the scissors")
    for text in texts:
        asked = 0

        def count() -> bool:
            nonlocal asked
            asked += 1
            return False

        Finder(describer).find(text, objects, seen)  # computes the prefix, so that all searches below are alike
        found = Finder(describer).find(text, objects, seen, cancel=PolledToken(count))
        assert asked > 1
        for last in range(1, asked):  # the last time, all may be there already
            left = iter(range(last - 1))
            finder = Finder(describer)
            with pytest.raises(StoppedError, match=r"stopped|canceled"):
                finder.find(text, objects, seen, cancel=PolledToken(lambda left=left: next(left, None) is None))
            if last in (1, asked - 1):  # and asked again, it is found
                again = finder.find(text, objects, seen)
                assert [match.track_id for match in again.matches] == [match.track_id for match in found.matches]
