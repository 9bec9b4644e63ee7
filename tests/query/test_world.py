"""Questions over time: how many, what has changed, when something was last seen. Objects are known by captions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_objects import sample_mug

from osprey_ros.describer import Describer
from osprey_ros.errors import PromptError
from osprey_ros.query.finder import Finder
from osprey_ros.query.world import Answer, Sort, World, WorldQuestion
from osprey_ros.scene.events import EventKind, SceneEvent
from osprey_ros.scene.types import Caption, SceneObject, Snapshot

SECOND = 1_000_000_000
NOW = 1000 * SECOND


@pytest.fixture(scope="module")
def world() -> World:
    return World(Finder(Describer("nano", threads=1)))


def thing(track_id: int, words: str, ago: float = 0.0, at: tuple[float, float, float] | None = None) -> SceneObject:
    """An object that was last seen some seconds ago."""
    stamp = NOW - round(ago * SECOND)
    caption = Caption(words.split()[-1], words, 0.95, stamp)
    known = replace(sample_mug(stamp), track_id=track_id, caption=caption, label="", visible=not ago)
    return replace(known, position=at, size=(0.1, 0.1, 0.1))


SCENE = Snapshot(
    NOW,
    "map",
    (
        thing(1, "a red mug", at=(0.1, 0.0, 1.0)),
        thing(2, "a blue mug", 30, at=(0.9, 0.0, 1.0)),
        thing(3, "a green vase", 75, at=(1.0, 0.0, 1.0)),
        thing(4, "a white door", at=(1.2, 0.0, 1.0)),
    ),
)


def event(kind: EventKind, track_id: int, ago: float) -> SceneEvent:
    about = next((one for one in SCENE.objects if one.track_id == track_id), thing(track_id, "a brown box"))
    return SceneEvent(kind, about, NOW - round(ago * SECOND), "it was so")


def ask(world: World, text: str, *events: SceneEvent, scene: Snapshot = SCENE, limit: int = 0) -> Answer:
    return world.answer(text, scene, None, events, limit)


def tracks(answer: Answer) -> list[int]:
    return [match.track_id for match in answer.found.matches]


@pytest.mark.parametrize(
    ("text", "sort", "phrase", "seconds"),
    [
        ("How many red mugs are there on the shelf?", Sort.COUNT, "red mugs on the shelf", 0.0),
        ("how many bottles do you see?", Sort.COUNT, "bottles", 0.0),
        ("When did you last see the vase?", Sort.LAST_SEEN, "the vase", 0.0),
        ("when was the red mug last seen", Sort.LAST_SEEN, "the red mug", 0.0),
        ("What has changed since ten minutes ago?", Sort.CHANGES, "", 600.0),
        ("what moved in the last 1.5 hours?", Sort.CHANGES, "", 5400.0),
        ("what is new?", Sort.CHANGES, "", 0.0),
        ("what is on the table?", Sort.WHICH, "what is on the table?", 0.0),
    ],
)
def test_a_question_is_read(text: str, sort: Sort, phrase: str, seconds: float) -> None:
    question = WorldQuestion.read(text)
    assert (question.sort, question.phrase, question.seconds) == (sort, phrase, seconds)


def test_objects_are_counted_with_the_probability_of_the_count(world: World) -> None:
    answer = ask(world, "how many mugs are there?", limit=1)
    assert (answer.sort, answer.count, tracks(answer)) == (Sort.COUNT, 2, [1])
    assert answer.text.startswith("2: ")
    assert 0.5 < answer.score <= 1
    none = ask(world, "how many lamps are there?")
    assert (none.count, tracks(none)) == (0, [])
    assert none.score <= 0.5  # a lamp can be known by other words


def test_an_object_was_last_seen_where_and_when(world: World) -> None:
    answer = ask(world, "when did you last see the vase?")
    assert tracks(answer)[0] == 3
    assert answer.text == "a green vase (track 3) at (1.00, 0.00, 1.00) m in map: 75.0 s ago, in the frame 925.000"
    assert ask(world, "when was the red mug last seen?").text.endswith("now, in the frame 1000.000")
    assert tracks(ask(world, "when did you last see a mug?"))[0] == 1  # the one seen last
    assert ask(world, "when did you last see the lamp?").text.startswith("never; ")


def test_changes_are_those_of_the_span(world: World) -> None:
    events = [event(EventKind.APPEARED, 2, 700), event(EventKind.DESCRIBED, 2, 650), event(EventKind.MOVED, 1, 5)]
    answer = ask(world, "what has changed since ten minutes ago?", *events)
    assert (answer.sort, answer.count, answer.events, tracks(answer)) == (Sort.CHANGES, 1, (events[2],), [1])
    assert answer.text == "a red mug (track 1) moved 5.0 s ago: it was so"
    assert ask(world, "what has changed?", *events).events == (events[0], events[2])
    assert ask(world, "what appeared in the last hour?", *events).events == (events[0],)
    forgotten = ask(world, "what has changed?", event(EventKind.APPEARED, 9, 3))
    assert (forgotten.count, tracks(forgotten)) == (1, [])  # the object is not in the scene any more
    assert ask(world, "what moved in the last 2 seconds?", *events).text == "nothing changed"


def test_which_object_is_nearest_to_what(world: World) -> None:
    answer = ask(world, "the mug nearest to the door")
    assert (answer.sort, tracks(answer)) == (Sort.WHICH, [2])
    assert "at (0.90, 0.00, 1.00) m in map" in answer.text
    assert tracks(ask(world, "the mug nearest to me")) == [1]


def test_a_table_that_is_an_object_carries_what_is_on_it(world: World) -> None:
    table = replace(thing(7, "a wooden table", at=(0.0, 0.4, 2.0)), size=(1.2, 0.1, 0.8), box=(0, 100, 300, 60))
    on = replace(thing(8, "a red mug", at=(0.3, 0.3, 2.0)), box=(200, 90, 20, 30))
    beside = replace(thing(9, "a blue mug", at=(1.6, 0.9, 2.0)), box=(500, 200, 20, 30))
    scene = replace(SCENE, objects=(table, on, beside))
    assert tracks(ask(world, "what is on the table?", scene=scene)) == [8]
    everything = replace(SCENE, objects=(on, beside))  # no object is a table: all stand on it
    assert sorted(tracks(ask(world, "what is on the table?", scene=everything))) == [8, 9]


def test_what_cannot_be_read_is_refused(world: World) -> None:
    for text in ("how many are there?", " ", "how many rote Tassen neben dem Glas are there?"):
        with pytest.raises(PromptError):
            ask(world, text)
