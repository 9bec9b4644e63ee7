"""Construction of outgoing messages."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
from sample_objects import sample_mug

from osprey_ros.messages import images
from osprey_ros.messages.stamps import stamp_of
from osprey_ros.ros.outputs import messages
from osprey_ros.scene.types import State

RGB = np.random.default_rng(7).integers(0, 256, (6, 5, 3), np.uint8)
STAMP = 1_700_000_000_123_456_789
HEADER = messages.header_message(STAMP, "camera_optical_frame")
MUG = sample_mug(STAMP)


def test_images_survive_the_conversion_in_both_directions() -> None:
    message = messages.image_message(RGB[:, ::2], "rgb8", HEADER)
    assert (message.height, message.width, message.step) == (6, 3, 9)
    np.testing.assert_array_equal(images.rgb_from_message(message), RGB[:, ::2])
    assert stamp_of(message) == STAMP
    assert message.header.frame_id == "camera_optical_frame"


def test_objects_become_a_message() -> None:
    message = messages.objects_message([MUG], HEADER)
    (found,) = message.objects
    assert message.header == HEADER
    assert (found.track_id, found.instance_id, found.area, found.visible) == (12, 7, 450, True)
    assert (found.category, found.description, found.confidence) == ("mug", "a small red mug", 0.75)
    assert found.raw_confidence == 0.875
    assert found.kinds == ["coffee mug", "mug", "object"]
    assert list(found.kind_probabilities) == [0.25, 0.75, 1.0]
    assert found.unlike_training == 0.625
    assert [(a.name, a.value, a.confidence) for a in found.attributes] == [("color", "red", 0.5)]
    assert (found.roi.x_offset, found.roi.y_offset, found.roi.width, found.roi.height) == (3, 4, 20, 30)
    assert (found.label, found.score, found.state, found.reason) == ("cup", 0.5, found.FRESH, "")
    stamps = [found.first_seen, found.described_at, found.last_seen]
    assert stamps == [messages.time_message(STAMP - before) for before in (2, 1, 0)]
    assert found.has_position
    assert (found.position.x, found.position.y, found.position.z) == (0.5, -0.25, 1.5)
    assert (found.size.x, found.size.y, found.size.z) == (0.125, 0.25, 0.0625)


def test_an_object_without_caption_and_position() -> None:
    silent = replace(MUG, caption=None, state=State.SKIPPED, reason="no time left", position=None, visible=False)
    (found,) = messages.objects_message([silent], HEADER).objects
    assert (found.state, found.reason) == (found.SKIPPED, "no time left")
    assert (found.category, found.description, found.confidence, len(found.attributes)) == ("", "", 0, 0)
    assert (found.kinds, list(found.kind_probabilities), found.unlike_training) == ([], [], 0)
    assert found.described_at == messages.time_message(0)
    assert not found.has_position
    assert not found.visible


def test_each_state_has_its_number() -> None:
    objects = [replace(MUG, state=state) for state in (State.PENDING, State.FRESH, State.STALE, State.SKIPPED)]
    found = messages.objects_message(objects, HEADER).objects
    assert [o.state for o in found] == [found[0].PENDING, found[0].FRESH, found[0].STALE, found[0].SKIPPED]
    assert len({o.state for o in found}) == len(State)


def test_missing_interfaces_are_reported_with_the_command_that_builds_them() -> None:
    code = "import sys; sys.modules['osprey_interfaces.msg'] = None; import osprey_ros.ros.interfaces"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "osprey_interfaces is not built for this Python; run `make venv`" in ended.stderr.splitlines()[-1]


def test_camera_info_holds_the_matrix() -> None:
    matrix = np.array([[500.0, 0, 319.5], [0, 501.0, 239.5], [0, 0, 1]])
    message = messages.camera_info_message(matrix, 640, 480, HEADER)
    assert (message.width, message.height, message.distortion_model) == (640, 480, "plumb_bob")
    assert list(message.k) == matrix.ravel().tolist()
    assert list(message.p) == [500.0, 0, 319.5, 0, 0, 501.0, 239.5, 0, 0, 0, 1, 0]
