"""The scene: objects, and when their captions become stale. Embeddings are small vectors here."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest

from osprey_ros.errors import InputError
from osprey_ros.scene.change import Change
from osprey_ros.scene.scene import Scene
from osprey_ros.scene.tracker import Assignment
from osprey_ros.scene.types import Caption, Detection, State

CHANGE = Change(appearance=0.2, view=2.0)


def embedding(degrees: float) -> np.ndarray:
    """Return an embedding; two of them have the distance 1 - cos(angle between them)."""
    angle = np.radians(degrees)
    return np.array([np.cos(angle), np.sin(angle), 0.0], np.float32)


@dataclass(frozen=True)
class Seen(Detection):
    """A detection with the track id that the tracker gives it."""

    track_id: int = 3


def update(scene: Scene, stamp: int, *seen: Seen, shape: tuple[int, int] = (480, 640)) -> None:
    """Show a scene one frame."""
    names = [field.name for field in fields(Detection)]
    detections = [Detection(**{name: getattr(one, name) for name in names}) for one in seen]
    scene.set_image_size(shape)
    scene.update(stamp, "camera", detections, Assignment(np.array([one.track_id for one in seen], np.int64)), CHANGE)


def requested(scene: Scene, track_id: int) -> bool:
    """Whether an object that needs a caption comes before others."""
    return any(candidate.track_id == track_id and candidate.requested for candidate in scene.needing_caption())


MUG = Seen(track_id=3, instance_id=7, box=(10, 20, 40, 50), area=1500, appearance=embedding(0))
FAR = np.degrees(np.arccos(1 - 0.25))  # beyond the threshold of 0.2
VERY_FAR = np.degrees(np.arccos(1 - 0.85))  # beyond four times as much


def words(stamp: int, text: str = "a small red mug") -> Caption:
    return Caption("mug", text, 0.9, stamp)


class Watch:
    """A scene that is shown one object, frame by frame."""

    def __init__(self) -> None:
        self.scene, self.stamp = Scene(), 0
        self.shape = (480, 640)

    def see(self, *seen: Seen) -> State:
        self.stamp += 1
        update(self.scene, self.stamp, *seen, shape=self.shape)
        return self.scene.object(3).state

    def say(self) -> None:
        self.scene.set_caption(3, words(self.stamp))

    def wanted(self) -> bool:
        """Whether the object is to be described."""
        return 3 in [obj.track_id for obj in self.scene.needing_caption()]


def test_an_object_from_its_first_frame_on() -> None:
    watch = Watch()
    assert watch.see(MUG) is State.PENDING
    obj = watch.scene.object(3)
    assert (obj.caption, obj.category, obj.description, obj.reason) == (None, "", "", "new object")
    assert [other.track_id for other in watch.scene.needing_caption()] == [3]

    watch.scene.skip(3, "no time left")
    obj = watch.scene.object(3)
    assert (obj.state, obj.reason) == (State.SKIPPED, "no time left; new object")
    assert [candidate.waited for candidate in watch.scene.needing_caption()] == [1]

    watch.say()
    obj = watch.scene.object(3)
    assert (obj.state, obj.reason, obj.description) == (State.FRESH, "", "a small red mug")
    assert watch.scene.needing_caption() == []

    assert watch.see(replace(MUG, instance_id=9, box=(12, 20, 40, 50))) is State.FRESH
    obj = watch.scene.object(3)
    assert (obj.first_seen, obj.last_seen, obj.instance_id, obj.box[0]) == (1, 2, 9, 12)
    assert watch.scene.snapshot().stamp == 2
    assert watch.scene.snapshot().objects == (obj,)

    assert watch.see() is State.FRESH  # gone
    obj = watch.scene.object(3)
    assert (obj.visible, obj.last_seen, obj.description) == (False, 2, "a small red mug")


def test_one_that_leaves_before_it_is_described_waits_for_its_return() -> None:
    watch = Watch()
    watch.see(MUG)
    watch.scene.skip(3, "no time left")
    assert watch.see() is State.PENDING
    assert watch.scene.object(3).reason == "new object"
    assert watch.scene.needing_caption() == []  # it is not there to be described
    assert watch.see(MUG) is State.PENDING
    assert len(watch.scene.needing_caption()) == 1


def test_other_looks_in_the_same_place_are_a_change_and_noise_is_none() -> None:
    watch = Watch()
    watch.see(MUG)
    watch.say()
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert watch.see(replace(MUG, appearance=embedding(rng.normal(0, 5)))) is State.FRESH
    changed = replace(MUG, appearance=embedding(FAR))
    for frame in range(3):
        assert watch.see(changed) is State.STALE
        obj = watch.scene.object(3)
        assert obj.description == "a small red mug"  # the old words are still there
        assert watch.wanted() == (frame == 2)  # new ones are wanted when it looks the same for a while
        waits = "" if watch.wanted() else ", and is still changing"
        assert obj.reason == f"its appearance changed since it was described{waits}"
    watch.scene.skip(3, "no time left")
    obj = watch.scene.object(3)
    assert (obj.state, obj.reason) == (
        State.SKIPPED,
        "no time left; its appearance changed since it was described",
    )
    assert watch.see(MUG) is State.FRESH  # it was a hand that passed by
    assert watch.see(changed) is State.STALE
    watch.say()
    assert watch.see(changed) is State.FRESH
    assert watch.see(MUG) is State.STALE


def test_what_never_settles_is_described_in_the_end() -> None:
    watch = Watch()
    watch.see(MUG)
    watch.say()
    frames = 0
    while not watch.wanted():
        frames += 1
        watch.see(replace(MUG, appearance=embedding(FAR + 40 * (frames % 2))))
    assert frames == 11

    watch.say()
    watch.see(replace(MUG, appearance=embedding(-20)))
    assert not watch.wanted()
    watch.scene.prioritize([3])
    assert watch.wanted()  # who asks does not wait


def test_a_change_is_not_forgotten_because_the_thing_moves_afterwards() -> None:
    watch = Watch()
    watch.see(MUG)
    watch.say()
    assert watch.see(replace(MUG, appearance=embedding(FAR))) is State.STALE
    assert watch.see(replace(MUG, appearance=embedding(FAR), box=(90, 20, 40, 50))) is State.STALE


def test_what_moves_in_the_image_may_look_somewhat_otherwise() -> None:
    watch = Watch()
    watch.see(MUG)
    watch.say()
    for frame in range(1, 31):  # it goes by, and shows its other side
        moved = replace(MUG, box=(10 + 15 * frame, 20, 40, 50), appearance=embedding(FAR * frame / 30))
        assert watch.see(moved) is State.FRESH
    still = replace(MUG, box=(460, 20, 40, 50))
    assert watch.see(replace(still, appearance=embedding(FAR))) is State.FRESH
    assert watch.see(replace(still, appearance=embedding(2.0 * FAR))) is State.STALE  # a jump, there where it stands

    other = Watch()
    other.see(MUG)
    other.say()
    assert other.see(replace(still, appearance=embedding(VERY_FAR))) is State.STALE


def test_a_better_view_is_a_change_and_a_worse_one_is_not() -> None:
    watch = Watch()
    watch.see(MUG)
    watch.say()
    hidden = replace(MUG, area=700, box=(10, 20, 20, 50), appearance=embedding(VERY_FAR))
    assert watch.see(hidden) is State.FRESH  # behind something: what was said of the whole still holds
    partly = replace(MUG, area=1000, box=(10, 20, 38, 50))
    assert watch.see(replace(partly, appearance=embedding(FAR))) is State.FRESH
    assert watch.see(replace(partly, appearance=embedding(VERY_FAR))) is State.STALE  # too much for that
    assert watch.see(MUG) is State.FRESH
    assert watch.see(replace(MUG, area=2900, box=(0, 10, 60, 75))) is State.FRESH
    nearer = replace(MUG, area=3100, box=(0, 10, 60, 75))
    assert watch.see(nearer) is State.STALE
    watch.see(nearer)
    assert watch.wanted()
    assert watch.scene.object(3).reason == "it appears larger than when it was described"


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_images_of_another_size_are_judged_as_before(scale: float) -> None:
    other = replace(MUG, box=tuple(int(v * scale) for v in MUG.box), area=int(MUG.area * scale**2))
    watch = Watch()
    watch.shape = (240, 320)
    watch.see(MUG)
    watch.say()
    watch.shape = (int(240 * scale), int(320 * scale))
    assert [watch.see(other) for _ in range(3)] == [State.FRESH] * 3
    changed = replace(other, appearance=embedding(VERY_FAR))
    assert [watch.see(changed) for _ in range(4)] == [State.STALE] * 4
    assert watch.wanted()


def test_other_questions_make_all_words_stale() -> None:
    watch = Watch()
    watch.see(MUG, replace(MUG, track_id=4, instance_id=8))
    watch.say()
    watch.scene.invalidate("other words are wanted")
    assert watch.scene.object(3).state is State.STALE
    assert watch.scene.object(4).state is State.PENDING
    assert watch.see(MUG) is State.STALE
    assert watch.scene.object(3).reason == "other words are wanted"
    watch.say()
    assert watch.see(MUG) is State.FRESH


def test_asking_for_an_object_lasts_until_it_is_described() -> None:
    watch = Watch()
    watch.see(MUG)
    watch.scene.prioritize([3, 99])
    assert requested(watch.scene, 3)
    watch.see()
    watch.see(MUG)
    assert requested(watch.scene, 3)
    watch.say()
    assert not requested(watch.scene, 3)


def test_asking_for_an_object_whose_words_hold_changes_nothing() -> None:
    watch = Watch()
    watch.see(MUG)
    watch.say()
    watch.scene.prioritize([3])
    assert not requested(watch.scene, 3)
    changed = replace(MUG, appearance=embedding(FAR))
    assert watch.see(changed) is State.STALE
    assert not watch.wanted()  # it waits until it has settled, as others do
    watch.scene.prioritize([3])
    assert watch.wanted()
    assert watch.see(MUG) is State.FRESH  # it was nothing: nobody waits for other words
    assert not requested(watch.scene, 3)


def test_forgetting() -> None:
    scene = Scene()
    update(scene, 1, *[replace(MUG, track_id=n) for n in (1, 2, 3)])
    assert scene.forget([2, 9, 2]) == (2,)
    with pytest.raises(KeyError):
        scene.object(2)
    assert scene.forget() == (1, 3)
    assert len(scene) == 0


def test_the_bound_takes_the_longest_unseen_then_the_smallest() -> None:
    with pytest.raises(InputError, match="max_objects is 0"):
        Scene(0)
    scene = Scene(max_objects=4)
    for stamp, track_ids in ((1, (1, 2)), (2, (2, 3)), (3, (4, 5, 6))):
        detections = [replace(MUG, track_id=n, area=100 * n) for n in track_ids]
        update(scene, stamp, *detections)
        scene.forget_surplus()
    assert [obj.track_id for obj in scene.snapshot().objects] == [3, 4, 5, 6]
    update(scene, 4, *[replace(MUG, track_id=n, area=100 * n) for n in range(10, 16)])
    assert scene.forget_surplus() == (3, 4, 5, 6, 10, 11)
    assert [obj.track_id for obj in scene.snapshot().objects] == [12, 13, 14, 15]


def test_the_bound_holds_when_the_clock_goes_back() -> None:
    scene = Scene(max_objects=2)
    for stamp, track_ids, gone in ((10**18, (1, 2), ()), (1, (3,), (1,)), (2, (4,), (2,))):
        update(scene, stamp, *[replace(MUG, track_id=n, area=100 * n) for n in track_ids])
        assert scene.forget_surplus() == gone
    assert [obj.track_id for obj in scene.persistent_objects()] == [4, 3]

    again = Scene(max_objects=3)
    again.restore([replace(obj, last_seen=10**18 - obj.track_id) for obj in scene.persistent_objects()])
    update(again, 3, *[replace(MUG, track_id=n) for n in (5, 6)])
    assert again.forget_surplus() == (4,)  # the one with the earlier stamp
    assert [obj.track_id for obj in again.persistent_objects()] == [5, 6, 3]


def test_one_that_seemed_new_is_joined_with_the_older_one() -> None:
    scene = Scene()
    update(scene, 1, *[replace(MUG, track_id=n) for n in (1, 2)])
    scene.set_caption(1, words(1, "the older words"))
    update(scene, 2, *[replace(MUG, track_id=n) for n in (3, 4)])
    scene.set_caption(3, words(2))
    scene.set_caption(4, words(2))
    scene.merge(3, 1)
    scene.merge(4, 2)  # which has no words of its own
    assert [obj.track_id for obj in scene.snapshot().objects] == [1, 2]
    assert scene.object(1).description == "the older words"
    assert (scene.object(2).description, scene.object(2).first_seen) == ("a small red mug", 1)
    update(scene, 3, *[replace(MUG, track_id=n) for n in (1, 2)])
    assert scene.needing_caption() == []


def test_a_merged_object_stays_requested() -> None:
    scene = Scene()
    update(scene, 1, *[replace(MUG, track_id=1)])
    update(scene, 2, *[replace(MUG, track_id=n) for n in (2, 3)])
    scene.prioritize([2])
    scene.merge(2, 1)
    update(scene, 3, *[replace(MUG, track_id=n) for n in (1, 3)])
    assert requested(scene, 1)
    scene.set_caption(3, words(3))
    scene.merge(3, 1)
    assert scene.object(1).state is State.FRESH
    assert not requested(scene, 1)


def test_earlier_track_ids_name_what_the_objects_are_by_now() -> None:
    scene = Scene()
    update(scene, 1, *[replace(MUG, track_id=n) for n in (1, 2, 3, 4)])
    scene.merge(4, 3)
    scene.merge(3, 1)
    scene.forget([2])
    assert scene.current_ids(np.array([1, 2, 3, 4, 99])).tolist() == [1, 0, 1, 1, 0]
    scene.forget([1])
    assert not scene.current_ids(np.array([1, 3, 4])).any()


def test_a_restored_scene_goes_on_where_it_was() -> None:
    watch = Watch()
    watch.see(MUG, *(replace(MUG, track_id=n) for n in (4, 5)))
    watch.say()
    watch.scene.set_caption(4, words(1))
    watch.scene.invalidate("other words are wanted")
    watch.say()
    watch.scene.skip(5, "no time left")
    before = watch.scene.persistent_objects()
    assert [obj.reason for obj in before] == ["", "other words are wanted", "new object"]

    again = Watch()
    again.scene.restore(before)
    assert [(obj.track_id, obj.state, obj.visible) for obj in again.scene.snapshot().objects] == [
        (3, State.FRESH, False),
        (4, State.STALE, False),
        (5, State.PENDING, False),
    ]
    assert again.scene.object(3).caption == before[0].caption
    assert again.scene.needing_caption() == []
    moved = replace(MUG, box=(200, 20, 40, 50))
    assert again.see(moved) is State.FRESH
    assert again.see(replace(moved, appearance=embedding(2 * FAR))) is State.STALE


def test_reasons_do_not_grow_with_restarts() -> None:
    watch = Watch()
    watch.see(MUG, replace(MUG, track_id=4))
    watch.say()
    reasons = set()
    for number in range(3):
        watch.see(replace(MUG, appearance=embedding(FAR + 40 * number)), replace(MUG, track_id=4))
        assert watch.scene.object(3).reason.endswith(", and is still changing")
        watch.scene.skip(4, "no time left")
        before, watch = watch.scene, Watch()
        watch.scene.restore(before.persistent_objects())
        reasons.update((obj.track_id, obj.reason) for obj in watch.scene.snapshot().objects)
        watch.say()
    assert reasons == {(3, "its appearance changed since it was described"), (4, "new object")}
    # Also where what was left out of a frame is taken as it was there.
    watch.see(replace(MUG, track_id=4), replace(MUG, appearance=embedding(VERY_FAR)))
    watch.scene.skip(3, "no time left")
    watch.scene.skip(4, "no time left")
    before, watch = watch.scene, Watch()
    watch.scene.restore(before.snapshot().objects)
    assert "no time left" not in {obj.reason for obj in watch.scene.snapshot().objects}.pop()


def test_a_mask_that_vanishes_says_nothing_of_looks() -> None:
    watch = Watch()
    watch.see(MUG)
    watch.say()
    assert watch.see(replace(MUG, appearance=np.zeros(3, np.float32))) is State.FRESH
    assert watch.see(replace(MUG, appearance=5 * embedding(0))) is State.FRESH  # only the direction counts
