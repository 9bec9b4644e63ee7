"""Sentences that ask for events, and the events that they keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_objects import sample_mug

from osprey_ros.describer import Describer
from osprey_ros.errors import PromptError
from osprey_ros.query.finder import Finder
from osprey_ros.query.watch import EventFilter, Watch
from osprey_ros.scene.events import EventKind, SceneEvent
from osprey_ros.scene.types import Caption, SceneObject, Snapshot


@pytest.fixture(scope="module")
def finder() -> Finder:
    return Finder(Describer("nano", threads=1))


@pytest.mark.parametrize(
    ("text", "kinds", "phrase"),
    [
        ("tell me when a mug appears", {EventKind.APPEARED}, "a mug"),
        ("Let me know if the red vase is moved!", {EventKind.MOVED}, "the red vase"),
        (
            "when the mug next to the bowl moves or changes",
            {EventKind.MOVED, EventKind.CHANGED},
            "the mug next to the bowl",
        ),
        ("notify me as soon as something appears", {EventKind.APPEARED}, ""),
        ("a red mug", set(EventKind), "a red mug"),
        ("", set(EventKind), ""),
    ],
)
def test_a_sentence_names_kinds_and_objects(text: str, kinds: set[EventKind], phrase: str) -> None:
    assert Watch.parse(text) == Watch(frozenset(kinds), phrase)


@pytest.mark.parametrize(
    "text", ["tell me when die rote Tasse neben dem Glas appears", "when ?? appears", "a mug " * 61]
)
def test_a_sentence_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(PromptError):
        Watch.parse(text)


def thing(track_id: int, name: str = "") -> SceneObject:
    caption = Caption(name, f"a red {name}", 0.9, 5) if name else None
    return replace(sample_mug(7), track_id=track_id, caption=caption, label="")


def event(kind: EventKind, about: SceneObject) -> SceneEvent:
    return SceneEvent(kind, about, 7, "")


def test_only_what_is_asked_for_is_kept(finder: Finder) -> None:
    mug, bowl = thing(1, "mug"), thing(2, "bowl")
    events = [event(kind, about) for about in (mug, bowl) for kind in (EventKind.APPEARED, EventKind.MOVED)]
    scene = Snapshot(7, "camera", (mug, bowl))
    assert EventFilter("tell me when a mug appears", finder).keep(events, scene) == (events[0],)
    assert EventFilter("tell me when a lamp appears", finder).keep(events, scene) == ()
    assert EventFilter("something moves", finder).keep(events, scene) == (events[1], events[3])
    assert EventFilter("", finder).keep(events, scene) == tuple(events)


def test_an_object_appears_as_what_it_is_when_it_has_words(finder: Finder) -> None:
    asked = EventFilter("tell me when a mug appears", finder)
    new, named = thing(1), thing(1, "mug")
    assert asked.keep([event(EventKind.APPEARED, new)], Snapshot(7, "camera", (new,))) == ()
    described = event(EventKind.DESCRIBED, named)
    (kept,) = asked.keep([described], Snapshot(8, "camera", (named,)))
    assert (kept.kind, kept.object) == (EventKind.APPEARED, named)
    assert asked.keep([described], Snapshot(9, "camera", (named,))) == ()
