"""Objects as vision_msgs/Detection2DArray, for nodes that use this message. vision_msgs may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from std_msgs.msg import Header

from osprey_ros.ros.outputs.messages import point_message
from osprey_ros.scene.types import UNKNOWN, Caption, SceneObject

try:
    from vision_msgs import msg as vision
except ImportError:
    vision = None


def detection_type() -> Any:
    """Return the class Detection2DArray, or None if vision_msgs is not installed."""
    return None if vision is None else vision.Detection2DArray


def detections_message(objects: Sequence[SceneObject], header: Header) -> Any:
    """Return one detection for each object with a caption: box, class, track id, and the position if known."""
    detections = [_detection(thing, thing.caption, header) for thing in objects if thing.caption is not None]
    return vision.Detection2DArray(header=header, detections=detections)


def class_of(thing: SceneObject) -> str:
    """Return the class of an object in one word or phrase: its category, or the label of the segmentation.

    Both stay the same while the object does, and neither is a description. UNKNOWN if the object has neither.
    """
    return next((word for word in (thing.category, thing.label) if word and word != UNKNOWN), UNKNOWN)


def _detection(thing: SceneObject, caption: Caption, header: Header) -> Any:
    x, y, width, height = thing.box
    result = vision.ObjectHypothesisWithPose()
    hypothesis = getattr(result, "hypothesis", result)  # up to Foxy, the result itself has class and score
    setattr(hypothesis, "class_id" if hasattr(hypothesis, "class_id") else "id", class_of(thing))
    hypothesis.score = float(caption.confidence)
    if thing.position is not None:
        result.pose.pose.position = point_message(thing.position)
    detection = vision.Detection2D(header=header, results=[result])
    setattr(detection, "id" if hasattr(detection, "id") else "tracking_id", str(thing.track_id))
    # Up to Galactic, the center is a geometry_msgs/Pose2D without the field position.
    center = getattr(detection.bbox.center, "position", detection.bbox.center)
    # The center of the first pixel is at 0.
    center.x = x + (width - 1) / 2
    center.y = y + (height - 1) / 2
    detection.bbox.size_x, detection.bbox.size_y = float(width), float(height)
    return detection
