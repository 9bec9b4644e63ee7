"""Objects as vision_msgs/Detection2DArray, for nodes that know that message. vision_msgs may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from std_msgs.msg import Header

from osprey_ros.ros.messages import point_message
from osprey_ros.scene.types import Caption, SceneObject

try:
    from vision_msgs import msg as vision
except ImportError:
    vision = None


def detection_type() -> Any:
    """The class Detection2DArray, or None where vision_msgs is not installed."""
    return None if vision is None else vision.Detection2DArray


def detections_message(objects: Sequence[SceneObject], header: Header) -> Any:
    """A detection for each object that has words: its box, and as ``class_id`` its category, else its description.

    ``id`` is the track id; the pose holds the position, where that is known.
    """
    detections = [_detection(thing, thing.caption, header) for thing in objects if thing.caption is not None]
    return vision.Detection2DArray(header=header, detections=detections)


def _detection(thing: SceneObject, words: Caption, header: Header) -> Any:
    x, y, width, height = thing.box
    result = vision.ObjectHypothesisWithPose()
    result.hypothesis.class_id = words.category or words.description
    result.hypothesis.score = float(words.confidence)
    if thing.position is not None:
        result.pose.pose.position = point_message(thing.position)
    detection = vision.Detection2D(header=header, results=[result], id=str(thing.track_id))
    # Pixels are counted from the centre of the first one.
    detection.bbox.center.position.x = x + (width - 1) / 2
    detection.bbox.center.position.y = y + (height - 1) / 2
    detection.bbox.size_x, detection.bbox.size_y = float(width), float(height)
    return detection
