"""Objects as markers for RViz: a box for each object, with its description above."""

from __future__ import annotations

from collections.abc import Sequence

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Pose, Quaternion, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from osprey_ros.ros.outputs.messages import point_message
from osprey_ros.scene.types import SceneObject
from osprey_ros.viz.overlay import color_of

LIFETIME = 10  # seconds until markers disappear without an update, for example after the node has ended
_TEXT_HEIGHT = 0.05  # meters
_MIN_SIZE = 0.005  # meters; RViz does not draw a box without extent


def markers_message(objects: Sequence[SceneObject], header: Header) -> MarkerArray:
    """Return markers that replace those of the previous frame: two for each object with a known position."""
    markers = [_marker(header, action=Marker.DELETEALL)]
    for thing in objects:
        if thing.position is None or thing.size is None:
            continue
        red, green, blue = (channel / 255 for channel in color_of(thing.track_id))
        x, y, z = thing.position
        box = _marker(header, ns="boxes", id=thing.track_id, type=Marker.CUBE)
        box.pose.position = point_message(thing.position)
        box.scale = Vector3(**{axis: max(length, _MIN_SIZE) for axis, length in zip("xyz", thing.size, strict=True)})
        box.color = ColorRGBA(r=red, g=green, b=blue, a=0.35)
        text = _marker(header, ns="words", id=thing.track_id, type=Marker.TEXT_VIEW_FACING)
        # In the optical frame, y points down.
        text.pose.position = point_message((x, y - thing.size[1] / 2 - _TEXT_HEIGHT, z))
        text.scale.z = _TEXT_HEIGHT
        text.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
        text.text = thing.description or thing.category or thing.label or str(thing.track_id)
        markers += [box, text]
    return MarkerArray(markers=markers)


def _marker(header: Header, **values: object) -> Marker:
    return Marker(header=header, pose=Pose(orientation=Quaternion(w=1.0)), lifetime=Duration(sec=LIFETIME), **values)
