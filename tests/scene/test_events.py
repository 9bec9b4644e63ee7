"""Events of a scene: what is reported of objects that appear, move, and get captions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from osprey_ros.scene.events import EventKind, EventLog, EventSettings, Reported, SceneEvent, events_after
from osprey_ros.scene.scene import Scene
from osprey_ros.scene.tracker import Assignment
from osprey_ros.scene.types import UNKNOWN, Caption, Detection

SETTINGS = EventSettings()
RED = Caption("mug", "a red mug", 0.9, 1)


class Camera:
    """A scene with one object, track 3, that is shown frame by frame."""

    def __init__(self) -> None:
        self.scene = Scene()
        self.log = EventLog(self.scene)
        self.stamp = 0

    def show(self, x: float | None = None, caption: Caption | None = None, new_map: bool = False) -> list[SceneEvent]:
        """Show one frame with the object at x meters in the map."""
        self.stamp += 1
        seen = Detection(1, (0, 0, 10, 10), 100, np.array([1.0, 0.0], np.float32))
        places = np.full((1, 3), np.nan) if x is None else np.array([[x, 0.0, 1.0]])
        self.scene.set_image_size((48, 64))
        assignment = Assignment(np.array([3]), positions=places, new_map=new_map)
        self.scene.update(self.stamp, "camera", [seen], assignment)
        if caption is not None:
            self.scene.set_caption(3, replace(caption, described_at=self.stamp))
        return list(self.log.update(self.scene, SETTINGS))


def kinds(events: list[SceneEvent]) -> list[EventKind]:
    return [event.kind for event in events]


def test_an_object_appears_once_and_is_described_once() -> None:
    camera = Camera()
    (appeared,) = camera.show()
    assert (appeared.kind, appeared.object.track_id, appeared.stamp) == (EventKind.APPEARED, 3, 1)
    (described,) = camera.show(caption=RED)
    assert described.kind is EventKind.DESCRIBED
    assert "a red mug" in described.why
    assert camera.show() == []
    assert camera.show(caption=RED) == []  # the same words again
    assert kinds(list(camera.log.latest)) == [EventKind.APPEARED, EventKind.DESCRIBED]


def test_other_words_are_a_change_and_doubtful_ones_are_named() -> None:
    camera = Camera()
    camera.show(caption=RED)
    (changed,) = camera.show(caption=replace(RED, description="a broken mug"))
    assert (changed.kind, changed.why) == (EventKind.CHANGED, "it was 'a red mug' and is 'a broken mug'")
    unsure = camera.show(caption=replace(RED, description=UNKNOWN, confidence=0.1, reason="too small"))
    assert kinds(unsure) == [EventKind.CHANGED, EventKind.LOW_CONFIDENCE]
    assert unsure[1].why == "too small"


def test_a_move_is_reported_where_it_ends() -> None:
    camera = Camera()
    camera.show(0.0)
    carried = [camera.show(0.05 * n) for n in range(1, 11)]
    assert all(not events for events in carried)  # in motion, and a running mean lags behind
    at_rest = [event for _ in range(12) for event in camera.show(0.5)]
    assert kinds(at_rest) == [EventKind.MOVED]
    assert "m from where it was" in at_rest[0].why
    assert [event for _ in range(12) for event in camera.show(0.52)] == []  # noise


def test_places_in_another_map_are_not_compared() -> None:
    camera = Camera()
    camera.show(0.0)
    assert camera.show(5.0, new_map=True) == []
    assert [event for _ in range(4) for event in camera.show(5.0)] == []
    assert [event for _ in range(4) for event in camera.show(None)] == []  # without depth


def test_events_depend_on_nothing_but_what_is_given() -> None:
    camera = Camera()
    camera.show(0.0, RED)
    snapshot, places = camera.scene.snapshot(), {3: (0.0, 0.0, 1.0)}
    first = events_after(Reported(), snapshot, places, 0, SETTINGS)
    assert first == events_after(Reported(), snapshot, places, 0, SETTINGS)
    assert kinds(list(first[0])) == [EventKind.APPEARED, EventKind.DESCRIBED]
    assert events_after(first[1], snapshot, places, 0, SETTINGS)[0] == ()


def test_objects_that_were_restored_do_not_appear() -> None:
    camera = Camera()
    camera.show(caption=RED)
    restored = Scene()
    restored.restore(camera.scene.persistent_objects())
    assert EventLog(restored).update(restored, SETTINGS) == ()
