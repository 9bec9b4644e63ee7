"""Messages that annotated recordings gain."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest
from rclpy.serialization import deserialize_message
from recordings import START
from sample_objects import sample_mug

from osprey_interfaces.msg import ObjectDescriptionArray
from osprey_ros.errors import InputError
from osprey_ros.kinds.back_off import KindProbability
from osprey_ros.recording.types import MessageTypes, serialized_stamp
from osprey_ros.ros.outputs import messages
from osprey_ros.scene.types import Attribute, Caption, State


def test_the_messages_are_those_of_the_node() -> None:
    mug = sample_mug(START)
    assert mug.caption is not None
    stale = replace(mug, state=State.STALE, reason="it looks otherwise than when it was described")
    described = replace(stale, caption=replace(mug.caption, description="a small red mug, höher"))
    others = [
        replace(mug, track_id=number, state=state, reason="no time left", caption=None, position=None, size=None)
        for number, state in enumerate(State, start=1)
    ]
    data = MessageTypes().objects((described, *others), START + 5, "camera")
    assert deserialize_message(data, ObjectDescriptionArray) == messages.objects_message(
        [described, *others], messages.header_message(START + 5, "camera")
    )
    assert serialized_stamp(data) == START + 5


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"score": nan}, "score is not finite (nan)"),
        ({"caption": Caption("mug", "a mug", nan, START)}, "confidence is not finite (nan"),
        ({"caption": Caption("", "", 0.5, START, (Attribute("color", "red", inf),))}, "attribute is not finite (inf)"),
        (
            {"caption": Caption("", "", 0.5, START, kinds=(KindProbability("mug", nan),))},
            "probability of a kind is not finite (nan)",
        ),
        ({"position": (0.5, inf, 1.5)}, "position is not finite (0.5, inf, 1.5)"),
        ({"size": (nan, 1.0, 1.0)}, "size is not finite (nan, 1, 1)"),
    ],
)
def test_numbers_that_are_not_finite_reach_no_message(change: dict, what: str) -> None:
    thing = replace(sample_mug(START), **change)
    for make in (
        lambda: MessageTypes().objects([thing], START, "camera"),
        lambda: messages.objects_message([thing], messages.header_message(START, "camera")),
    ):
        with pytest.raises(InputError) as error:
            make()
        assert "object 12: the " in str(error.value)
        assert what in str(error.value)
