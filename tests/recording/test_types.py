"""Messages that annotated recordings gain."""

from __future__ import annotations

import numpy as np
from rclpy.serialization import deserialize_message
from recordings import START

from osprey_interfaces.msg import ObjectDescriptionArray
from osprey_ros.recording.types import MessageTypes, serialized_stamp
from osprey_ros.ros.outputs import messages
from osprey_ros.scene.types import Attribute, Caption, SceneObject, State


def test_the_messages_are_those_of_the_node() -> None:
    described = SceneObject(
        track_id=12,
        state=State.STALE,
        reason="it looks otherwise than when it was described",
        caption=Caption("mug", "a small red mug, höher", 0.75, START - 7, (Attribute("color", "red", 0.5),)),
        first_seen=START - 9,
        last_seen=START,
        visible=True,
        instance_id=7,
        box=(3, 4, 20, 30),
        area=450,
        appearance=np.zeros(4, np.float32),
        position=(0.5, -0.25, 1.5),
        size=(0.125, 0.25, 0.0625),
        label="cup",
        score=0.5,
    )
    others = [
        SceneObject(n, state, "no time left", None, START, START, True, n, (0, 0, 1, 1), 1, np.zeros(4, np.float32))
        for n, state in enumerate(State, start=1)
    ]
    data = MessageTypes().objects((described, *others), START + 5, "camera")
    assert deserialize_message(data, ObjectDescriptionArray) == messages.objects_message(
        [described, *others], messages.header_message(START + 5, "camera")
    )
    assert serialized_stamp(data) == START + 5
