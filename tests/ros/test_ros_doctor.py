"""`osprey doctor` beside a running camera, over real DDS."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import count
from pathlib import Path

from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_harness import Client, ros_environment, tabletop
from sensor_msgs.msg import Image

STAMPS = count(1_000_000_000, 33_333_333)


def test_topics_of_a_running_camera(tmp_path: Path) -> None:
    image, ids = tabletop()
    with ros_environment(tmp_path) as env:
        client = Client(env)
        client.node.create_publisher(
            Image, "camera/other", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        )
        client.node.create_subscription(Image, "camera/other", lambda message: None, 5)  # reliable: gets nothing
        with (tmp_path / "report").open("w") as output:
            command = [sys.executable, "-m", "osprey_ros", "doctor", "--json", "--quick", "--seconds", "4"]
            doctor = subprocess.Popen(command, stdout=output, env=env)

            def ended() -> bool:
                client.send(next(STAMPS), image, ids)
                return doctor.poll() is not None

            client.wait_for(ended, "the doctor ends", 90.0)
        client.close()
    assert doctor.returncode == 0
    found = json.loads((tmp_path / "report").read_text())["findings"]
    graph = {
        (finding["name"], finding["text"].split(",")[0]): finding for finding in found if finding["area"] == "graph"
    }
    assert graph["image", "/image"]["level"] == graph["masks", "/segmentation"]["level"] == "ok"
    assert graph["image", "/image"]["text"].endswith(" Hz")
    assert any(
        name == "QoS" and text.startswith("/camera/other: client gets nothing of client") for name, text in graph
    )
    (domain,) = [finding for finding in found if finding["name"] == "domain"]
    assert domain["text"].startswith(env["ROS_DOMAIN_ID"])
