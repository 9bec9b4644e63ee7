"""Regions that the describer takes in other forms, at other resolutions, and those about which it can say nothing."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SampleImage, up_to

from osprey_ros import Describer
from osprey_ros.decoding.constraints import OneOf
from osprey_ros.errors import RegionError
from osprey_ros.regions.regions import regions_from_masks


@pytest.fixture
def masks(sample: SampleImage) -> np.ndarray:
    """Two good masks, and between them an empty one and one that is too small for all feature maps."""
    masks = np.zeros((4, 60, 80), bool)
    masks[0], masks[3] = sample.ids == 3, sample.ids == 12
    masks[2, 0, 0] = True
    return masks


def test_a_mask_without_evidence_is_unknown_and_the_others_are_described(ready: Describer, masks: np.ndarray) -> None:
    expected = ready.describe(masks[[0, 3]], config=up_to(6))
    for regions in (masks, ready.encode(masks)):
        found = ready.describe(regions, config=up_to(6))
        assert [found[0].text, found[3].text] == [answer.text for answer in expected]
        assert [found[0].reason, found[3].reason] == ["", ""]
        for answer in found[1:3]:
            assert (answer.text, answer.confidence, answer.raw_confidence) == ("unknown", 0.0, 0.0)
            assert not len(answer.tokens)
        assert found[1].reason == "its mask is empty; set the pixels inside the region"
        assert "no pixel of its mask (1 pixels) is left at the scales of the model" in found[2].reason


def test_the_reason_is_given_at_every_method(ready: Describer, masks: np.ndarray) -> None:
    config = up_to(4)
    listed = ready.answer(masks, ["What color is it?"], config, [OneOf(("red", "green"))])[0]
    assert [answer.text for answer in listed][1:3] == ["unknown", "unknown"]
    together = ready.ask_together(masks, "What is it?", config)
    assert (together.text, together.confidence) == ("unknown", 0.0)
    assert together.reason.startswith("region 2: its mask is empty")
    assert ready.ask_together(masks[[0, 3]], "What is it?", config).reason == ""
    assert set(ready.score(masks, ["red"]).reasons) == {2, 3}
    for joint, ids in ((False, {2, 3}), (True, {0})):
        updates = list(ready.stream(masks, "What is it?", config, together=joint))
        blank = [update for update in updates if update.region_id in ids]
        assert {(update.text, update.confidence) for update in blank} == {("unknown", 0.0)}
        assert all(update.reason for update in blank)
        assert all(not update.reason for update in updates if update.region_id not in ids)


def test_masks_of_models_are_taken_in_their_forms(ready: Describer, masks: np.ndarray) -> None:
    good = masks[[0, 3]]
    expected = [answer.text for answer in ready.describe(good, config=up_to(4))]
    sam = [{"segmentation": mask, "area": int(mask.sum()), "stability_score": 0.9} for mask in good]
    for form in (good.astype(np.float32), good[:, None], np.where(good, 4.5, -3.25)[:, None], sam, list(good)):
        assert [answer.text for answer in ready.describe(form, config=up_to(4))] == expected


def test_regions_of_another_resolution_are_resized_and_it_is_logged_once(
    ready: Describer, masks: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    good = masks[[0, 3]]
    expected = [answer.text for answer in ready.describe(good, config=up_to(4))]
    large = good.repeat(3, axis=1).repeat(3, axis=2)
    for _ in range(2):
        assert [answer.text for answer in ready.describe(large, config=up_to(4))] == expected
    assert caplog.messages == [
        "the regions are 240x180 pixels, the image is 80x60; they are resized by nearest neighbor"
    ]
    overlapping = regions_from_masks(np.ones((2, 120, 160), bool))
    assert ready.encode(overlapping).regions.areas.tolist() == [4800, 4800]
    with pytest.raises(RegionError, match="80x80 pixels, the image is 80x60, and the ratio of width"):
        ready.describe(np.ones((80, 80), bool))
