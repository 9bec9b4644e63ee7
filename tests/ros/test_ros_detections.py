"""The class of an object in vision_msgs: a word that stays the same, whatever the description says."""

from __future__ import annotations

import numpy as np
import pytest

from osprey_ros.ros.outputs.detections import class_of
from osprey_ros.scene.types import Caption, SceneObject, State


@pytest.mark.parametrize(
    ("category", "label", "expected"),
    [
        ("mug", "cup", "mug"),
        ("", "cup", "cup"),
        ("unknown", "cup", "cup"),
        ("unknown", "", "unknown"),
        ("", "", "unknown"),
    ],
)
def test_a_class_is_a_category_or_a_label_and_never_a_sentence(category: str, label: str, expected: str) -> None:
    caption = Caption(category, "a small red mug on the table", 0.75, 1)
    thing = SceneObject(
        1, State.FRESH, "", caption, 1, 1, True, 1, (0, 0, 4, 4), 16, np.zeros(4, np.float32), label=label
    )
    assert class_of(thing) == expected
