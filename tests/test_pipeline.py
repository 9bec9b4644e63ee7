"""The pipeline: which objects of a frame are described when, with which questions, and what is remembered."""

from __future__ import annotations

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import up_to
from nano import without_score

from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.describer import Describer
from osprey_ros.errors import InputError, OspreyError, RegionError, StoppedError
from osprey_ros.frame import Frame, RegionLabel
from osprey_ros.pipeline import Pipeline
from osprey_ros.regions.regions import regions_from_crops, regions_from_masks
from osprey_ros.scene.attributes import AttributeSpec
from osprey_ros.scene.result import StepResult
from osprey_ros.scene.scene import Scene
from osprey_ros.scene.settings import StepSettings
from osprey_ros.scene.types import UNKNOWN, State
from osprey_ros.system.cancellation import CancellationToken, PolledToken

SHORT = StepSettings(max_new_tokens=8)
ALONE = replace(SHORT, remember=False)
PATCHES = {
    1: ((200, 30, 30), (10, 10, 50, 40)),
    2: ((20, 160, 40), (60, 90, 30, 50)),
    7: ((30, 40, 190), (70, 20, 40, 30)),
}


@pytest.fixture(scope="module")
def describer() -> Describer:
    return Describer(without_score(), threads=1)


@pytest.fixture
def pipeline(describer: Describer) -> Pipeline:
    return Pipeline(describer)


def patches(stamp: int = 5, renumbered: dict[int, int] | None = None, **colors: tuple[int, int, int]) -> Frame:
    """Three colored patches on gray with a little noise of their own; ``colors`` are of patches "p1", "p2", "p7"."""
    image = np.full((120, 160, 3), 150, np.uint8)
    ids = np.zeros((120, 160), np.uint16)
    for number, (color, (top, left, tall, wide)) in PATCHES.items():
        image[top : top + tall, left : left + wide] = colors.get(f"p{number}", color)
        ids[top : top + tall, left : left + wide] = (renumbered or {}).get(number, number)
    noise = np.random.default_rng(stamp).integers(-3, 4, image.shape)
    return Frame(stamp, "camera", np.clip(image + noise, 0, 255).astype(np.uint8), ids)


def said(result: StepResult) -> dict[int, str]:
    return {obj.instance_id: obj.description for obj in result.objects}


def test_each_object_has_its_place_and_both_answers(pipeline: Pipeline, describer: Describer) -> None:
    frame = patches()
    result = pipeline.step(frame, SHORT)
    assert [obj.instance_id for obj in result.objects] == [1, 2, 7]
    assert result.objects[0].box == (10, 10, 40, 50)
    assert [obj.area for obj in result.objects] == [2000, 1500, 1200]
    assert [obj.state for obj in result.objects] == [State.FRESH] * 3
    assert len({obj.track_id for obj in result.objects}) == 3
    for obj in result.objects:
        assert (obj.first_seen, obj.last_seen, obj.visible) == (5, 5, True)
        assert obj.caption is not None
        assert (obj.caption.described_at, obj.caption.attributes) == (5, ())
        assert 0 < obj.caption.confidence <= 1
    assert (result.described, result.reused, result.skipped) == (3, 0, 0)
    describer.set_image(frame.rgb)
    for style, found in (("short", "description"), ("category", "category")):
        alone = describer.ask(frame.regions, QUESTIONS[style], up_to(8))
        assert [d.text for d in alone] == [getattr(obj, found) for obj in result.objects]


def test_a_scene_that_stands_still_is_described_once(pipeline: Pipeline) -> None:
    first = pipeline.step(patches(1), SHORT)
    for stamp in range(2, 6):
        result = pipeline.step(patches(stamp, {1: 2, 2: 7, 7: 9}), SHORT)  # and numbered otherwise
        assert (result.described, result.reused, result.skipped) == (0, 3, 0)
        assert [obj.instance_id for obj in result.objects] == [2, 7, 9]
        assert [obj.track_id for obj in result.objects] == [obj.track_id for obj in first.objects]
        assert [obj.caption for obj in result.objects] == [obj.caption for obj in first.objects]
        assert [obj.last_seen for obj in result.objects] == [stamp] * 3
        assert result.timing is not None
        assert (result.timing.preprocess, result.timing.vision) == (0, 0)  # it is the image that is encoded already
        assert result.timing.regions > 0
        assert (result.timing.prefix, result.timing.branches, result.timing.new_tokens) == (0, 0, 0)
    assert pipeline.memory.scene.snapshot().stamp == 5


def vision_seconds(result: StepResult) -> float:
    assert result.timing is not None
    return result.timing.vision


def test_a_image_is_encoded_again_where_anything_in_it_differs(pipeline: Pipeline) -> None:
    assert vision_seconds(pipeline.step(patches(1), SHORT)) > 0
    assert vision_seconds(pipeline.step(patches(2), SHORT)) == 0
    moved = patches(3)
    moved.rgb[100:104, 10:14] = (250, 250, 90)  # a crumb on the table, in no region
    assert vision_seconds(pipeline.step(moved, SHORT)) > 0
    assert vision_seconds(pipeline.step(patches(4), SHORT)) > 0  # which is gone again
    assert vision_seconds(pipeline.step(patches(5), replace(SHORT, still_difference=0.0))) > 0
    # Not by steps that are each too small: what counts is the image that was encoded.
    brighter = [
        replace(patches(n), rgb=np.clip(patches(n).rgb + 4 * (n - 5), 0, 255).astype(np.uint8)) for n in range(6, 12)
    ]
    encoded = [vision_seconds(pipeline.step(frame, SHORT)) > 0 for frame in brighter]
    assert 1 <= sum(encoded) < len(encoded)


def test_a_image_that_others_have_set_is_not_taken_for_the_last_one(pipeline: Pipeline, describer: Describer) -> None:
    pipeline.step(patches(1), SHORT)
    describer.set_image(patches(2, p1=(20, 160, 40)).rgb)
    assert vision_seconds(pipeline.step(patches(3), SHORT)) > 0
    large = patches(4)
    doubled = (np.repeat(np.repeat(a, 2, axis=0), 2, axis=1) for a in (large.rgb, large.regions))
    rgb, ids = (np.ascontiguousarray(a) for a in doubled)
    assert vision_seconds(pipeline.step(replace(large, rgb=rgb, regions=ids), SHORT)) > 0


def test_what_changes_is_described_again_and_nothing_else(pipeline: Pipeline) -> None:
    pipeline.step(patches(1), SHORT)
    described = 0
    for stamp in (2, 3, 4, 5):  # within a few frames: the object changed, or another one is in its place
        result = pipeline.step(patches(stamp, p2=(30, 40, 190)), SHORT)
        described += result.described
        assert result.objects[1].state in (State.FRESH, State.STALE)
    assert described == 1
    first, changed, last = (obj.caption.described_at for obj in result.objects if obj.caption)
    assert (first, last) == (1, 1)
    assert 2 <= changed <= 4


def test_without_memory_every_frame_is_by_itself(pipeline: Pipeline) -> None:
    pipeline.step(patches(1), SHORT)
    for stamp in (2, 3):
        result = pipeline.step(patches(stamp), ALONE)
        assert (result.described, result.reused) == (3, 0)
        assert [obj.track_id for obj in result.objects] == [1, 2, 7]
        assert [obj.first_seen for obj in result.objects] == [stamp] * 3
    assert len(pipeline.memory) == 3


def test_what_was_remembered_waits_while_nothing_is(pipeline: Pipeline) -> None:
    before = pipeline.step(patches(1), SHORT)
    for stamp in (2, 3):
        aside = pipeline.step(patches(stamp, {1: 30, 2: 20, 7: 10}), ALONE)
        assert [obj.track_id for obj in pipeline.memory.snapshot().objects] == [10, 20, 30]
        remembered = pipeline.memory.scene.snapshot().objects
        assert [obj.caption for obj in remembered] == [obj.caption for obj in before.objects]
        assert not any(obj.visible for obj in remembered)
    assert aside.described == 3
    again = pipeline.step(patches(4), SHORT)
    assert (again.described, again.reused) == (0, 3)
    assert [obj.track_id for obj in again.objects] == [obj.track_id for obj in before.objects]
    # Ids of the segmentation, and of the time before, are not taken for each other.
    assert [seen.track_ids.any() for seen in pipeline.memory.recent] == [False, False, False, True]
    pipeline.step(patches(5), ALONE)
    assert pipeline.step(patches(6), replace(SHORT, categories=False)).described == 3


def test_forgetting_reaches_what_is_remembered_while_nothing_is(pipeline: Pipeline) -> None:
    pipeline.step(patches(1), SHORT)
    pipeline.step(patches(2, {1: 31, 2: 21, 7: 11}), ALONE)
    pipeline.step(patches(3, {1: 30, 2: 20, 7: 10}), ALONE)
    assert pipeline.memory.known == {1, 2, 3, 10, 20, 30}
    assert pipeline.memory.forget([2, 10]) == (10, 2)
    assert [obj.track_id for obj in pipeline.memory.scene.snapshot().objects] == [1, 3]
    assert sorted(pipeline.memory.forget()) == [1, 3, 20, 30]
    assert pipeline.memory.known == set()
    assert not any(seen.track_ids.any() for seen in pipeline.memory.recent)
    assert [obj.track_id for obj in pipeline.step(patches(3), SHORT).objects] == [4, 5, 6]


def test_other_questions_are_asked_of_all(pipeline: Pipeline) -> None:
    pipeline.step(patches(1), SHORT)
    without = pipeline.step(patches(2), replace(SHORT, categories=False))
    assert without.described == 3
    assert [obj.category for obj in without.objects] == ["", "", ""]
    assert pipeline.step(patches(3), replace(SHORT, categories=False)).described == 0
    only = pipeline.step(patches(4), replace(SHORT, style="category"))
    assert [obj.category for obj in only.objects] == [obj.description for obj in only.objects]


def test_attributes_are_asked_for_in_the_same_decode(pipeline: Pipeline) -> None:
    color = AttributeSpec("color", values=("red", "green", "blue"))
    result = pipeline.step(patches(), replace(SHORT, attributes=(color,)))
    assert result.described == 3
    for obj in result.objects:
        assert obj.caption is not None
        (attribute,) = obj.caption.attributes
        assert attribute.name == "color"
        assert attribute.value in color.values
        assert 0 < attribute.confidence <= 1
    plain = pipeline.step(patches(6), SHORT)
    assert said(plain) == said(result)


def test_small_regions_are_left_out_and_the_largest_come_first(pipeline: Pipeline) -> None:
    large = pipeline.step(patches(), replace(SHORT, min_area=1400))
    assert [obj.instance_id for obj in large.objects] == [1, 2]

    pipeline.memory.forget()
    one_each = replace(SHORT, max_regions=1)
    for number in range(3):
        result = pipeline.step(patches(number), one_each)
        states = [State.FRESH] * (number + 1) + [State.SKIPPED] * (2 - number)
        assert [obj.state for obj in result.objects] == states
        assert (result.described, result.reused, result.skipped) == (1, number, 2 - number)
        for obj in result.objects[number + 1 :]:
            assert obj.reason == "1 objects with a higher priority in this frame (max_regions 1); new object"
            assert obj.caption is None
            assert (obj.category, obj.description) == ("", "")


def test_who_is_asked_for_comes_first(pipeline: Pipeline) -> None:
    none = replace(SHORT, time_budget=1e-9)
    smallest = pipeline.step(patches(1), none).objects[2]
    assert smallest.caption is None
    pipeline.memory.prioritize([smallest.track_id, 12345])
    result = pipeline.step(patches(2), replace(SHORT, max_regions=1))
    assert [bool(obj.caption) for obj in result.objects] == [False, False, True]


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("style", "nope", "style is 'nope'; it must be one of short, detailed, category"),
        ("max_regions", 0, "max_regions is 0; it must be from 1 to 4096"),
        ("min_area", -1, "min_area is -1; it must be from 1 to 1000000000"),
        ("time_budget", -1.0, "time_budget is -1.0; it must be from 0.0 to 3600.0"),
        ("time_budget", float("nan"), "time_budget is nan; it must be"),
        ("max_new_tokens", -1, "max_new_tokens is -1; it must be"),
        ("min_confidence", 1.5, "min_confidence is 1.5; it must be from 0.0 to 1.0"),
        ("appearance_change", 2.5, "appearance_change is 2.5; it must be"),
        ("view_change", 0.5, "view_change is 0.5; it must be"),
        ("still_difference", 256.0, "still_difference is 256.0; it must be"),
    ],
)
def test_settings_are_checked(setting: str, value: object, remedy: str) -> None:
    with pytest.raises(InputError, match=re.escape(remedy)):
        StepSettings(**{setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [np.zeros((120, 160), np.uint8), np.full((120, 160), -1, np.int32)])
def test_a_frame_without_regions_gives_nothing(pipeline: Pipeline, ids: np.ndarray) -> None:
    pipeline.step(patches(1), SHORT)
    result = pipeline.step(replace(patches(2), regions=ids), SHORT)
    assert (result.objects, result.regions, result.timing) == ((), None, None)
    assert "every pixel is background" in result.empty_reason
    assert [obj.visible for obj in pipeline.memory.scene.snapshot().objects] == [False] * 3
    assert pipeline.step(patches(3), SHORT).reused == 3


def test_a_frame_with_small_regions_only_says_so(pipeline: Pipeline) -> None:
    result = pipeline.step(patches(), replace(SHORT, min_area=100_000))
    assert result.objects == ()
    assert "smaller than 100000 pixels" in result.empty_reason


def test_regions_may_overlap_and_bring_labels(pipeline: Pipeline) -> None:
    frame = patches()
    masks = np.zeros((3, 120, 160), bool)
    masks[0, 10:60, 10:50] = True
    masks[1, 5:65, 5:60] = True  # around the first one
    masks[2, 0:2, 0:2] = True  # too small
    regions = regions_from_masks(masks, [9, 4, 5])
    labels = {9: RegionLabel("cup", 0.75)}
    result = pipeline.step(replace(frame, regions=regions, labels=labels), ALONE)
    assert [(o.instance_id, o.area, o.label, o.score) for o in result.objects] == [
        (9, 2000, "cup", 0.75),
        (4, 3300, "", 0),
    ]
    alone = pipeline.step(replace(frame, regions=regions.select([9])), ALONE)
    assert alone.objects[0].description == result.objects[0].description
    assert result.regions is not None
    assert len(result.regions) == 2


def test_no_region_is_left_of_an_array(pipeline: Pipeline) -> None:
    tiny = regions_from_masks(np.pad(np.ones((1, 2, 2), bool), ((0, 0), (0, 118), (0, 158))))
    assert pipeline.step(replace(patches(), regions=tiny), SHORT).empty_reason == (
        "no region is left: all 1 are smaller than 50 pixels"
    )
    none = regions_from_crops([], [], 120, 160)
    assert pipeline.step(replace(patches(), regions=none), SHORT).empty_reason == "the array has no regions"


def test_words_that_are_not_sure_enough_become_unknown(pipeline: Pipeline) -> None:
    sure = pipeline.step(patches(), SHORT)
    confidences = sorted(obj.caption.confidence for obj in sure.objects if obj.caption)
    assert confidences[0] < confidences[1]
    found = pipeline.step(patches(), replace(SHORT, min_confidence=(confidences[0] + confidences[1]) / 2))
    for before, after in zip(sure.objects, found.objects, strict=True):
        assert before.caption is not None
        assert after.caption is not None
        assert after.caption.confidence == before.caption.confidence
        unsure = before.caption.confidence == confidences[0]
        assert after.description == (UNKNOWN if unsure else before.description)


def test_a_time_budget_leaves_out_what_does_not_fit(pipeline: Pipeline, describer: Describer) -> None:
    everything = pipeline.step(patches(1), replace(SHORT, time_budget=60.0))
    assert everything.skipped == 0

    other = Pipeline(describer)
    hurried = other.step(patches(1), replace(SHORT, time_budget=1e-3))
    assert [obj.state for obj in hurried.objects] == [State.SKIPPED] * 3
    assert hurried.objects[0].reason == "no time left in this frame (time_budget 0.001 s); new object"
    # They get their turn when there is time, or else when they have waited for long.
    frames = 0
    while other.memory.scene.needing_caption():
        result = other.step(patches(2 + frames), replace(SHORT, time_budget=1e-3))
        assert result.described <= 1
        frames += 1
    assert frames <= 75
    assert said(result) == said(everything)


def test_stopping_ends_within_a_step(pipeline: Pipeline) -> None:
    asked: list[int] = []

    def stop() -> bool:
        return pipeline.memory.snapshot().stamp == 5 and len(asked.append(0) or asked) > 3

    result = pipeline.step(patches(), SHORT, PolledToken(stop))
    assert result.timing is not None
    assert result.timing.steps <= 3
    assert [(obj.state, obj.reason) for obj in result.objects] == [(State.SKIPPED, "stopped; new object")] * 3
    assert pipeline.step(patches(6), SHORT).described == 3
    canceled = CancellationToken()
    canceled.cancel()
    with pytest.raises(StoppedError):
        pipeline.step(patches(7, p1=(20, 160, 40)), SHORT, canceled)
    assert len(pipeline.step(patches(8), SHORT).objects) == 3


def test_depth_says_where_objects_are(pipeline: Pipeline) -> None:
    frame = patches()
    depth = np.where(frame.regions == 2, 1.0, 2.0).astype(np.float32)
    depth[frame.regions == 7] = np.nan
    matrix = np.array([[100.0, 0, 79.5], [0, 100.0, 59.5], [0, 0, 1]])
    result = pipeline.step(replace(frame, depth=depth, camera_matrix=matrix), SHORT)
    first, second, third = result.objects
    assert first.position == pytest.approx(((29.5 - 79.5) / 50, (34.5 - 59.5) / 50, 2.0), abs=0.02)
    assert second.position == pytest.approx((0.35, 0.15, 1.0), abs=0.01)
    assert second.size == pytest.approx((0.5 * 0.96, 0.3 * 0.96, 0.0), abs=0.02)
    assert third.position is None
    assert third.size is None
    without_camera = pipeline.step(replace(frame, depth=depth), SHORT)
    assert all(obj.position is None for obj in without_camera.objects)


def test_sizes_that_differ_are_named(pipeline: Pipeline) -> None:
    frame = patches()
    message = "the regions of the segmentation are 160x60 pixels, the image is 160x120, and the ratio of width"
    with pytest.raises(InputError, match=message):
        pipeline.step(replace(frame, regions=frame.regions[::2]), SHORT)
    half = regions_from_masks(np.ones((1, 60, 160), bool))
    with pytest.raises(InputError, match=message):
        pipeline.step(replace(frame, regions=half), SHORT)
    with pytest.raises(
        InputError, match="the depth is 80x60 pixels and the image 160x120: publish depth that is regis"
    ):
        pipeline.step(replace(frame, depth=np.ones((60, 80), np.float32)), SHORT)


@pytest.mark.parametrize("scale", [2, 3])
def test_regions_of_another_resolution_are_resized_and_it_is_logged_once(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture, scale: int
) -> None:
    frame = patches()
    expected = [(obj.box, obj.area) for obj in pipeline.step(frame, replace(SHORT, remember=False)).objects]
    larger = frame.regions.repeat(scale, axis=0).repeat(scale, axis=1)
    for _ in range(2):
        found = pipeline.step(replace(frame, regions=larger), replace(SHORT, remember=False)).objects
        assert [(obj.box, obj.area) for obj in found] == expected
    assert caplog.text.count("they are resized by nearest neighbor") == 1


def test_a_mask_of_which_no_pixel_is_left_is_unknown_with_a_reason(pipeline: Pipeline) -> None:
    frame = patches()
    ids = frame.regions.copy()
    ids[ids == ids.max()] = 0
    ids[0, 0] = 99  # a corner is between the pixels of all feature maps
    result = pipeline.step(replace(frame, regions=ids), replace(SHORT, min_area=1))
    thing = next(obj for obj in result.objects if obj.instance_id == 99)
    assert (thing.description, thing.state, thing.caption.confidence) == ("unknown", State.FRESH, 0.0)
    assert "no pixel of its mask (1 pixels) is left at the scales of the model" in thing.reason
    assert all(not obj.reason for obj in result.objects if obj is not thing)
    again = pipeline.step(replace(frame, stamp=2, regions=ids), replace(SHORT, min_area=1))
    assert next(obj for obj in again.objects if obj.instance_id == 99).reason == thing.reason


def test_an_id_image_of_speckles_is_refused_unless_it_is_allowed(pipeline: Pipeline) -> None:
    frame = patches()
    ids = frame.regions.astype(np.int32)
    ids[-1, :65] = np.arange(100, 165)
    with pytest.raises(RegionError, match=r"65 of the .* ids of the id image cover fewer than 16 pixels each"):
        pipeline.step(replace(frame, regions=ids), SHORT)
    assert pipeline.step(replace(frame, regions=ids), replace(SHORT, masks_anyway=True)).objects


def test_frames_that_were_seen_can_be_asked_about(pipeline: Pipeline, describer: Describer) -> None:
    assert pipeline.memory.latest is None
    for stamp in range(12):
        result = pipeline.step(patches(stamp, p1=(10 * stamp, 60, 90)), SHORT)
    assert [seen.stamp for seen in pipeline.memory.recent] == list(range(4, 12))
    seen = pipeline.memory.latest
    assert seen is not None
    assert (seen.stamp, seen.frame_id, seen.rgb.shape) == (11, "camera", (120, 160, 3))
    assert [obj.track_id for obj in result.objects] == seen.track_ids.tolist()
    # The describer has the latest image; an older one is set when it is asked for.
    here = describer.ask(seen.encoded, QUESTIONS["category"])
    older = pipeline.memory.recent[0]
    pipeline.look_at(older)
    assert describer.image_id == older.encoded.image_id != seen.encoded.image_id
    there = describer.ask(older.encoded, QUESTIONS["category"])
    describer.set_image(older.rgb)
    assert [d.text for d in describer.ask(older.regions, QUESTIONS["category"])] == [d.text for d in there]
    pipeline.look_at(seen)
    timing = describer.image_timing
    pipeline.look_at(seen)
    assert describer.image_timing is timing  # it was set already
    assert [d.text for d in describer.ask(seen.encoded, QUESTIONS["category"])] == [d.text for d in here]


def test_a_buffer_that_the_camera_fills_again_is_no_matter(pipeline: Pipeline) -> None:
    first, second = patches(1), patches(2, p1=(20, 160, 40))
    shown = first.rgb.copy()
    pipeline.step(first, SHORT)
    first.rgb[:], first.regions[:] = second.rgb, 0
    pipeline.step(replace(second, rgb=first.rgb), SHORT)
    older, newer = pipeline.memory.recent
    np.testing.assert_array_equal(older.rgb, shown)
    np.testing.assert_array_equal(newer.rgb, second.rgb)
    assert older.regions.areas.tolist() == [2000, 1500, 1200]
    assert older.regions.crop(0).all()


def test_what_is_forgotten_is_new_again(pipeline: Pipeline) -> None:
    before = pipeline.step(patches(1), SHORT)
    gone = before.objects[1].track_id
    assert pipeline.memory.forget([gone, 12345]) == (gone,)
    after = pipeline.step(patches(2), SHORT)
    assert (after.described, after.reused) == (1, 2)
    assert after.objects[1].track_id == 4
    assert after.objects[1].first_seen == 2
    assert len(pipeline.memory.forget()) == 3
    assert [obj.track_id for obj in pipeline.step(patches(3), SHORT).objects] == [5, 6, 7]


def test_a_restored_pipeline_knows_its_objects(pipeline: Pipeline, describer: Describer) -> None:
    before = pipeline.step(patches(1), SHORT)
    other = Pipeline(describer)
    other.restore(pipeline.memory.scene.persistent_objects(), next_id=20, questions=pipeline.memory.questions)
    assert other.memory.scene.next_id == 20
    after = other.step(patches(2, {1: 30, 2: 20, 7: 10}), SHORT)
    by_track = {obj.track_id: obj.caption for obj in after.objects}
    assert by_track == {obj.track_id: obj.caption for obj in before.objects}
    assert after.described == 0


@pytest.mark.parametrize("questions", ["", "something else"])
def test_restored_words_are_stale_where_others_are_asked_for_now(
    pipeline: Pipeline, describer: Describer, questions: str
) -> None:
    pipeline.step(patches(1), SHORT)
    kept = pipeline.memory.scene.persistent_objects()
    other = Pipeline(describer)
    other.restore(kept, pipeline.memory.scene.next_id, questions)
    assert other.memory.questions == questions
    result = other.step(patches(2), replace(SHORT, time_budget=1e-9))
    assert [obj.track_id for obj in result.objects] == [1, 2, 3]
    reason = "the questions changed since it was described"
    assert all(obj.reason.endswith(reason) for obj in result.objects)
    assert other.memory.questions == pipeline.memory.questions
    color = AttributeSpec("color", values=("red", "green", "blue"))
    other.restore(kept, pipeline.memory.scene.next_id, pipeline.memory.questions)
    assert other.step(patches(3), replace(SHORT, attributes=(color,))).described == 3


def test_scene_and_tracker_forget_the_same_objects(pipeline: Pipeline, describer: Describer) -> None:
    """Else what the scene keeps could never be found again."""
    pipeline.step(patches(100), SHORT)
    known = list(pipeline.memory.scene.persistent_objects())
    looks = np.random.default_rng(0).normal(size=(20, len(known[0].appearance))).astype(np.float32)
    older = [replace(known[0], track_id=10 + n, last_seen=n, appearance=looks[n]) for n in range(20)]
    other = Pipeline(describer, Scene(max_objects=5))
    other.restore([*known, *older], 40, pipeline.memory.questions)
    assert [obj.track_id for obj in other.memory.scene.snapshot().objects] == [1, 2, 3, 28, 29]
    one = patches(101)
    other.step(replace(one, regions=np.where(one.regions == 7, one.regions, 0)), SHORT)
    result = other.step(patches(102), SHORT)
    assert [obj.track_id for obj in result.objects] == [1, 2, 3]
    assert result.described == 0


def test_memory_is_bounded_while_nothing_can_be_described(describer: Describer) -> None:
    pipeline = Pipeline(describer, Scene(max_objects=5))
    twice = AttributeSpec("near", "Is <mask><pos> near <mask><pos>?")
    crowded = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((40, 40), np.int32)).astype(np.int32)
    with pytest.raises(OspreyError):
        pipeline.step(replace(patches(1), regions=crowded), replace(SHORT, attributes=(twice,)))
    assert len(pipeline.memory.scene) == 5
    assert pipeline.step(patches(9), SHORT).described == 3


def test_frames_that_were_seen_do_not_name_what_is_forgotten(pipeline: Pipeline) -> None:
    pipeline.step(patches(1), SHORT)
    pipeline.step(patches(2), SHORT)
    pipeline.memory.forget([2])
    assert [seen.track_ids.tolist() for seen in pipeline.memory.recent] == [[1, 0, 3], [1, 0, 3]]
    pipeline.step(patches(3), SHORT)
    pipeline.memory.forget()
    assert not any(seen.track_ids.any() for seen in pipeline.memory.recent)


def test_frames_that_were_seen_name_the_older_object_of_one_that_seemed_new(pipeline: Pipeline) -> None:
    def elsewhere(stamp: int, color: tuple[int, int, int]) -> Frame:
        frame = patches(stamp)
        frame.rgb[10:60, 10:50], frame.regions[10:60, 10:50] = 150, 0
        frame.rgb[5:55, 105:155], frame.regions[5:55, 105:155] = color, 1
        return frame

    first = pipeline.step(patches(1), SHORT).objects[0].track_id
    for stamp in range(2, 15):
        away = patches(stamp)
        away.regions[away.regions == 1] = 0
        pipeline.step(away, SHORT)
    young = pipeline.step(elsewhere(15, (250, 250, 250)), SHORT).objects[0].track_id  # in a bright light at first
    assert young not in (first, 0)
    named = [young]
    for stamp, light in enumerate((0.8, 0.6, 0.4, 0.2, 0.0), 16):
        color = (round(200 + 50 * light), round(30 + 220 * light), round(30 + 220 * light))
        named.append(pipeline.step(elsewhere(stamp, color), SHORT).objects[0].track_id)
    assert named[1] == young
    assert named[-1] == first
    assert [int(seen.track_ids[0]) for seen in pipeline.memory.recent][-6:] == [first] * 6


def test_memory_is_bounded(describer: Describer) -> None:
    pipeline = Pipeline(describer, Scene(max_objects=5))
    rng = np.random.default_rng(0)
    for stamp in range(6):  # other things in every frame
        rgb = cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (160, 120), interpolation=cv2.INTER_NEAREST)
        result = pipeline.step(replace(patches(stamp), rgb=rgb), replace(SHORT, max_new_tokens=2))
        assert len(result.objects) == 3
        assert len(pipeline.memory.scene) <= 5
    assert {obj.track_id for obj in result.objects} <= {o.track_id for o in pipeline.memory.scene.snapshot().objects}
    held = [obj.appearance.base for obj in pipeline.memory.scene.snapshot().objects]
    assert held == [None] * len(held)  # none keeps a whole frame's tokens alive

    crowded = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((40, 40), np.int32)).astype(np.int32)
    result = pipeline.step(replace(patches(9), regions=crowded), replace(SHORT, max_new_tokens=2))
    assert len(result.objects) == 12
    assert len(pipeline.memory.scene) == 5
