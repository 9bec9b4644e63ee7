"""An object of the scene with a value in every field, for tests of what is made of objects."""

from __future__ import annotations

import numpy as np

from osprey_ros.kinds.back_off import KindProbability
from osprey_ros.scene.types import Attribute, Caption, SceneObject, State


def sample_mug(stamp: int) -> SceneObject:
    """Return a mug that was described one nanosecond before ``stamp``, when it was last seen."""
    return SceneObject(
        track_id=12,
        state=State.FRESH,
        reason="",
        caption=Caption(
            "mug",
            "a small red mug",
            0.75,
            stamp - 1,
            (Attribute("color", "red", 0.5),),
            0.875,
            kinds=(KindProbability("coffee mug", 0.25), KindProbability("mug", 0.75), KindProbability("object", 1.0)),
            unlike_training=0.625,
        ),
        first_seen=stamp - 2,
        last_seen=stamp,
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
