"""Objects as vision_msgs/Detection2DArray, for nodes that know that message. vision_msgs may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from std_msgs.msg import Header

from osprey_ros.pipeline import DescribedObject
from osprey_ros.ros.messages import point_message

try:
    from vision_msgs import msg as vision
except ImportError:
    vision = None


def detection_type() -> Any:
    """The class Detection2DArray, or None where vision_msgs is not installed."""
    return None if vision is None else vision.Detection2DArray


def detections_message(objects: Sequence[DescribedObject], header: Header) -> Any:
    """A detection for each object that has words: its box, and as ``class_id`` its category, else its description.

    ``id`` is the instance id; the pose holds the position, where that is known.
    """
    return vision.Detection2DArray(
        header=header, detections=[_detection(described, header) for described in objects if not described.skipped]
    )


def _detection(described: DescribedObject, header: Header) -> Any:
    x, y, width, height = described.box
    result = vision.ObjectHypothesisWithPose()
    result.hypothesis.class_id = described.category or described.description
    result.hypothesis.score = float(described.confidence)
    if described.position is not None:
        result.pose.pose.position = point_message(described.position)
    detection = vision.Detection2D(header=header, results=[result], id=str(described.instance_id))
    # Pixels are counted from the centre of the first one.
    detection.bbox.center.position.x = x + (width - 1) / 2
    detection.bbox.center.position.y = y + (height - 1) / 2
    detection.bbox.size_x, detection.bbox.size_y = float(width), float(height)
    return detection
