"""Publishers of the node. They exist while the node is configured; each message has the header of its frame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from osprey_ros.frame import Frame
from osprey_ros.ros import interfaces
from osprey_ros.ros.outputs import messages
from osprey_ros.ros.outputs.detections import detection_type, detections_message
from osprey_ros.ros.outputs.markers import markers_message
from osprey_ros.scene.events import SceneEvent
from osprey_ros.scene.result import StepResult
from osprey_ros.viz.overlay import draw_regions

QOS_DEPTH = 5
EVENTS_DEPTH = 256  # one message for each event; a frame can have many


class Outputs:
    """Publish ``~/objects`` and ``~/events``; ``~/detections``, ``~/overlay``, ``~/markers`` for their subscribers."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._publishers: list[LifecyclePublisher[Any]] = []
        try:
            self._objects = self._publisher(interfaces.ObjectDescriptionArray, "~/objects")
            self._events = self._publisher(interfaces.SceneEvent, "~/events", EVENTS_DEPTH)
            self._overlay = self._publisher(Image, "~/overlay")
            self._markers = self._publisher(MarkerArray, "~/markers")
            # vision_msgs may not be installed.
            self._detections = self._publisher(detection_type(), "~/detections") if detection_type() else None
        except Exception:
            self.close()  # the publishers created before the failure
            raise

    def publish(self, frame: Frame, result: StepResult, events: Iterable[SceneEvent], draw: bool) -> None:
        """Publish the objects of a frame and the events with it; the overlay only if ``draw`` is true."""
        header = messages.header_message(frame.stamp, frame.frame_id)
        self._objects.publish(messages.objects_message(result.objects, header))
        for event in events:
            self._events.publish(messages.event_message(event, header))
        if self._detections is not None and self._detections.get_subscription_count():
            self._detections.publish(detections_message(result.objects, header))
        if self._markers.get_subscription_count():
            self._markers.publish(markers_message(result.objects, header))
        if draw and self._overlay.get_subscription_count():
            self._overlay.publish(_overlay_message(frame, result, header))

    def close(self) -> None:
        """Remove the publishers from the graph."""
        while self._publishers:
            self._node.destroy_lifecycle_publisher(self._publishers.pop())

    def _publisher(self, kind: type, topic: str, depth: int = QOS_DEPTH) -> LifecyclePublisher[Any]:
        self._publishers.append(self._node.create_lifecycle_publisher(kind, topic, depth))
        return self._publishers[-1]


def _overlay_message(frame: Frame, result: StepResult, header: Header) -> Image:
    """Return the image with labeled regions in the colors of their tracks, as the markers have them."""
    message = messages.image_message(frame.rgb, "rgb8", header)
    if result.regions is not None:
        canvas = np.frombuffer(message.data, np.uint8).reshape(frame.rgb.shape)  # the memory of the message
        labels, tracks = [thing.description for thing in result.objects], [thing.track_id for thing in result.objects]
        draw_regions(canvas, result.regions, labels, color_ids=tracks)
    return message
