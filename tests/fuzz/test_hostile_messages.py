"""Hostile messages keep the promises of the node; what once broke one is kept below."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fuzz.message_run import MessageRun

from osprey_ros.errors import InputError, RegionError
from osprey_ros.messages import regions as messages
from osprey_ros.messages.regions import BOX, regions_from_message
from osprey_ros.messages.stamps import check_stamp
from osprey_ros.regions.label_images import MAX_LABEL_BYTES
from osprey_ros.regions.masks import MaskCrop
from osprey_ros.regions.regions import regions_from_crops


@pytest.mark.parametrize("seed", range(3))
def test_hostile_messages_keep_every_promise(seed: int) -> None:
    run = MessageRun(seed)
    for _ in range(200):
        run.feed()
    assert run.counts["described"] > 20
    assert sum(run.counts[f"refused: {topic}"] for topic in ("image", "segmentation", "regions", "depth")) > 20


def box(number: int) -> Any:
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    return SimpleNamespace(id=number, roi=roi, encoding=BOX, label="", score=0.0)


def array(height: int, width: int, count: int) -> Any:
    return SimpleNamespace(height=height, width=width, regions=[box(number + 1) for number in range(count)])


@pytest.mark.parametrize(("height", "width"), [(2**32 - 1, 2**32 - 1), (2, 2**31), (100_000, 100_000)])
def test_the_size_that_a_message_claims_is_bounded_before_anything_is_allocated(height: int, width: int) -> None:
    with pytest.raises(InputError, match=f"the image size of the regions is {width}x{height} pixels, more than"):
        regions_from_message(array(height, width, 1))


def test_masks_of_a_message_are_bounded_together(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "MAX_MASK_PIXELS", 3 * 40 * 30)
    regions, _ = regions_from_message(array(30, 40, 4))
    assert regions.ids.tolist() == [1, 2, 3]
    assert "region 4 is left out: the masks before it have 3600 pixels, and a message may have 3600" in caplog.text


def test_masks_that_all_overlap_are_bounded() -> None:
    side = 4096
    count = MAX_LABEL_BYTES // side**2 + 1
    crop = MaskCrop(0, 0, np.ones((1, 1), np.bool_))
    with pytest.raises(RegionError, match="overlap so often"):
        regions_from_crops([crop] * count, range(1, count + 1), side, side)


@pytest.mark.parametrize("rest", [10**9, 2**32 - 1])
def test_a_stamp_whose_nanoseconds_reach_a_second_is_refused(rest: int) -> None:
    message = SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=2**31 - 1, nanosec=rest)))
    with pytest.raises(InputError, match=f"{rest} nanoseconds, at least a second"):
        check_stamp(message)
