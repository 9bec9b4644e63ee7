"""Objects of the scene as messages, for any library that constructs messages: rclpy on the robot, rosbags without ROS.

Their ``make`` constructs a message from the name of its type and its fields.
"""

from __future__ import annotations

from array import array
from math import cos, isfinite, sin
from typing import Any, Protocol

import numpy as np

from osprey_ros.errors import InputError
from osprey_ros.messages.stamps import NANOSECONDS
from osprey_ros.scene.pose import ObjectPose
from osprey_ros.scene.types import STATE_NUMBERS, SceneObject

_ORIGIN = (0.0, 0.0, 0.0)


class MakeMessage(Protocol):
    """Constructor of messages."""

    def __call__(self, name: str, /, **fields: Any) -> Any:
        """Return a message of a type such as "std_msgs/msg/Header" with these fields."""


def time_message(stamp: int, make: MakeMessage) -> Any:
    """Return a builtin_interfaces/Time from a stamp in nanoseconds."""
    return make("builtin_interfaces/msg/Time", sec=stamp // NANOSECONDS, nanosec=stamp % NANOSECONDS)


def object_message(thing: SceneObject, make: MakeMessage) -> Any:
    """Return an osprey_interfaces/ObjectDescription. Fields that are unknown are empty or 0.

    Raises:
        InputError: A number is not finite.
    """
    x, y, width, height = thing.box
    words = thing.caption
    has_position = thing.position is not None and thing.size is not None
    position, size = (thing.position or _ORIGIN, thing.size or _ORIGIN) if has_position else (_ORIGIN, _ORIGIN)
    attributes, kinds = (words.attributes, words.kinds) if words else ((), ())
    numbers = {
        "score": (thing.score,),
        "confidence": (words.confidence, words.raw_confidence) if words else (),
        "score of what is unlike training": (words.unlike_training,) if words else (),
        "confidence of an attribute": [found.confidence for found in attributes],
        "probability of a kind": [kind.probability for kind in kinds],
        "position": position,
        "size": size,
        "pose": (*thing.pose.position, *thing.pose.size, thing.pose.yaw) if thing.pose else (),
    }
    for what, values in numbers.items():
        if not all(isfinite(value) for value in values):
            text = ", ".join(f"{value:g}" for value in values)
            raise InputError(
                f"object {thing.track_id}: the {what} is not finite ({text}); check the depth and the calibration, and "
                "verify the bundle"
            )
    return make(
        "osprey_interfaces/msg/ObjectDescription",
        track_id=thing.track_id,
        instance_id=thing.instance_id,
        visible=thing.visible,
        roi=make(
            "sensor_msgs/msg/RegionOfInterest", x_offset=x, y_offset=y, width=width, height=height, do_rectify=False
        ),
        area=thing.area,
        label=thing.label,
        score=thing.score,
        state=STATE_NUMBERS[thing.state],
        reason=thing.reason,
        category=thing.category,
        description=thing.description,
        confidence=words.confidence if words else 0.0,
        raw_confidence=words.raw_confidence if words else 0.0,
        attributes=[
            make("osprey_interfaces/msg/Attribute", name=found.name, value=found.value, confidence=found.confidence)
            for found in attributes
        ],
        described_at=time_message(words.described_at if words else 0, make),
        first_seen=time_message(thing.first_seen, make),
        last_seen=time_message(thing.last_seen, make),
        has_position=has_position,
        position=make("geometry_msgs/msg/Point", **dict(zip("xyz", position, strict=True))),
        size=make("geometry_msgs/msg/Vector3", **dict(zip("xyz", size, strict=True))),
        **_pose_fields(thing.pose, make),
        kinds=[kind.name for kind in kinds],
        kind_probabilities=array("f", [kind.probability for kind in kinds]),
        unlike_training=words.unlike_training if words else 0.0,
    )


def _pose_fields(pose: ObjectPose | None, make: MakeMessage) -> dict[str, Any]:
    """Return the fields of an ObjectDescription about the fixed frame."""
    position, size, yaw = (pose.position, pose.size, pose.yaw) if pose else (_ORIGIN, _ORIGIN, 0.0)
    covariance = [0.0] * 36
    for axis, variance in enumerate(pose.variances if pose else _ORIGIN):
        covariance[7 * axis] = variance  # on the diagonal of a 6 x 6 matrix
    orientation = make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=sin(yaw / 2), w=cos(yaw / 2))
    point = make("geometry_msgs/msg/Point", **dict(zip("xyz", position, strict=True)))
    place = make("geometry_msgs/msg/Pose", position=point, orientation=orientation)
    return {
        "fixed_frame": pose.frame_id if pose else "",
        "pose": make("geometry_msgs/msg/PoseWithCovariance", pose=place, covariance=np.array(covariance)),
        "pose_size": make("geometry_msgs/msg/Vector3", **dict(zip("xyz", size, strict=True))),
        "pose_stamp": time_message(pose.stamp if pose else 0, make),
    }
