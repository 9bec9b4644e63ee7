"""Print what a running graph has, as one line of JSON: nodes, topics with their QoS, and rates. For `osprey doctor`.

It runs in a process of its own, because a wrong RMW implementation ends the process that loads it.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from sensor_msgs.msg import CompressedImage, Image

from osprey_ros.strict_json import to_json

NAME = "osprey_doctor"
MEASURED = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
_MOST = 8  # topics whose rate is measured


def report(node: Node, seconds: float) -> dict[str, Any]:
    """Return the graph as a node sees it after some seconds, and the rates of topics with images in that time."""
    counts: dict[str, int] = {}
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        rclpy.spin_once(node, timeout_sec=0.1)
        for name, types in node.get_topic_names_and_types():
            if name not in counts and len(counts) < _MOST and types[0] in MEASURED and node.count_publishers(name):
                counts[name] = 0
                quality = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
                node.create_subscription(MEASURED[types[0]], name, partial(_count, counts, name), quality, raw=True)
    elapsed = time.monotonic() - started
    topics = [_topic(node, name, types) for name, types in sorted(node.get_topic_names_and_types())]
    nodes = sorted(
        f"{space.rstrip('/')}/{name}" for name, space in node.get_node_names_and_namespaces() if name != NAME
    )
    rates = {name: count / elapsed for name, count in counts.items()}
    services = dict(node.get_service_names_and_types())
    osprey = [name.rpartition("/")[0] for name, types in services.items() if "osprey_interfaces/srv/GetScene" in types]
    return {"nodes": nodes, "topics": topics, "rates": rates, "osprey": osprey, "seconds": elapsed}


def _count(counts: dict[str, int], name: str, message: bytes) -> None:
    counts[name] += 1


def _topic(node: Node, name: str, types: list[str]) -> dict[str, Any]:
    publishers = node.get_publishers_info_by_topic(name)
    subscribers = [info for info in node.get_subscriptions_info_by_topic(name) if info.node_name != NAME]
    refused = sorted(
        {
            f"{listener.node_name} gets nothing of {source.node_name}: {reason.strip()}"
            for source in publishers
            for listener in subscribers
            for verdict, reason in [qos_check_compatible(source.qos_profile, listener.qos_profile)]
            if verdict == QoSCompatibility.ERROR
        }
    )
    return {
        "name": name,
        "types": types,
        "publishers": [_full_name(info) for info in publishers],
        "reliability": sorted({info.qos_profile.reliability.name.lower() for info in publishers}),
        "subscribers": [_full_name(info) for info in subscribers],
        "refused": refused,
    }


def _full_name(info: Any) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def main(argv: list[str] | None = None) -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args(argv)
    rclpy.init(args=[])
    node = rclpy.create_node(NAME, start_parameter_services=False, enable_rosout=False)
    try:
        print(to_json(report(node, arguments.seconds)), flush=True)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
