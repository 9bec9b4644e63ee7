"""Objects in the fixed frame: transforms over real DDS, poses in the messages, what a late transform looks like."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import message_packages
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_harness import Client, osprey_node, ros_environment, tabletop
from sensor_msgs.msg import CameraInfo, Image

from osprey_ros.ros.outputs import messages

STAMPS = count(1_000_000_000_000, 100_000_000)
CAMERA = "camera_optical_frame"
MATRIX = np.array([[160.0, 0, 80], [0, 160, 60], [0, 0, 1]])
RANGE = 2.0  # meters from the camera to everything


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment in which tf2_msgs can be imported; it can in this process, too."""
    folder = message_packages.ROOT / "build" / "tests" / "tf2_msgs"
    if not str(folder).isascii():  # rosidl drops other characters from paths
        folder = tmp_path_factory.mktemp("tf2_msgs")
    prefix = message_packages.built(folder, "tf2_msgs", message_packages.TRANSFORMS)
    with (
        ros_environment(tmp_path_factory.mktemp("logs")) as environment,
        message_packages.importable(prefix, environment) as complete,
    ):
        yield complete


class Robot(Client):
    """A client that also has depth, a calibration and transforms."""

    def __init__(self, env: dict[str, str]) -> None:
        from tf2_msgs.msg import TFMessage

        super().__init__(env)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.message = TFMessage
        self.depth = self.node.create_publisher(Image, "depth", 5)
        self.calibration = self.node.create_publisher(CameraInfo, "camera_info", latched)
        self.moving = self.node.create_publisher(TFMessage, "/tf", 100)
        self.static = self.node.create_publisher(TFMessage, "/tf_static", latched)
        header = messages.header_message(1, CAMERA)
        self.calibration.publish(messages.camera_info_message(MATRIX, 160, 120, header))
        # The optical frame looks along x of the base: its z is forward, its x to the right.
        self.static.publish(self.message(transforms=[transform("base", CAMERA, 0, (0, 0, 1), (-0.5, 0.5, -0.5, 0.5))]))

    def show(self, rgb: np.ndarray, ids: np.ndarray, base: tuple[float, float, float] | None) -> int:
        """Publish a frame seen from this place of the base; None: no transform comes for it."""
        stamp = next(STAMPS)
        if base is not None:
            self.moving.publish(self.message(transforms=[transform("map", "base", stamp, base)]))
        depth = np.full(ids.shape, RANGE, np.float32)
        self.depth.publish(messages.image_message(depth, "32FC1", messages.header_message(stamp, CAMERA)))
        self.send(stamp, rgb, ids)
        return stamp


def transform(
    parent: str,
    child: str,
    stamp: int,
    translation: tuple[float, float, float],
    turned: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0),
) -> TransformStamped:
    found = TransformStamped(header=messages.header_message(stamp, parent), child_frame_id=child)
    found.transform.translation = messages.vector_message([float(one) for one in translation])
    rotation = found.transform.rotation
    rotation.x, rotation.y, rotation.z, rotation.w = turned
    return found


def test_objects_have_poses_in_the_fixed_frame(env: dict[str, str], tmp_path: Any) -> None:
    parameters = ("autostart:=true", "max_new_tokens:=4", "use_depth:=true", "fixed_frame:=map", "threads:=1")
    with osprey_node(env, tmp_path, *parameters, "transform_timeout:=0.5") as node:
        client = Robot(env)
        try:
            client.listen_to_diagnostics()
            client.wait_until_heard()
            for publisher in (client.depth, client.calibration, client.moving, client.static):
                client.wait_for(publisher.get_subscription_count, "the node subscribes")
            rgb, ids = tabletop()
            client.wait_for(lambda: pose_of_seven(client, rgb, ids), "a frame has poses")
            client.status("transforms", DiagnosticStatus.OK, "poses in map")
            # The base moves on: the object is seen farther to the right, and stays where it is.
            fixed, thing = pose_of_seven(client, rgb, ids)
            assert thing.fixed_frame == "map"
            middle = np.array([35.0, 90.0])  # column and row of region 7
            expected = (RANGE, -(middle[0] - 80) / 160 * RANGE, 1 - (middle[1] - 60) / 160 * RANGE)
            np.testing.assert_allclose(fixed, expected, atol=0.05)
            assert thing.pose.covariance[0] > 0
            assert thing.position.z == pytest.approx(RANGE)  # in the camera's frame, as without a fixed frame
            shifted = np.roll(ids, 40, axis=1)
            there, moved = seen(client, np.roll(rgb, 40, axis=1), shifted, (0, 40 / 160 * RANGE, 0))
            np.testing.assert_allclose(there, fixed, atol=0.05)
            assert moved.track_id == thing.track_id
            # A transform that does not come: the pose stays, and the diagnostics say why.
            kept, late = seen(client, rgb, ids, None)
            np.testing.assert_allclose(kept, there)
            assert late.pose_stamp != late.last_seen
            client.status("transforms", DiagnosticStatus.WARN, "no pose in map: the latest transform from 'base'")
        finally:
            client.close()
    assert "Traceback" not in node.output()


def pose_of_seven(client: Robot, rgb: np.ndarray, ids: np.ndarray) -> Any:
    """Position and message of region 7 seen from the origin; None while transforms are not known."""
    position, thing = seen(client, rgb, ids, (0, 0, 0))
    return (position, thing) if thing.fixed_frame else None


def seen(client: Robot, rgb: np.ndarray, ids: np.ndarray, base: tuple[float, float, float] | None) -> Any:
    stamp = client.show(rgb, ids, base)
    (thing,) = [one for one in client.described(stamp).objects if one.instance_id == 7]
    place = thing.pose.pose.position
    return np.array([place.x, place.y, place.z]), thing


def test_what_a_fixed_frame_needs(env: dict[str, str], tmp_path: Any) -> None:
    with osprey_node(env, tmp_path, "fixed_frame:=map") as node:
        assert node.wait(60) == 2
        assert "fixed_frame is 'map' and use_depth is false: poses need depth; set both" in node.output()
