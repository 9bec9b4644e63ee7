"""The class of an object in vision_msgs: a word that stays the same, whatever the description says."""

from __future__ import annotations

from types import SimpleNamespace as Fields
from typing import Any

import numpy as np
import pytest

from osprey_ros.ros.outputs import detections
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


@pytest.mark.parametrize("release", ["foxy", "galactic", "humble"])
def test_the_fields_of_each_release_are_filled(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Messages with the fields of the three layouts of vision_msgs, which is not among the wheels.
    place = Fields(x=0.0, y=0.0, theta=0.0)
    center = Fields(position=Fields(x=0.0, y=0.0), theta=0.0) if release == "humble" else place
    pose = Fields(pose=Fields(position=None))
    named = Fields(id="", score=0.0, pose=pose)
    nested = Fields(hypothesis=Fields(class_id="", score=0.0), pose=pose)

    def detection(header: Any, results: list[Any]) -> Any:
        number = {"tracking_id": ""} if release == "foxy" else {"id": ""}
        return Fields(results=results, bbox=Fields(center=center, size_x=0.0, size_y=0.0), **number)

    layout = Fields(
        ObjectHypothesisWithPose=lambda: named if release == "foxy" else nested,
        Detection2D=detection,
        Detection2DArray=lambda header, detections: Fields(header=header, detections=detections),
    )
    monkeypatch.setattr(detections, "vision", layout)
    caption = Caption("mug", "a small red mug on the table", 0.75, 1)
    thing = SceneObject(12, State.FRESH, "", caption, 1, 1, True, 1, (2, 3, 5, 7), 16, np.zeros(4, np.float32))
    (found,) = detections.detections_message([thing], Fields()).detections  # type: ignore[arg-type]
    assert (found.tracking_id if release == "foxy" else found.id) == "12"
    center = found.bbox.center if release != "humble" else found.bbox.center.position
    assert (center.x, center.y, found.bbox.size_x) == (4.0, 6.0, 5.0)
    (result,) = found.results
    hypothesis = (result.id, result.score) if release == "foxy" else tuple(vars(result.hypothesis).values())
    assert hypothesis == ("mug", 0.75)
