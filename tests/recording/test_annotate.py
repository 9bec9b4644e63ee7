"""The command `osprey bag`: what is added to a recording, what is kept, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import SampleImage, TinyModel, up_to
from rclpy.serialization import deserialize_message, serialize_message
from recordings import (
    CHATTER,
    IMAGE,
    OBJECTS,
    PERIOD,
    QOS,
    SEGMENTATION,
    START,
    STORE,
    Item,
    arrays,
    chatter_item,
    frames,
    header,
    ids_item,
    image_item,
    read_mcap,
    recorded,
    shifted,
    write_folder,
    write_mcap,
)
from rosbags.interfaces import QosReliability
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import CompressedImage, RegionOfInterest

from osprey_interfaces.msg import Region, RegionArray
from osprey_ros.cli.main import main
from osprey_ros.describer import Describer
from osprey_ros.messages.stamps import stamp_of
from osprey_ros.recording.annotate import Annotator
from osprey_ros.recording.frames import plan_frames
from osprey_ros.recording.reader import Recording
from osprey_ros.recording.types import MessageTypes, serialized_stamp
from osprey_ros.regions.regions import regions_from_id_image
from osprey_ros.scene.settings import StepSettings
from osprey_ros.system.cancellation import PolledToken
from osprey_ros.viz.overlay import overlay

OVERLAY = "/osprey/overlay/compressed"


@pytest.fixture
def items(sample: SampleImage) -> list[Item]:
    return frames(sample)


@pytest.fixture
def describer(tiny_model: TinyModel) -> Describer:
    return Describer(tiny_model.bundle, threads=1)


def command(source: Path, output: Path, tiny_model: TinyModel, *more: str) -> list[str]:
    topics = ["--image", IMAGE, "--segmentation", SEGMENTATION]
    model = ["--bundle", str(tiny_model.bundle), "--threads", "1", "--max-new-tokens", "6"]
    return ["bag", str(source), "--output", str(output), *topics, *model, *more]


def failure(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Return the error that the command ends with."""
    assert main(arguments) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("osprey: error: ")
    return error


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_descriptions_are_the_describers_and_recorded_messages_are_kept(
    storage: str,
    items: list[Item],
    sample: SampleImage,
    tmp_path: Path,
    tiny_model: TinyModel,
    describer: Describer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, output = write_folder(tmp_path / "in", items, storage), tmp_path / "out.mcap"
    assert main(command(source, output, tiny_model, "--min-area", "1", "--no-memory")) == 0
    captured = capsys.readouterr()
    shown = f"4 of 4 frames described with bundle {tiny_model.bundle}; 20 objects on /osprey/objects, 20 of them with "
    assert shown + "a new description; 12 messages " in captured.out
    assert captured.err.count("\n") == 1  # the warning that the bundle is unverified
    assert recorded(output) == items
    found = arrays(output)
    assert len(found) == 4
    for number, (moment, array) in enumerate(found):
        stamp = START + number * PERIOD
        assert moment == stamp + 50_000_000  # of the segmentation, which was recorded after the image
        assert stamp_of(array) == stamp
        assert array.header.frame_id == "camera_optical_frame"
        describer.set_image(shifted(sample, number))
        for style, texts in (
            ("short", [o.description for o in array.objects]),
            ("category", [o.category for o in array.objects]),
        ):
            expected = describer.describe(sample.ids, style, up_to(6))
            assert [o.instance_id for o in array.objects] == [d.region_id for d in expected] == [3, 7, 9, 12, 300]
            assert texts == [d.text for d in expected]
    assert len({tuple(o.description for o in array.objects) for _, array in found}) > 1

    with Reader(output) as reader:
        connections = {connection.topic: connection for connection in reader.connections}
    for topic in (IMAGE, SEGMENTATION, CHATTER):
        assert connections[topic].ext.offered_qos_profiles == [QOS]
        assert connections[topic].msgdef.data == STORE.generate_msgdef(connections[topic].msgtype, ros_version=2)[0]
    assert connections[OBJECTS].ext.offered_qos_profiles[0].reliability == QosReliability.RELIABLE
    assert "MSG: osprey_interfaces/ObjectDescription\n" in connections[OBJECTS].msgdef.data


def test_a_folder_has_metadata(items: list[Item], tmp_path: Path, tiny_model: TinyModel) -> None:
    source, output = write_folder(tmp_path / "in", items), tmp_path / "new" / "out"
    metadata = source / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("custom_data: null", "custom_data: {site: barn}"))
    assert main(command(source, output, tiny_model, "--node", "/robot/eyes/")) == 0
    assert sorted(path.name for path in output.iterdir()) == ["metadata.yaml", "out.mcap"]
    assert list(output.parent.iterdir()) == [output]
    mask = os.umask(0)
    os.umask(mask)
    assert output.stat().st_mode & 0o055 == 0o055 & ~mask
    with Reader(output) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
        assert counts == {IMAGE: 4, SEGMENTATION: 4, CHATTER: 4, "/robot/eyes/objects": 4}
        assert reader.message_count == len(list(reader.messages())) == 16
        assert reader.storage.metadata.custom == {"site": "barn"}
        hashes = {connection.topic: connection.digest for connection in reader.connections}
    described = Path(sys.prefix) / "share/osprey_interfaces/msg/ObjectDescriptionArray.json"
    assert hashes["/robot/eyes/objects"] in described.read_text()  # the hash that ROS computes
    assert hashes[CHATTER] == STORE.hash_rihs01("std_msgs/msg/String")
    again = tmp_path / "again.mcap"  # the output is a recording itself
    assert main(command(output, again, tiny_model)) == 0
    assert len(arrays(again)) == 4


def test_a_cut_off_recording_is_annotated_to_its_end(
    items: list[Item], tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = write_mcap(tmp_path / "in.mcap", items, finish=False), tmp_path / "out.mcap"
    source.write_bytes(source.read_bytes()[:-200])
    assert main(command(source, output, tiny_model)) == 0
    assert "in.mcap ends in the middle of a record" in capsys.readouterr().err
    assert len(arrays(output)) >= 3


def test_messages_that_the_metadata_counts_but_nobody_can_read_are_reported(
    items: list[Item], tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = write_folder(tmp_path / "in", items), tmp_path / "out.mcap"
    metadata = source / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("message_count: 12", "message_count: 20"))
    assert main(command(source, output, tiny_model)) == 0
    assert "should have 20 messages according to metadata.yaml, but 12 could be read" in capsys.readouterr().err


def test_unknown_types_are_kept(
    items: list[Item], tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = write_folder(tmp_path / "in", items, "sqlite3"), tmp_path / "out.mcap"
    with sqlite3.connect(source / "in.db3") as database:
        database.execute("UPDATE topics SET type = 'my_msgs/msg/Unheard' WHERE name = '/chatter'")
    metadata = source / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("std_msgs/msg/String", "my_msgs/msg/Unheard"))
    assert main(command(source, output, tiny_model)) == 0
    assert f"without a definition, which Foxglove cannot show: {CHATTER} (my_msgs/msg/Unheard)" in (
        capsys.readouterr().err
    )
    assert [(kind, data) for topic, kind, data, _ in read_mcap(output) if topic == CHATTER] == [
        ("my_msgs/msg/Unheard", data) for topic, _, data, _ in items if topic == CHATTER
    ]


def test_a_renumbering_segmentation_keeps_descriptions_and_colors(
    sample: SampleImage, tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    items = []
    for number in range(5):
        stamp = START + number * PERIOD
        ids = np.where(sample.ids > 0, sample.ids + number, 0).astype(np.uint16)
        items += [image_item(sample.rgb, stamp), ids_item(ids, stamp)]
    output = tmp_path / "out.mcap"
    options = ["--overlay", "--every", "2"]
    assert main(command(write_folder(tmp_path / "in", items), output, tiny_model, *options)) == 0
    assert "15 objects on /osprey/objects, 5 of them with a new description" in capsys.readouterr().out
    first, *later = [array.objects for _, array in arrays(output)]
    for number, objects in zip((2, 4), later, strict=True):
        assert [o.instance_id - number for o in objects] == [o.instance_id for o in first]
        for name in ("track_id", "description", "category", "described_at", "first_seen"):
            assert [getattr(o, name) for o in objects] == [getattr(o, name) for o in first]
    labels, tracks = [o.description for o in first], [o.track_id for o in first]
    expected = overlay(sample.rgb, regions_from_id_image(sample.ids), labels, color_ids=tracks)
    overlays = [data for topic, _, data, _ in read_mcap(output) if topic == OVERLAY]
    assert [serialized_stamp(data) - START for data in overlays] == [0, 2 * PERIOD, 4 * PERIOD]
    for data in overlays:
        np.testing.assert_array_equal(drawn(data), drawn(MessageTypes().overlay(expected, START, "camera")))


def drawn(data: bytes) -> np.ndarray:
    image = deserialize_message(data, CompressedImage)
    return cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


def test_compressed_images_and_region_arrays(sample: SampleImage, tmp_path: Path, tiny_model: TinyModel) -> None:
    png = cv2.imencode(".png", sample.rgb[:, :, ::-1])[1].tobytes()
    image = CompressedImage(header=header(START), format="rgb8; png compressed bgr8", data=png)
    regions = RegionArray(header=header(START), height=60, width=80)
    for number, label in ((4, "cup"), (8, "")):
        roi = RegionOfInterest(x_offset=number, y_offset=5, width=20, height=30)
        regions.regions.append(Region(id=number, roi=roi, encoding=Region.BOX, label=label, score=0.5))
    items = [
        (IMAGE, "sensor_msgs/msg/CompressedImage", serialize_message(image), START),
        (SEGMENTATION, "osprey_interfaces/msg/RegionArray", serialize_message(regions), START + 1),
    ]
    output = tmp_path / "out.mcap"
    assert main(command(write_folder(tmp_path / "in", items), output, tiny_model)) == 0
    ((_, array),) = arrays(output)
    assert [(o.instance_id, o.area, o.label) for o in array.objects] == [(4, 600, "cup"), (8, 600, "")]
    assert all(o.description for o in array.objects)


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_images_are_preprocessed_as_requested(
    mode: str, items: list[Item], sample: SampleImage, tmp_path: Path, tiny_model: TinyModel
) -> None:
    source, output = write_folder(tmp_path / "in", items), tmp_path / "out.mcap"
    assert main(command(source, output, tiny_model, "--no-memory", "--min-area", "1", "--preprocessing", mode)) == 0
    objects = arrays(output)[0][1].objects
    confidences = {}
    for preprocessing in ("exact", "fast"):
        describer = Describer(tiny_model.bundle, threads=1, preprocessing=preprocessing)
        describer.set_image(shifted(sample, 0))
        confidences[preprocessing] = [d.confidence for d in describer.describe(sample.ids, "short", up_to(6))]
    np.testing.assert_allclose([o.confidence for o in objects], confidences[mode], rtol=1e-4)
    assert not np.allclose(confidences["exact"], confidences["fast"], rtol=1e-3)


def test_stamps_within_slop_and_messages_without_a_partner(
    sample: SampleImage, tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    items = []
    for number in range(6):
        stamp = START + number * PERIOD
        items.append(image_item(shifted(sample, number), stamp))
        if number != 2:
            items.append(ids_item(sample.ids, stamp + 20_000_000, delay=0))
    source, output = write_folder(tmp_path / "in", items), tmp_path / "out.mcap"
    error = failure(capsys, command(source, output, tiny_model))
    assert "no image has a segmentation" in error
    assert "the nearest are 0.02 s apart, give a larger --slop" in error
    assert main(command(source, output, tiny_model, "--slop", "0.03")) == 0
    assert [stamp_of(array) - START for _, array in arrays(output)] == [number * PERIOD for number in (0, 1, 3, 4, 5)]
    assert f"1 messages of {IMAGE} have no segmentation within 0.03 s (stamps 1700000000.200000000" in (
        capsys.readouterr().err
    )


def test_frames_that_cannot_be_described_are_named_and_counted(
    items: list[Item], sample: SampleImage, tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    items[5] = ids_item(sample.ids[:30], START + PERIOD)  # of another size
    cut = image_item(sample.rgb, START + 3 * PERIOD)
    items[9] = (*cut[:2], cut[2][:-100], cut[3])
    items[8] = ids_item(sample.ids * 0, START + 2 * PERIOD)  # without a region, which is not an error
    output = tmp_path / "out.mcap"
    assert main(command(write_folder(tmp_path / "in", items), output, tiny_model)) == 1
    captured = capsys.readouterr()
    assert re.search(r"frame 1700000000\.100000000 not described: .*80x30 pixels", captured.err)
    assert re.search(rf"frame 1700000000\.300000000 not described: {IMAGE}: ", captured.err)
    assert "2 frames could not be described" in captured.err
    shown = f"2 of 4 frames described (1 of them without a region) with bundle {tiny_model.bundle}; 5 objects"
    assert shown in captured.out
    assert [len(array.objects) for _, array in arrays(output)] == [5, 0]
    assert recorded(output) == items


def test_errors_name_the_topics_of_the_recording_and_leave_no_output(
    items: list[Item], tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = write_folder(tmp_path / "in", items), tmp_path / "out.mcap"
    known = f"has {IMAGE} (Image), {SEGMENTATION} (Image)"

    def error(*more: str, recording: Path = source) -> str:
        text = failure(capsys, command(recording, output, tiny_model, *more))
        assert not [path for path in tmp_path.iterdir() if "out" in path.name]
        return text

    assert f"there is no topic /imag; {source} {known}" in error("--image", "/imag")
    assert "--segmentation /chatter is of type std_msgs/msg/String, not sensor_msgs/msg/Image, " in (
        wrong := error("--segmentation", CHATTER)
    )
    assert wrong.endswith(known)
    assert "are both" in error("--segmentation", IMAGE)
    depth = [item for item in items if item[0] != SEGMENTATION]
    depth += [ids_item(np.ones((60, 80), np.float32), START + number * PERIOD) for number in range(4)]
    text = error(recording=write_folder(tmp_path / "depth", depth))
    assert "none of the first 4 frames can be described" in text
    assert f"{SEGMENTATION}: encoding '32FC1' is not supported for instance ids" in text
    described = [*items, (OBJECTS, *chatter_item("described", START)[1:])]
    assert f"has a topic {OBJECTS} already; give another --node" in error(
        recording=write_folder(tmp_path / "described", described)
    )


def test_options_bundle_and_topics_are_checked_before_the_messages(
    items: list[Item], tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = write_folder(tmp_path / "in", items, "mcap", "MESSAGE"), tmp_path / "out.mcap"
    file = source / "in.mcap"
    file.write_bytes(file.read_bytes().replace(b"\x28\xb5\x2f\xfd", bytes(4)))  # no message can be read
    assert "is neither serialized as CDR nor compressed" in failure(capsys, command(source, output, tiny_model))
    assert "no engine bundle 'nothing'" in failure(
        capsys, [*command(source, output, tiny_model), "--bundle", "nothing"]
    )
    assert "there is no topic /imag" in failure(capsys, command(source, output, tiny_model, "--image", "/imag"))
    assert "written as MCAP" in failure(capsys, command(source, tmp_path / "out.db3", tiny_model))
    output.write_text("mine")
    assert "exists already" in failure(capsys, command(source, output, tiny_model))
    assert output.read_text() == "mine"
    with pytest.raises(SystemExit) as ended:
        main(command(source, output, tiny_model, "--preprocessing", "quick"))
    assert ended.value.code == 2
    assert "invalid choice: 'quick'" in capsys.readouterr().err


def test_stopping_leaves_a_readable_output(items: list[Item], tmp_path: Path, describer: Describer) -> None:
    types, done = MessageTypes(), []
    with Recording(write_folder(tmp_path / "in", items), types) as recording:
        plan = plan_frames(recording, IMAGE, SEGMENTATION)
        annotator = Annotator(recording, IMAGE, SEGMENTATION, types, StepSettings(max_new_tokens=4))
        report = annotator.run(
            describer,
            plan,
            tmp_path / "out",
            lambda report: done.append(report.described),
            PolledToken(lambda: 2 in done),
        )
    assert report.stopped
    assert len(arrays(tmp_path / "out" / "out.mcap")) == 2
    with Reader(tmp_path / "out") as reader:
        assert reader.message_count == 6 + 2


def test_an_output_that_cannot_be_written_is_an_error(
    items: list[Item], tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    source, output = write_folder(tmp_path / "in", items), tmp_path / "out.mcap"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # as a full disk
    try:
        error = failure(capsys, command(source, output, tiny_model))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert f"{output} cannot be written: File too large" in error
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    (tmp_path / "file").write_text("")
    assert "cannot be written" in failure(capsys, command(source, tmp_path / "file" / "out.mcap", tiny_model))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_of_the_command(
    sample: SampleImage, tmp_path: Path, tiny_model: TinyModel, number: signal.Signals
) -> None:
    items = []
    for stamp in range(START, START + 3000 * PERIOD, PERIOD):
        items += [image_item(sample.rgb, stamp), ids_item(sample.ids, stamp)]
    source, output = write_folder(tmp_path / "in", items), tmp_path / "out.mcap"
    arguments = [sys.executable, "-m", "osprey_ros", *command(source, output, tiny_model)]
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 50_000 for path in tmp_path.glob(".out.mcap.*/*/*.mcap")):
        assert time.monotonic() < deadline
        with pytest.raises(subprocess.TimeoutExpired):  # it goes on
            child.wait(0.05)
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 128 + number, err
    assert "interrupted: the output is readable" in err
    described = int(re.search(r"(\d+) of 3000 frames described", out).group(1))  # type: ignore[union-attr]
    assert 0 < described == len(arrays(output)) < 3000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.mcap"]


def test_missing_libraries_are_named_with_the_command_that_installs_them(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['rosbags.typesys'] = None\n"
        "from osprey_ros.cli.main import main\n"
        "sys.exit(main(['bag', 'in.mcap', '--image', '/a', '--segmentation', '/b', '--output', 'out.mcap']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install rosbags mcap" in done.stderr
