"""Label images of classes and of panoptic values, as Isaac ROS and semantic_inference publish them."""

from __future__ import annotations

import numpy as np
import pytest

from osprey_ros.errors import InputError
from osprey_ros.frame import RegionLabel
from osprey_ros.messages.frames import RawFrame, frame_from_messages
from osprey_ros.regions.label_values import CLASSES, PANOPTIC, LabelValues
from osprey_ros.ros.inputs.settings import InputSettings
from osprey_ros.ros.outputs import messages

HEADER = messages.header_message(1, "camera")


def test_pieces_of_a_class_are_regions_with_its_name() -> None:
    values = np.zeros((40, 60), np.uint8)
    values[2:12, 2:12] = values[20:30, 40:50] = 3
    values[12:20, 12:20] = 3  # touches the first piece at a corner
    values[2:12, 30:50] = 1
    values[35:38, 1:4] = 1  # 9 pixels
    ids, names = LabelValues(CLASSES, ("", "person", "", "chair")).read(values)
    assert sorted(np.unique(ids)) == [0, 1, 2, 3]
    assert names == {1: "person", 2: "chair", 3: "chair"}
    for region, piece in ((1, np.s_[2:12, 30:50]), (3, np.s_[20:30, 40:50])):
        wanted = np.zeros_like(ids)
        wanted[piece] = region
        np.testing.assert_array_equal(np.where(ids == region, region, 0), wanted)
    assert (ids == 2).sum() == 164


def test_panoptic_values_are_ids_and_have_a_class() -> None:
    values = np.full((20, 30), 5 << 16, np.int32)  # a wall, without an instance
    values[2:8, 2:8] = 1  # the first instance; its class is 0
    values[10:18, 2:8] = (2 << 16) | 2
    values[2:8, 12:20] = (7 << 16) | 3
    values[12:18, 12:20] = -1
    ids, names = LabelValues(PANOPTIC, ("cup", "", "book"), ("7",)).read(values)
    assert sorted(np.unique(ids)) == [0, 1, 131074]
    assert names == {1: "cup", 131074: "book"}
    assert (ids == 131074).sum() == 48


def test_background_is_named_or_numbered() -> None:
    values = np.repeat(np.arange(4, dtype=np.uint8), 100).reshape(20, 20)
    names = ("nothing", "wall", "floor", "cup")
    ids, found = LabelValues(CLASSES, names, ("wall", "2")).read(values)
    assert found == {1: "cup"}
    assert (ids > 0).sum() == 100
    with pytest.raises(InputError, match="background class 'roof' is not among the class names"):
        LabelValues(CLASSES, names, ("roof",))


def test_the_node_reads_them_at_the_size_of_the_network() -> None:
    settings = InputSettings(segmentation_values="classes", class_names="background, cup", background_classes="0")
    small = np.zeros((30, 40), np.uint8)
    small[5:15, 5:15] = 1
    image = messages.image_message(np.zeros((120, 160, 3), np.uint8), "rgb8", HEADER)
    mask = messages.image_message(small, "mono8", HEADER)
    topics = {"image": "/image", "segmentation": "/unet/raw_segmentation_mask"}
    frame = frame_from_messages(RawFrame(image, mask, "segmentation", topics, settings.label_values()))
    regions, _ = frame.regions_above(1)
    assert regions.boxes.tolist() == [[20, 20, 40, 40]]
    assert regions.areas.tolist() == [1600]
    assert frame.labels == {1: RegionLabel("cup", 0.0)}


def test_settings_name_the_parameter() -> None:
    with pytest.raises(InputError, match="background_classes: the background class 'sky'"):
        InputSettings(class_names="wall,floor", background_classes="sky")
