"""A running node as a source for agents: its services, and its events as they arrive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sensor_msgs.msg import RegionOfInterest

from osprey_ros.errors import OspreyError
from osprey_ros.mcp.source import EventRing, ImageFile
from osprey_ros.messages.json_objects import event_json, match_json, object_json, seconds_of
from osprey_ros.ros import interfaces
from osprey_ros.ros.services.client import NodeClient
from osprey_ros.system.cancellation import CancellationToken

_EVENTS_DEPTH = 256  # events that arrive between two calls


class NodeSource:
    """Answers by asking a node; see `osprey_ros.mcp.source.Source`.

    Args:
        name: Full name of the node, such as "/osprey".
        timeout: Seconds to wait for the node, and again for each answer.

    Raises InputError if the name is invalid.
    """

    def __init__(self, name: str, timeout: float) -> None:
        self.name = f"node {name}"
        self._timeout = timeout
        self._events = EventRing()
        self._client = NodeClient(name, "osprey_mcp")
        self._client.node.create_subscription(
            interfaces.SceneEvent,
            f"{self._client.name}/events",
            lambda event: self._events.add([event_json(event)]),
            _EVENTS_DEPTH,
        )

    def scene(self, cancel: CancellationToken) -> dict[str, Any]:
        """See `Source`."""
        answer = self._call(interfaces.GetScene, "get_scene", cancel)
        return {**_header(answer), "objects": [object_json(thing) for thing in answer.objects]}

    def find(self, text: str, limit: int, cancel: CancellationToken) -> dict[str, Any]:
        """See `Source`."""
        answer = self._call(interfaces.QueryScene, "query_scene", cancel, text=text, limit=limit)
        return {
            **_header(answer),
            "answer": answer.answer,
            "score": round(answer.score, 4),
            "count": int(answer.count),
            "message": answer.message,
            "events": [event_json(event) for event in answer.events],
            "matches": [match_json(one) for one in answer.matches],
        }

    def describe(
        self, track_ids: Sequence[int], question: str, style: str, cancel: CancellationToken
    ) -> dict[str, Any]:
        """See `Source`."""
        # A box around all pixels is cut to the image.
        whole = interfaces.Region(
            id=1, encoding=interfaces.Region.BOX, roi=RegionOfInterest(x_offset=0, y_offset=0, width=0, height=0)
        )
        answer = self._call(
            interfaces.DescribeRegion,
            "describe_region",
            cancel,
            track_ids=list(track_ids),
            regions=[] if track_ids else [whole],
            question=question,
            style="" if question else style,
        )
        return {
            "text": answer.text,
            "confidence": round(answer.confidence, 4),
            "message": answer.message,
            "stamp": seconds_of(answer.header.stamp),
        }

    def look(self, track_ids: Sequence[int], with_overlay: bool, side: int, cancel: CancellationToken) -> ImageFile:
        """See `Source`."""
        answer = self._call(
            interfaces.Look, "look", cancel, track_ids=list(track_ids), overlay=with_overlay, max_side=side
        )
        roi = answer.roi
        box = [roi.x_offset, roi.y_offset, roi.width, roi.height]
        return ImageFile(bytes(answer.image.data), {**_header(answer), "box": box})

    def events(self) -> EventRing:
        """See `Source`."""
        self._client.receive()
        return self._events

    def forget(self, track_ids: Sequence[int], cancel: CancellationToken) -> str:
        """See `Source`."""
        answer = self._call(interfaces.Forget, "forget", cancel, track_ids=list(track_ids))
        return str(answer.message)

    def close(self) -> None:
        """Leave the graph."""
        self._client.close()

    def _call(self, kind: Any, service: str, cancel: CancellationToken, **request: Any) -> Any:
        answer = self._client.call(kind, service, kind.Request(**request), self._timeout, cancel)
        if not answer.success:
            raise OspreyError(f"{self.name}: {answer.message}")
        return answer


def _header(answer: Any) -> dict[str, Any]:
    return {"stamp": seconds_of(answer.header.stamp), "frame_id": answer.header.frame_id}
