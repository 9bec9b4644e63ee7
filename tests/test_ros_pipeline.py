"""One step without ROS: which regions are described, and with which questions. Real engines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ros_harness import BUNDLE, tabletop

from osprey_ros.describer import Describer
from osprey_ros.mask_codecs import regions_from_parts
from osprey_ros.pipeline import UNKNOWN, Frame, FrameError, RegionLabel, StepSettings, describe_frame
from osprey_ros.prompt import QUESTIONS
from osprey_ros.regions import regions_from_masks


@pytest.fixture(scope="module")
def describer() -> Describer:
    return Describer(BUNDLE, threads=1)


@pytest.fixture
def frame() -> Frame:
    image, ids = tabletop()
    return Frame(stamp=5, frame_id="camera", rgb=image, regions=ids)


SHORT = StepSettings(max_new_tokens=8)


def test_each_object_has_its_place_and_both_answers(describer: Describer, frame: Frame) -> None:
    result = describe_frame(describer, frame, SHORT)
    assert [o.instance_id for o in result.objects] == [1, 2, 7]
    assert result.objects[0].box == (10, 10, 40, 50)
    assert [o.area for o in result.objects] == [2000, 1500, 1200]
    assert all(o.described_at == 5 and 0 < o.confidence <= 1 for o in result.objects)
    describer.set_image(frame.rgb)
    for style, found in (("short", "description"), ("category", "category")):
        alone = describer.ask(frame.regions, QUESTIONS[style], max_new_tokens=8)
        assert [d.text for d in alone] == [getattr(o, found) for o in result.objects]


def test_the_category_is_asked_for_only_where_it_is_wanted(describer: Describer, frame: Frame) -> None:
    without = describe_frame(describer, frame, replace(SHORT, categories=False))
    assert [o.category for o in without.objects] == ["", "", ""]
    assert without.timing is not None
    both = describe_frame(describer, frame, SHORT)
    assert both.timing is not None
    assert both.timing.branch_tokens > without.timing.branch_tokens

    only = describe_frame(describer, frame, replace(SHORT, style="category"))
    assert [o.category for o in only.objects] == [o.description for o in only.objects]


def test_small_regions_are_left_out_and_the_largest_are_described(describer: Describer, frame: Frame) -> None:
    large = describe_frame(describer, frame, replace(SHORT, min_area=1400))
    assert [o.instance_id for o in large.objects] == [1, 2]
    assert large.skipped == 0

    one = describe_frame(describer, frame, replace(SHORT, max_regions=1))
    assert [o.instance_id for o in one.objects] == [1, 2, 7]
    assert one.skipped == 2
    assert one.objects[0].description
    for skipped in one.objects[1:]:
        assert skipped.skipped == "not one of the 1 largest regions (max_regions)"
        assert (skipped.category, skipped.description, skipped.confidence) == ("", "", 0.0)


@pytest.mark.parametrize("ids", [np.zeros((120, 160), np.uint8), np.full((120, 160), -1, np.int32)])
def test_a_frame_without_regions_gives_nothing(describer: Describer, frame: Frame, ids: np.ndarray) -> None:
    result = describe_frame(describer, replace(frame, regions=ids), SHORT)
    assert result.objects == ()
    assert result.regions is None
    assert "every pixel is background" in result.nothing


def test_a_frame_with_small_regions_only_says_so(describer: Describer, frame: Frame) -> None:
    result = describe_frame(describer, frame, replace(SHORT, min_area=100_000))
    assert result.objects == ()
    assert "smaller than 100000 pixels" in result.nothing


def test_regions_may_overlap_and_bring_labels(describer: Describer, frame: Frame) -> None:
    masks = np.zeros((3, 120, 160), bool)
    masks[0, 10:60, 10:50] = True
    masks[1, 5:65, 5:60] = True  # around the first one
    masks[2, 0:2, 0:2] = True  # too small
    regions = regions_from_masks(masks, [9, 4, 5])
    labels = {9: RegionLabel("cup", 0.75)}
    result = describe_frame(describer, replace(frame, regions=regions, labels=labels), SHORT)
    assert [(o.instance_id, o.area, o.label, o.score) for o in result.objects] == [
        (9, 2000, "cup", 0.75),
        (4, 3300, "", 0),
    ]
    alone = describe_frame(describer, replace(frame, regions=regions.select([9])), SHORT)
    assert alone.objects[0].description == result.objects[0].description
    assert result.regions is not None
    assert len(result.regions) == 2


def test_no_region_is_left_of_an_array(describer: Describer, frame: Frame) -> None:
    tiny = regions_from_masks(np.pad(np.ones((1, 2, 2), bool), ((0, 0), (0, 118), (0, 158))))
    assert describe_frame(describer, replace(frame, regions=tiny), SHORT).nothing == (
        "no region is left: all 1 are smaller than 50 pixels"
    )
    none = regions_from_parts([], [], 120, 160)
    assert describe_frame(describer, replace(frame, regions=none), SHORT).nothing == "there is no region in the array"


def test_words_that_are_not_sure_enough_become_unknown(describer: Describer, frame: Frame) -> None:
    sure = describe_frame(describer, frame, SHORT)
    confidences = sorted(o.confidence for o in sure.objects)
    found = describe_frame(describer, frame, replace(SHORT, min_confidence=(confidences[0] + confidences[1]) / 2))
    for before, after in zip(sure.objects, found.objects, strict=True):
        assert after.confidence == before.confidence
        assert after.description == (UNKNOWN if before.confidence == confidences[0] else before.description)


def test_a_time_budget_describes_the_largest_first(describer: Describer, frame: Frame) -> None:
    ids = np.zeros((120, 160), np.uint8)
    for number in range(10):
        ids[12 * number : 12 * number + 11, : 150 - 10 * number] = 10 - number
    many = replace(frame, regions=ids)
    everything = describe_frame(describer, many, replace(SHORT, time_budget=60.0))
    assert everything.skipped == 0
    words = {o.instance_id: o.description for o in describe_frame(describer, many, SHORT).objects}
    assert {o.instance_id: o.description for o in everything.objects} == words

    hurried = describe_frame(describer, many, replace(SHORT, time_budget=1e-3))
    described = [o.instance_id for o in hurried.objects if not o.skipped]
    assert described == [7, 8, 9, 10]
    assert all(o.skipped == "no time left in this frame (time_budget 0.001 s)" for o in hurried.objects[:6])
    assert {o.instance_id: o.description for o in hurried.objects if not o.skipped}.items() <= words.items()


def test_stopping_ends_within_a_step(describer: Describer, frame: Frame) -> None:
    asked = []
    result = describe_frame(describer, frame, SHORT, should_stop=lambda: len(asked.append(0) or asked) > 1)
    assert result.timing is not None
    assert result.timing.steps <= 1
    assert [o.skipped for o in result.objects] == ["stopped"] * 3


def test_depth_says_where_objects_are(describer: Describer, frame: Frame) -> None:
    depth = np.where(frame.regions == 2, 1.0, 2.0).astype(np.float32)
    depth[frame.regions == 7] = np.nan
    matrix = np.array([[100.0, 0, 79.5], [0, 100.0, 59.5], [0, 0, 1]])
    result = describe_frame(describer, replace(frame, depth=depth, camera_matrix=matrix), SHORT)
    first, second, third = result.objects
    assert first.position == pytest.approx(((29.5 - 79.5) / 50, (34.5 - 59.5) / 50, 2.0), abs=0.02)
    assert second.position == pytest.approx((0.35, 0.15, 1.0), abs=0.01)
    assert second.size == pytest.approx((0.5 * 0.96, 0.3 * 0.96, 0.0), abs=0.02)
    assert third.position is None
    assert third.size is None
    without_camera = describe_frame(describer, replace(frame, depth=depth), SHORT)
    assert all(o.position is None for o in without_camera.objects)


def test_sizes_that_differ_are_named(describer: Describer, frame: Frame) -> None:
    with pytest.raises(FrameError, match="the segmentation is 80x60 pixels and the image 160x120"):
        describe_frame(describer, replace(frame, regions=frame.regions[::2, ::2]), SHORT)
    half = regions_from_masks(np.ones((1, 60, 80), bool))
    with pytest.raises(FrameError, match="the segmentation is 80x60 pixels and the image 160x120"):
        describe_frame(describer, replace(frame, regions=half), SHORT)
    with pytest.raises(
        FrameError, match="the depth is 80x60 pixels and the image 160x120: publish depth that is regis"
    ):
        describe_frame(describer, replace(frame, depth=np.ones((60, 80), np.float32)), SHORT)
