"""The simulated camera and the demo, as processes over real DDS."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from ros_harness import BUNDLE, Client, process_group_is_gone, ros_environment
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.default import VARIABLE
from osprey_ros.cli.main import main
from osprey_ros.kinds.tree import Kind, KindTree
from osprey_ros.messages import images
from osprey_ros.messages.stamps import stamp_of
from osprey_ros.ros.outputs import messages
from osprey_sim import words
from osprey_sim.demo import judged
from osprey_sim.demo_masks import shown_objects
from osprey_sim.home import shipped_models
from osprey_sim.node_process import NodeProcess
from osprey_sim.object_sets import SceneSource
from osprey_sim.recorder import CameraRecorder
from osprey_sim.render import Renderer


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    with ros_environment(tmp_path) as environment:
        yield environment


TABLETOP = ("--bundle", BUNDLE, "--objects", "tabletop")


def demo(env: dict[str, str], output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "osprey_sim.demo", "--output", str(output), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def processes_with(variable: str, value: str) -> list[str]:
    """Return the ids of the running processes with this variable in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if f"{variable}={value}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(folder.name)
        except OSError:
            continue  # not a process, or one of another user, or gone
    return found


@pytest.mark.parametrize("objects", ["tabletop", "home"])
def test_the_camera_publishes_the_rendered_frames(objects: str, env: dict[str, str], tmp_path: Path) -> None:
    parameters = (
        f"objects:={objects}",
        "width:=160",
        "height:=120",
        "rate:=5.0",
        "seed:=3",
        "encoding:=bgr8",
        "frames_per_scene:=1000",
    )
    arguments = ["--ros-args", *(part for parameter in parameters for part in ("-p", parameter))]
    client = Client(env)
    received: dict[str, dict[int, object]] = {topic: {} for topic in ("image", "segmentation", "depth", "camera_info")}
    truths: list[dict] = []
    for topic, stored in received.items():
        kind = CameraInfo if topic == "camera_info" else Image
        client.node.create_subscription(
            kind, f"/{topic}", lambda message, stored=stored: stored.update({stamp_of(message): message}), 5
        )
    client.node.create_subscription(String, "/camera/truth", lambda message: truths.append(json.loads(message.data)), 5)
    with NodeProcess("camera", "osprey_sim.camera_node", arguments, tmp_path / "camera.log", env) as camera:
        try:
            client.wait_for(lambda: set.intersection(*map(set, received.values())) and truths, "a whole frame comes")
        finally:
            client.close()
        assert camera.stop() == 0
    assert process_group_is_gone(camera.pid)

    stamp = set.intersection(*map(set, received.values())).pop()
    image, segmentation, depth, camera_info = (received[topic][stamp] for topic in received)
    assert (image.encoding, segmentation.encoding, depth.encoding) == ("bgr8", "mono16", "32FC1")
    assert {m.header.frame_id for m in (image, segmentation, depth, camera_info)} == {"camera_optical_frame"}

    source = SceneSource(objects)
    with Renderer(160, 120) as renderer:
        scene, frame = source.render(renderer, source.sample(3, "test", (4, 9)))
    np.testing.assert_array_equal(images.rgb_from_message(image), frame.rgb)
    np.testing.assert_array_equal(images.ids_from_message(segmentation), frame.instance_ids)
    assert np.frombuffer(depth.data, np.float32).reshape(120, 160) == pytest.approx(frame.depth)
    # The origin of the principal point is the corner of the first pixel in the renderer, its center in ROS.
    assert camera_info.k[2] == pytest.approx(frame.camera_matrix[0, 2] - 0.5)
    assert camera_info.k[0] == pytest.approx(frame.camera_matrix[0, 0])

    shown = truths[0]["objects"]
    assert [o["instance_id"] for o in shown] == sorted(set(np.unique(frame.instance_ids).tolist()) - {0})
    assert [o["short"] for o in shown] == [words.short(scene.object(o["instance_id"])) for o in shown]


def test_the_camera_names_an_invalid_parameter(env: dict[str, str], tmp_path: Path) -> None:
    arguments = ["--ros-args", "-p", "split:=holiday"]
    with NodeProcess("camera", "osprey_sim.camera_node", arguments, tmp_path / "camera.log", env) as camera:
        assert camera.wait(30) == 2
        assert "split is 'holiday'; use one of train, validation, test" in camera.output()


def test_the_demo_shows_three_frames_and_leaves_no_process(env: dict[str, str], tmp_path: Path) -> None:
    mark = ("OSPREY_TEST_FOLDER", str(tmp_path))
    ended = demo({**env, mark[0]: mark[1]}, tmp_path / "out", *TABLETOP)
    assert ended.returncode == 0, ended.stderr
    entries = json.loads((tmp_path / "out" / "objects.json").read_text())
    assert len({entry["stamp"] for entry in entries}) == 3
    for entry in entries:
        assert list(entry) == ["stamp", "instance_id", "category", "description", "confidence", "truth", "category_is"]
        assert list(entry["truth"]) == ["category", "short"]
        assert 0 <= entry["confidence"] <= 1
        assert entry["truth"]["short"] in ended.stdout
    overlay = cv2.imread(str(tmp_path / "out" / "overlay.png"))
    assert overlay.shape == (480, 640, 3)
    with PIL.Image.open(tmp_path / "out" / "overlay.gif") as moving:
        assert (moving.n_frames, moving.size, moving.info["loop"]) == (3, (560, 420), 0)
    assert processes_with(*mark) == []


def test_the_demo_shows_rooms_to_home_unless_told_otherwise(env: dict[str, str], tmp_path: Path) -> None:
    ended = demo({**env, VARIABLE: ""}, tmp_path / "out", "--frames", "6")
    assert ended.returncode == 0, ended.stderr
    assert "described by the bundle home in " in ended.stdout
    entries = json.loads((tmp_path / "out" / "objects.json").read_text())
    kinds = {info.kind for info in shipped_models().models.values()}
    assert {entry["truth"]["category"] for entry in entries} <= kinds
    tree = Bundle.open("home").kinds()
    assert tree is not None
    count = Counter(judged(entry["category"], entry["truth"]["category"], tree) for entry in entries)
    assert (
        f"{len(entries)} objects in 6 frames, bundle home: category right for {count['right']}, true but more general "
        f"for {count['general']}, not sure for {count['unsure']}, wrong for {count['wrong']}\n"
    ) in ended.stdout
    assert count["wrong"] < len(entries) / 2
    assert count["right"] >= len(entries) / 5


def test_the_demo_describes_masks_of_the_segmenter(env: dict[str, str], tmp_path: Path) -> None:
    ended = demo(env, tmp_path / "out", *TABLETOP, "--masks", "own", "--frames", "2")
    assert ended.returncode == 0, ended.stderr
    found, visible = map(int, re.findall(r"own masks: (\d+) of (\d+) objects found", ended.stdout)[0])
    assert visible >= 4
    assert visible / 2 <= found <= visible
    entries = json.loads((tmp_path / "out" / "objects.json").read_text())
    verdicts = Counter(entry["category_is"] for entry in entries)
    known = len(entries) - verdicts["no object"]
    assert known >= found  # two masks can show one object
    assert f"category of {known} objects with own masks" in ended.stdout
    assert re.search(r"category of \d+ objects with exact masks: .*right \d+", ended.stdout)


def test_masks_show_the_objects_that_they_overlap() -> None:
    true, own = np.zeros((10, 20), np.uint16), np.zeros((10, 20), np.uint16)
    true[2:8, 2:8], true[2:8, 12:18] = 5, 7
    own[2:8, 3:8], own[0:2, 0:20] = 300, 2  # most of the first object, and the background
    own[2:4, 12:18] = 9  # a third of the other
    assert shown_objects(true, own) == {300: 5}


def test_categories_are_judged_by_the_tree() -> None:
    tree = KindTree({"cup": Kind("container"), "mug": Kind("cup", ("beaker",)), "container": Kind("object")})
    for category, verdict in {
        "mug": "right",
        "beaker": "right",
        "cup": "general",
        "container": "general",
        "object": "unsure",
        "unknown": "unsure",
        "plate": "wrong",
    }.items():
        assert judged(category, "mug", tree) == judged(category, "mugs", tree) == verdict
    assert judged("mug", "cup", tree) == "wrong"  # more than is true
    assert [judged(category, "mug") for category in ("mug", "beaker", "unknown")] == ["right", "wrong", "unsure"]


def test_the_recording_of_the_demo_can_be_annotated_and_read(env: dict[str, str], tmp_path: Path) -> None:
    recording, output = tmp_path / "demo.mcap", tmp_path / "described.mcap"
    ended = demo(env, tmp_path / "out", *TABLETOP, "--frames", "2", "--record", str(recording))
    assert ended.returncode == 0, ended.stderr
    topics = ["--image", "/camera/image", "--segmentation", "/camera/segmentation"]
    like_the_node = ["--no-memory", "--preprocessing", "fast"]
    assert main(["bag", str(recording), *topics, "--output", str(output), "--bundle", BUNDLE, *like_the_node]) == 0
    entries = json.loads((tmp_path / "out" / "objects.json").read_text())
    shown = {(entry["stamp"], entry["instance_id"]): entry["description"] for entry in entries}
    recorded: dict[tuple[float, int], str] = {}
    kept: set[str] = set()
    with AnyReader([output], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
        for connection, _, data in reader.messages():
            if connection.topic != "/osprey/objects":
                kept.add(connection.topic)
                continue
            message = reader.deserialize(data, connection.msgtype)
            stamp = stamp_of(message) / 1e9  # the demo divides in the same way, so the floats are equal
            recorded |= {(stamp, obj.instance_id): obj.description for obj in message.objects}
    assert kept == {f"/camera/{name}" for name in ("image", "segmentation", "depth", "camera_info", "camera/truth")}
    assert shown.items() <= recorded.items()

    again = demo(env, tmp_path / "out", *TABLETOP, "--frames", "1", "--record", str(recording))
    assert again.returncode == 2
    assert "demo.mcap exists already" in again.stderr


def test_a_frame_that_lacks_a_message_does_not_count_as_recorded(env: dict[str, str], tmp_path: Path) -> None:
    client = Client(env, publish=False)
    recorder = CameraRecorder(client.node, tmp_path / "camera.mcap", "/camera")
    kinds = {"image": Image, "segmentation": Image, "depth": Image, "camera_info": CameraInfo}
    topics = {name: client.node.create_publisher(kind, f"/camera/{name}", 10) for name, kind in kinds.items()}
    try:
        client.wait_for(lambda: all(topic.get_subscription_count() for topic in topics.values()), "discovery")
        for stamp, lacking in ((5_000_000_001, {"segmentation"}), (7_000_000_002, set())):
            for name in topics.keys() - lacking:
                topics[name].publish(kinds[name](header=messages.header_message(stamp, "camera")))
        client.wait_for(recorder.frames, "a whole frame is recorded")
        assert recorder.frames() == {7_000_000_002}
        recorder.close()
    finally:
        client.close()


def test_zero_frames_is_a_usage_error(env: dict[str, str], tmp_path: Path) -> None:
    ended = demo(env, tmp_path / "out", "--bundle", BUNDLE, "--frames", "0")
    assert ended.returncode == 2
    assert "argument --frames: '0' is not a whole number of at least 1" in ended.stderr


def test_the_demo_says_why_it_failed(env: dict[str, str], tmp_path: Path) -> None:
    ended = demo(env, tmp_path / "out", "--bundle", str(tmp_path / "nowhere"))
    assert ended.returncode == 2
    assert f"demo failed: no engine bundle '{tmp_path / 'nowhere'}'" in ended.stderr

    ended = demo({**env, "MUJOCO_GL": "nonsense"}, tmp_path / "out", "--bundle", BUNDLE)
    assert ended.returncode == 2
    assert "demo failed: the camera node ended with status" in ended.stderr
    assert "MUJOCO_GL" in ended.stderr
