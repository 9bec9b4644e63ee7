"""One step without ROS: which regions are described, and with which questions. Real engines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ros_harness import BUNDLE, tabletop

from osprey_ros.describer import Describer
from osprey_ros.pipeline import Frame, FrameError, StepSettings, describe_frame
from osprey_ros.prompt import QUESTIONS


@pytest.fixture(scope="module")
def describer() -> Describer:
    return Describer(BUNDLE, threads=1)


@pytest.fixture
def frame() -> Frame:
    image, ids = tabletop()
    return Frame(stamp=5, frame_id="camera", rgb=image, ids=ids)


SHORT = StepSettings(max_new_tokens=8)


def test_each_object_has_its_place_and_both_answers(describer: Describer, frame: Frame) -> None:
    result = describe_frame(describer, frame, SHORT)
    assert [o.instance_id for o in result.objects] == [1, 2, 7]
    assert result.objects[0].box == (10, 10, 40, 50)
    assert [o.area for o in result.objects] == [2000, 1500, 1200]
    assert all(o.described_at == 5 and 0 < o.confidence <= 1 for o in result.objects)
    describer.set_image(frame.rgb)
    for style, found in (("short", "description"), ("category", "category")):
        alone = describer.ask(frame.ids, QUESTIONS[style], max_new_tokens=8)
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


def test_small_regions_are_left_out_and_the_largest_are_taken(describer: Describer, frame: Frame) -> None:
    large = describe_frame(describer, frame, replace(SHORT, min_area=1400))
    assert [o.instance_id for o in large.objects] == [1, 2]
    two = describe_frame(describer, frame, replace(SHORT, max_regions=1))
    assert [o.instance_id for o in two.objects] == [1]


@pytest.mark.parametrize("ids", [np.zeros((120, 160), np.uint8), np.full((120, 160), -1, np.int32)])
def test_a_frame_without_regions_gives_nothing(describer: Describer, frame: Frame, ids: np.ndarray) -> None:
    result = describe_frame(describer, replace(frame, ids=ids), SHORT)
    assert result.objects == ()
    assert result.regions is None
    assert "every pixel is background" in result.nothing


def test_a_frame_with_small_regions_only_says_so(describer: Describer, frame: Frame) -> None:
    result = describe_frame(describer, frame, replace(SHORT, min_area=100_000))
    assert result.objects == ()
    assert "smaller than 100000 pixels" in result.nothing


def test_sizes_that_differ_are_named(describer: Describer, frame: Frame) -> None:
    with pytest.raises(FrameError, match="the segmentation is 80x60 pixels and the image 160x120"):
        describe_frame(describer, replace(frame, ids=frame.ids[::2, ::2]), SHORT)
