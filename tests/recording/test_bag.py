"""Recordings annotated without ROS: written and read back by real rclpy messages, rosbags and mcap's own reader."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import Picture, TinyModel
from mcap.reader import make_reader
from mcap.records import Message
from mcap.writer import Writer as McapWriter
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CompressedImage, RegionOfInterest
from std_msgs.msg import String

from osprey_interfaces.msg import ObjectDescriptionArray, Region, RegionArray
from osprey_ros.cli.main import main
from osprey_ros.describer import Describer
from osprey_ros.messages.stamps import stamp_of
from osprey_ros.pipeline import StepSettings
from osprey_ros.recording.annotate import Annotator, OutputSettings
from osprey_ros.recording.frames import plan_frames
from osprey_ros.recording.reader import open_recording
from osprey_ros.recording.types import MessageTypes, serialized_stamp
from osprey_ros.ros import messages
from osprey_ros.scene.types import Attribute, SceneObject, State, Words

IMAGE, SEGMENTATION, CHATTER = "/camera/image_raw", "/camera/segmentation", "/chatter"
START, PERIOD = 1_700_000_000_000_000_000, 100_000_000
STORAGES = {"sqlite3": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}
STORE = get_typestore(Stores.ROS2_HUMBLE)
QOS = Qos(
    QosHistory.KEEP_LAST,
    7,
    QosReliability.BEST_EFFORT,
    QosDurability.VOLATILE,
    QosTime(1, 2),
    QosTime(3, 4),
    QosLiveliness.AUTOMATIC,
    QosTime(5, 6),
    False,
)

# (topic, type, serialized message, time of recording)
Item = tuple[str, str, bytes, int]


def _picture(picture: Picture, number: int) -> np.ndarray:
    return np.roll(picture.rgb, 7 * number, axis=2 if number % 2 else 1).copy()


def _header(stamp: int) -> Any:
    return messages.header_message(stamp, "camera_optical_frame")


def _image_item(rgb: np.ndarray, stamp: int, delay: int = 10) -> Item:
    return (
        IMAGE,
        "sensor_msgs/msg/Image",
        serialize_message(messages.image_message(rgb, "rgb8", _header(stamp))),
        stamp + delay,
    )


def _ids_item(ids: np.ndarray, stamp: int, delay: int = 50_000_000) -> Item:
    message = messages.image_message(ids, "mono16", _header(stamp))
    return SEGMENTATION, "sensor_msgs/msg/Image", serialize_message(message), stamp + delay


def _chatter_item(text: str, time: int) -> Item:
    return CHATTER, "std_msgs/msg/String", serialize_message(String(data=text)), time


@pytest.fixture
def items(picture: Picture) -> list[Item]:
    """Four frames, their segmentations half a period later, and something else between them."""
    found = []
    for number in range(4):
        stamp = START + number * PERIOD
        found.append(_image_item(_picture(picture, number), stamp))
        found.append(_chatter_item(f"number {number}", stamp + 20_000_000))
        found.append(_ids_item(picture.ids, stamp))
    return found


def _write(folder: Path, items: list[Item], storage: str = "mcap", compression: str = "") -> Path:
    writer = Writer(folder, version=8, storage_plugin=STORAGES[storage])
    if compression:
        writer.set_compression(CompressionMode[compression], CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, kind, data, moment in items:
            if topic not in connections:
                connections[topic] = writer.add_connection(
                    topic, kind, typestore=_store(kind), offered_qos_profiles=[QOS]
                )
            writer.write(connections[topic], moment, data)
    return folder


def _store(kind: str) -> Any:
    return MessageTypes()._store if kind.startswith("osprey_interfaces") else STORE


def _command(source: Path, output: Path, tiny_model: TinyModel, *more: str) -> list[str]:
    topics = ["--image", IMAGE, "--segmentation", SEGMENTATION]
    model = ["--bundle", str(tiny_model.bundle), "--threads", "1", "--max-new-tokens", "6"]
    return ["bag", str(source), "--output", str(output), *topics, *model, *more]


def _failure(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The error that the command ends with."""
    assert main(arguments) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("osprey: error: ")
    return error


def _messages(file: Path, topic: str | None = None) -> list[tuple[str, str, Message]]:
    """Topic, type and message, by the reader of the mcap package, which checks sums."""
    with file.open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        return [(c.topic, s.name, m) for s, c, m in reader.iter_messages(topics=topic) if s is not None]


def _arrays(file: Path) -> list[tuple[int, ObjectDescriptionArray]]:
    found = _messages(file, "/osprey/objects")
    assert {kind for _, kind, _ in found} <= {"osprey_interfaces/msg/ObjectDescriptionArray"}
    return [(m.log_time, deserialize_message(m.data, ObjectDescriptionArray)) for _, _, m in found]


@pytest.fixture
def describer(tiny_model: TinyModel) -> Describer:
    return Describer(tiny_model.bundle, threads=1)


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_words_are_the_describers_and_the_rest_is_as_it_was(
    storage: str,
    items: list[Item],
    picture: Picture,
    tmp_path: Path,
    tiny_model: TinyModel,
    describer: Describer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, output = _write(tmp_path / "in", items, storage), tmp_path / "out.mcap"
    assert main(_command(source, output, tiny_model, "--min-area", "1", "--no-memory")) == 0
    captured = capsys.readouterr()
    assert (
        "4 of 4 frames described; 20 objects on /osprey/objects, 20 of them described anew; 12 messages kept"
        in captured.out
    )
    assert captured.err.count("\n") == 1  # the warning that the bundle is unverified

    written = _messages(output)
    kept = [(topic, kind, m.data, m.log_time) for topic, kind, m in written if topic != "/osprey/objects"]
    assert kept == items
    arrays = _arrays(output)
    for number, (moment, array) in enumerate(arrays):
        stamp = START + number * PERIOD
        assert moment == stamp + 50_000_000  # not known before the segmentation was
        assert stamp_of(array) == stamp
        assert array.header.frame_id == "camera_optical_frame"
        describer.set_image(_picture(picture, number))
        for style, words in (
            ("short", [o.description for o in array.objects]),
            ("category", [o.category for o in array.objects]),
        ):
            expected = describer.describe(picture.ids, style, 6)
            assert [o.instance_id for o in array.objects] == [d.region_id for d in expected] == [3, 7, 9, 12, 300]
            assert words == [d.text for d in expected]
    assert len({tuple(o.description for o in array.objects) for _, array in arrays}) > 1

    with Reader(output) as reader:
        qos = {c.topic: c.ext.offered_qos_profiles for c in reader.connections}
        definitions = {c.topic: c.msgdef.data for c in reader.connections}
        assert sorted(bytes(data) for _, _, data in reader.messages()) == sorted(m.data for _, _, m in written)
    assert [qos[topic] for topic in (IMAGE, SEGMENTATION, CHATTER)] == [[QOS]] * 3
    assert qos["/osprey/objects"][0].reliability == QosReliability.RELIABLE
    assert definitions[IMAGE] == STORE.generate_msgdef("sensor_msgs/msg/Image", ros_version=2)[0]
    assert "MSG: osprey_interfaces/ObjectDescription\n" in definitions["/osprey/objects"]


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_pictures_are_prepared_as_was_asked_for(
    mode: str, items: list[Item], picture: Picture, tmp_path: Path, tiny_model: TinyModel
) -> None:
    source, output = _write(tmp_path / "in", items), tmp_path / "out.mcap"
    assert main(_command(source, output, tiny_model, "--no-memory", "--min-area", "1", "--preprocessing", mode)) == 0
    objects = _arrays(output)[0][1].objects
    confidences = {}
    for preprocessing in ("exact", "fast"):
        describer = Describer(tiny_model.bundle, threads=1, preprocessing=preprocessing)
        describer.set_image(_picture(picture, 0))
        confidences[preprocessing] = [d.confidence for d in describer.describe(picture.ids, "short", 6)]
    np.testing.assert_allclose([o.confidence for o in objects], confidences[mode], rtol=1e-4)
    assert not np.allclose(confidences["exact"], confidences["fast"], rtol=1e-3)


def test_an_unknown_way_to_prepare_pictures_is_named(
    items: list[Item], tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = _write(tmp_path / "in", items), tmp_path / "out.mcap"
    error = _failure(capsys, _command(source, output, tiny_model, "--preprocessing", "quick"))
    assert "'quick': choose one of exact, fast" in error
    assert not output.exists()


def test_words_are_kept_from_frame_to_frame(
    picture: Picture, tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    items = []
    for number in range(3):
        stamp = START + number * PERIOD
        ids = np.where(picture.ids > 0, picture.ids + number, 0).astype(np.uint16)  # numbered anew
        items += [_image_item(picture.rgb, stamp), _ids_item(ids, stamp)]
    output = tmp_path / "out.mcap"
    assert main(_command(_write(tmp_path / "in", items), output, tiny_model)) == 0
    assert "15 objects on /osprey/objects, 5 of them described anew" in capsys.readouterr().out
    first, *later = [array.objects for _, array in _arrays(output)]
    for number, objects in enumerate(later, start=1):
        assert [o.instance_id - number for o in objects] == [o.instance_id for o in first]
        for name in ("track_id", "description", "category", "described_at", "first_seen"):
            assert [getattr(o, name) for o in objects] == [getattr(o, name) for o in first]


def test_a_folder_has_metadata_that_says_what_is_in_it(
    items: list[Item], tmp_path: Path, tiny_model: TinyModel
) -> None:
    source, output = _write(tmp_path / "in", items), tmp_path / "new" / "out"
    assert main(_command(source, output, tiny_model, "--node", "/robot/eyes/")) == 0
    assert sorted(path.name for path in output.iterdir()) == ["metadata.yaml", "out_0.mcap"]
    assert list(output.parent.iterdir()) == [output]
    assert output.stat().st_mode & 0o055 == 0o055 & ~_umask()
    with Reader(output) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        assert counts == {IMAGE: 4, SEGMENTATION: 4, CHATTER: 4, "/robot/eyes/objects": 4}
        assert (reader.start_time, reader.message_count) == (START + 10, 16)
        assert reader.end_time == START + 3 * PERIOD + 50_000_000 + 1
        digests = {c.topic: c.digest for c in reader.connections}
        assert sum(1 for _ in reader.messages()) == 16
    described = Path(sys.prefix) / "share/osprey_interfaces/msg/ObjectDescriptionArray.json"
    assert digests["/robot/eyes/objects"] in described.read_text()  # the hash that ROS gives it
    # What was written is itself a recording.
    again = tmp_path / "again.mcap"
    assert main(_command(output, again, tiny_model)) == 0
    assert len(_arrays(again)) == 4


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_everything_that_mcap_can_hold_is_kept(items: list[Item], tmp_path: Path, tiny_model: TinyModel) -> None:
    source = tmp_path / "in.mcap"
    qos_words = "- history: keep_last\n  depth: 3\n  reliability: best_effort\n"  # verbatim, whatever it means
    _write_mcap(source, items, {"offered_qos_profiles": qos_words, "topic_type_hash": "RIHS01_abc"}, version=9)
    output = tmp_path / "out.mcap"
    assert main(_command(source, output, tiny_model)) == 0
    before, after = _messages(source), [m for m in _messages(output) if m[0] != "/osprey/objects"]
    assert [_content(m) for m in after] == [_content(m) for m in before]
    assert all(m.publish_time != m.log_time for _, _, m in after)
    with output.open("rb") as stream:
        reader = make_reader(stream)
        (attachment,) = reader.iter_attachments()
        assert (attachment.name, attachment.data, attachment.create_time) == ("calibration.yaml", b"k: 1", 5)
        records = {record.name: record.metadata for record in reader.iter_metadata()}
        assert records["robot"] == {"name": "otto"}
        assert re.search(r"\nversion: 9\n", about := records["rosbag2"]["serialized_metadata"])
        assert re.search(r"\ncustom_data:\n  site: barn\n", about)
        assert "ros_distro: jazzy\n" in about
        channels = {c.topic: c for c in reader.get_summary().channels.values()}
    assert channels[IMAGE].metadata == {"offered_qos_profiles": qos_words, "topic_type_hash": "RIHS01_abc"}
    assert "reliability: reliable" in channels["/osprey/objects"].metadata["offered_qos_profiles"]


def _content(found: tuple[str, str, Message]) -> tuple[Any, ...]:
    topic, kind, message = found
    return topic, kind, message.data, message.log_time, message.publish_time, message.sequence


def _write_mcap(
    path: Path, items: list[Item], channel_metadata: dict[str, str], version: int, finish: bool = True, **options: Any
) -> None:
    with path.open("wb") as stream:
        writer = McapWriter(stream, chunk_size=20_000, **options)
        writer.start(profile="ros2")
        channels: dict[str, int] = {}
        for number, (topic, kind, data, moment) in enumerate(items):
            if topic not in channels:
                definition = STORE.generate_msgdef(kind, ros_version=2)[0]
                schema = writer.register_schema(kind, "ros2msg", definition.encode())
                channels[topic] = writer.register_channel(topic, "cdr", schema, channel_metadata)
            writer.add_message(channels[topic], moment, data, publish_time=moment - 3, sequence=number)
        writer.add_attachment(5, 6, "calibration.yaml", "text/yaml", b"k: 1")
        writer.add_metadata("robot", {"name": "otto"})
        metadata = f"version: {version}\nros_distro: jazzy\ncustom_data: {{site: barn}}\n"
        writer.add_metadata("rosbag2", {"serialized_metadata": metadata})
        if finish:
            writer.finish()


def test_a_summary_without_the_types_is_not_taken_for_all_there_is(items: list[Item], tmp_path: Path) -> None:
    whole, brief = tmp_path / "whole.mcap", tmp_path / "brief.mcap"
    _write_mcap(whole, items, {}, 8)
    _write_mcap(brief, items, {}, 8, repeat_schemas=False)
    first, second = (open_recording(path, MessageTypes()) for path in (whole, brief))
    assert set(first.topics) == set(second.topics)
    assert {topic.type for topic in second.topics} == {"sensor_msgs/msg/Image", "std_msgs/msg/String"}
    assert (second.message_count, second.about) == (first.message_count, first.about)


@pytest.mark.parametrize("chunks", [True, False])
def test_a_recording_that_was_cut_off_is_read_to_its_end(
    chunks: bool, items: list[Item], tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "in.mcap", tmp_path / "out.mcap"
    _write_mcap(source, items, {}, 8, finish=False, use_chunking=chunks)
    source.write_bytes(source.read_bytes()[:-200])
    assert main(_command(source, output, tiny_model)) == 0
    assert "ends in the middle of a record" in capsys.readouterr().err
    assert len(_arrays(output)) >= 3


def test_a_damaged_recording_is_an_error_and_leaves_no_output(
    items: list[Item], tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "in.mcap", tmp_path / "out.mcap"
    _write_mcap(source, items, {}, 8)
    data = bytearray(source.read_bytes())
    data[len(data) // 2] ^= 255
    source.write_bytes(data)
    assert "in.mcap is damaged after" in _failure(capsys, _command(source, output, tiny_model))
    assert [path.name for path in tmp_path.iterdir()] == ["in.mcap"]


@pytest.mark.parametrize(("storage", "compression"), [("sqlite3", ""), ("sqlite3", "MESSAGE"), ("mcap", "FILE")])
def test_damage_in_what_rosbags_reads(
    storage: str,
    compression: str,
    items: list[Item],
    tmp_path: Path,
    tiny_model: TinyModel,
    capsys: pytest.CaptureFixture[str],
) -> None:
    large = _chatter_item(np.random.default_rng(0).bytes(1 << 20).hex(), START + PERIOD // 5)
    source, output = (
        _write(tmp_path / "in", [*items[:1], large, *items[1:]], storage, compression),
        tmp_path / "out.mcap",
    )
    (file,) = (path for path in source.iterdir() if path.suffix != ".yaml")
    data = bytearray(file.read_bytes())
    page = len(data) // 2 // 4096 * 4096  # of the large message
    if storage == "mcap":
        del data[page:]
    elif compression:
        data = data.replace(b"\x28\xb5\x2f\xfd", bytes(4))  # what a compressed message begins with
    else:
        data[page : page + 4096] = b"\xff" * 4096
    file.write_bytes(data)
    assert re.search(r"/in is damaged \(.+\): copy it again", _failure(capsys, _command(source, output, tiny_model)))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_recording_in_several_files(items: list[Item], tmp_path: Path, tiny_model: TinyModel) -> None:
    source = tmp_path / "in"
    source.mkdir()
    # The fourth frame's image ends one file and its segmentation begins the next.
    parts = {"in_0.mcap": items[:4], "in_1.mcap": items[4:10], "in_2.mcap": items[10:]}
    for name, part in parts.items():
        _write_mcap(source / name, part, {}, 8)
    (source / "metadata.yaml").write_text(
        "rosbag2_bagfile_information:\n  version: 8\n  storage_identifier: mcap\n"
        f"  relative_file_paths: [{', '.join(parts)}]\n"
    )
    output = tmp_path / "out.mcap"
    assert main(_command(source, output, tiny_model)) == 0
    assert [(t, k, m.data, m.log_time) for t, k, m in _messages(output) if t != "/osprey/objects"] == items
    assert len(_arrays(output)) == 4


@pytest.mark.parametrize("compression", ["MESSAGE", "FILE", "STORAGE"])
def test_compressed_recordings(compression: str, items: list[Item], tmp_path: Path, tiny_model: TinyModel) -> None:
    source, output = _write(tmp_path / "in", items, "mcap", compression), tmp_path / "out.mcap"
    assert main(_command(source, output, tiny_model)) == 0
    assert [(t, k, m.data, m.log_time) for t, k, m in _messages(output) if t != "/osprey/objects"] == items


def test_sqlite_without_definitions_as_humble_wrote_it(
    items: list[Item], tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    import sqlite3

    folder = _write(tmp_path / "in", items, "sqlite3")
    source, output = tmp_path / "old.db3", tmp_path / "out.mcap"
    (folder / "in.db3").rename(source)
    with sqlite3.connect(source) as database:
        database.executescript(
            "DROP TABLE schema; DROP TABLE metadata; DROP TABLE message_definitions;"
            "ALTER TABLE topics DROP COLUMN type_description_hash;"
            "UPDATE topics SET type = 'my_msgs/msg/Unheard' WHERE name = '/chatter';"
        )
    assert main(_command(source, output, tiny_model)) == 0
    assert f"without a definition, so that Foxglove cannot show them: {CHATTER}" in capsys.readouterr().err
    assert len(_arrays(output)) == 4
    assert [kind for _, kind, _ in _messages(output, CHATTER)] == ["my_msgs/msg/Unheard"] * 4


def test_stamps_within_slop_and_messages_without_partner(
    picture: Picture, tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    items = []
    for number in range(6):
        stamp = START + number * PERIOD
        items.append(_image_item(_picture(picture, number), stamp))
        if number != 2:
            items.append(_ids_item(picture.ids, stamp + 20_000_000, delay=0))
    source, output = _write(tmp_path / "in", items), tmp_path / "out.mcap"
    failure = _failure(capsys, _command(source, output, tiny_model))
    assert "no image has a segmentation" in failure
    assert "the nearest are 0.02 s apart: give --slop" in failure
    assert main(_command(source, output, tiny_model, "--slop", "0.03")) == 0
    assert [stamp_of(array) - START for _, array in _arrays(output)] == [number * PERIOD for number in (0, 1, 3, 4, 5)]
    assert f"1 messages of {IMAGE} have no segmentation within 0.03 s (stamps 1700000000.200000000" in (
        capsys.readouterr().err
    )


def test_every_and_rate_select_frames(picture: Picture, tmp_path: Path) -> None:
    jitter = (0, 4, -3, 2, -4, 0, 3, -2, 1, 0)
    items = []
    for number, late in enumerate(jitter):
        stamp = START + number * PERIOD + late * 1_000_000
        items += [_image_item(picture.rgb, stamp), _ids_item(picture.ids, stamp)]
    types = MessageTypes()
    recording = open_recording(_write(tmp_path / "in", items), types)

    def numbers(**options: Any) -> list[int]:
        plan = plan_frames(recording, IMAGE, SEGMENTATION, **options)
        assert plan.matched == 10
        return [pair.image for pair in plan.frames]

    assert numbers() == list(range(10))
    assert numbers(every=4) == [0, 4, 8]
    assert numbers(rate=100.0) == list(range(10))
    for rate, expected in ((5.0, 5), (2.0, 2)):
        assert abs(len(numbers(rate=rate)) - expected) <= 1
    assert numbers(rate=0.5) == [0]


def test_overlay_shows_the_picture_with_its_regions(
    items: list[Item], picture: Picture, tmp_path: Path, tiny_model: TinyModel
) -> None:
    output = tmp_path / "out.mcap"
    assert main(_command(_write(tmp_path / "in", items), output, tiny_model, "--overlay", "--every", "2")) == 0
    found = _messages(output, "/osprey/overlay/compressed")
    assert len(found) == 2
    image = deserialize_message(found[1][2].data, CompressedImage)
    assert stamp_of(image) == START + 2 * PERIOD
    drawn = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert drawn.shape == picture.rgb.shape
    assert not np.array_equal(drawn, _picture(picture, 2))


def test_compressed_images_and_region_arrays(picture: Picture, tmp_path: Path, tiny_model: TinyModel) -> None:
    png = cv2.imencode(".png", picture.rgb[:, :, ::-1])[1].tobytes()
    image = CompressedImage(header=_header(START), format="rgb8; png compressed bgr8", data=png)
    regions = RegionArray(header=_header(START), height=60, width=80)
    for number, label in ((4, "cup"), (8, "")):
        roi = RegionOfInterest(x_offset=number, y_offset=5, width=20, height=30)
        regions.regions.append(Region(id=number, roi=roi, encoding=Region.BOX, label=label, score=0.5))
    items = [
        (IMAGE, "sensor_msgs/msg/CompressedImage", serialize_message(image), START),
        (SEGMENTATION, "osprey_interfaces/msg/RegionArray", serialize_message(regions), START + 1),
    ]
    output = tmp_path / "out.mcap"
    assert main(_command(_write(tmp_path / "in", items), output, tiny_model)) == 0
    ((_, array),) = _arrays(output)
    assert [(o.instance_id, o.area, o.label) for o in array.objects] == [(4, 600, "cup"), (8, 600, "")]
    assert all(o.description for o in array.objects)


def test_frames_that_cannot_be_described_are_named_and_counted(
    items: list[Item], picture: Picture, tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    items[5] = _ids_item(picture.ids[:30], START + PERIOD)  # of another size
    items[9] = _image_item(picture.rgb, START + 3 * PERIOD)
    items[9] = (*items[9][:2], items[9][2][:-100], items[9][3])  # cut off
    items[8] = _ids_item(picture.ids * 0, START + 2 * PERIOD)  # without a region: nothing is wrong
    output = tmp_path / "out.mcap"
    assert main(_command(_write(tmp_path / "in", items), output, tiny_model)) == 1
    captured = capsys.readouterr()
    assert re.search(r"frame 1700000000\.100000000 not described: .*80x30 pixels", captured.err)
    assert re.search(rf"frame 1700000000\.300000000 not described: {IMAGE}: ", captured.err)
    assert "2 frames could not be described" in captured.err
    assert "2 of 4 frames described, 1 of them without a region; 5 objects" in captured.out
    assert [len(array.objects) for _, array in _arrays(output)] == [5, 0]
    assert [(t, k, m.data, m.log_time) for t, k, m in _messages(output) if t != "/osprey/objects"] == items


def test_what_is_no_good_is_said_with_what_there_is(
    items: list[Item], picture: Picture, tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = _write(tmp_path / "in", items), tmp_path / "out.mcap"
    known = f"has {IMAGE} (Image), {SEGMENTATION} (Image)"

    def failure(*more: str, recording: Path = source) -> str:
        text = _failure(capsys, _command(recording, output, tiny_model, *more))
        assert not output.exists()
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        return text

    assert f"there is no topic /imag; {source} {known}" in failure("--image", "/imag")
    assert "--segmentation /chatter is of type std_msgs/msg/String, not sensor_msgs/msg/Image, " in (
        wrong := failure("--segmentation", CHATTER)
    )
    assert wrong.endswith(known)
    assert "are both" in failure("--segmentation", IMAGE)
    assert "does not exist" in failure(recording=tmp_path / "nothing.mcap")
    assert "is no mcap file" in failure(recording=_text_file(tmp_path / "text.mcap"))
    assert "text.db3 cannot be read" in failure(recording=_text_file(tmp_path / "text.db3"))
    assert "give a .mcap or .db3 file" in failure(recording=_text_file(tmp_path / "text.txt"))
    assert "metadata.yaml cannot be read" in failure(recording=tmp_path)

    depth = np.ones((60, 80), np.float32)
    items = [item for item in items if item[0] != SEGMENTATION]
    for number in range(4):
        message = messages.image_message(depth, "32FC1", _header(START + number * PERIOD))
        items.append((SEGMENTATION, "sensor_msgs/msg/Image", serialize_message(message), START + number * PERIOD))
    text = failure(recording=_write(tmp_path / "depth", items))
    assert "none of the first 4 frames can be described" in text
    assert f"{SEGMENTATION}: encoding '32FC1' is not understood as instance ids" in text

    output.write_text("mine")
    assert "exists already" in _failure(capsys, _command(source, output, tiny_model))
    assert output.read_text() == "mine"
    assert "written as mcap" in _failure(capsys, _command(source, tmp_path / "out.db3", tiny_model))


def test_topics_of_its_own_are_not_mixed_with_those_of_the_robot(
    items: list[Item], tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    items.append(("/osprey/objects", *_chatter_item("words", START)[1:]))
    output = tmp_path / "out.mcap"
    assert "has a topic /osprey/objects already: give another --node" in _failure(
        capsys, _command(_write(tmp_path / "in", items), output, tiny_model)
    )


def _text_file(path: Path) -> Path:
    path.write_text("not a recording")
    return path


def test_stopping_leaves_a_readable_output(items: list[Item], tmp_path: Path, describer: Describer) -> None:
    types = MessageTypes()
    recording = open_recording(_write(tmp_path / "in", items), types)
    plan = plan_frames(recording, IMAGE, SEGMENTATION)
    done: list[int] = []
    report = Annotator(recording, plan, types, StepSettings(max_new_tokens=4), OutputSettings()).run(
        describer, tmp_path / "out", lambda r: done.append(r.described), lambda: 2 in done
    )
    assert report.stopped
    assert len(_arrays(tmp_path / "out" / "out_0.mcap")) == 2
    with Reader(tmp_path / "out") as reader:
        assert reader.message_count == 6 + 2


def test_an_output_that_cannot_be_written_is_an_error(
    items: list[Item], tmp_path: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    source, output = _write(tmp_path / "in", items), tmp_path / "out.mcap"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # as a full disk
    try:
        failure = _failure(capsys, _command(source, output, tiny_model))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert f"{output} cannot be written: File too large" in failure
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    (tmp_path / "file").write_text("")
    assert "cannot be written" in _failure(capsys, _command(source, tmp_path / "file" / "out.mcap", tiny_model))


def test_interrupt_of_the_command(picture: Picture, tmp_path: Path, tiny_model: TinyModel) -> None:
    items = []
    for number in range(3000):
        stamp = START + number * PERIOD
        items += [_image_item(picture.rgb, stamp), _ids_item(picture.ids, stamp)]
    source, output = _write(tmp_path / "in", items), tmp_path / "out.mcap"
    command = [sys.executable, "-m", "osprey_ros", *_command(source, output, tiny_model)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(path.suffix == ".mcap" and path.stat().st_size > 50_000 for path in tmp_path.glob(".out.mcap.*/*")):
        assert time.monotonic() < deadline
        with pytest.raises(subprocess.TimeoutExpired):  # it goes on
            child.wait(0.05)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "interrupted: the output is readable" in err
    described = int(re.search(r"(\d+) of 3000 frames described", out).group(1))  # type: ignore[union-attr]
    assert 0 < described == len(_arrays(output)) < 3000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.mcap"]


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from osprey_ros.cli import bag as bag_cli

    clock = [100.0]
    monkeypatch.setattr(bag_cli.time, "monotonic", lambda: clock[0])
    lines = io.StringIO()
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        drawn = ""
        shown = [bag_cli.Progress("describing", "frames", 200, stream) for stream in (lines, terminal)]
        for done in range(1, 101):
            clock[0] += 0.25
            for progress in shown:
                progress.show(done)
            drawn += os.read(master, 1 << 16).decode()
        shown[1].say("a line")
        while "a line\r\n" not in drawn:
            drawn += os.read(master, 1 << 16).decode()
    os.close(master)
    assert lines.getvalue().splitlines() == [
        "osprey: describing  40/200 frames  4/s  0:00:40 left",
        "osprey: describing  80/200 frames  4/s  0:00:30 left",
    ]
    assert "\r[############------------]  describing  100/200 frames  4/s  0:00:25 left" in drawn
    assert drawn.endswith("\ra line\r\n")


def test_the_messages_are_those_of_the_node() -> None:
    described = SceneObject(
        track_id=12,
        state=State.STALE,
        reason="it looks otherwise than when it was described",
        words=Words("mug", "a small red mug, höher", 0.75, START - 7, (Attribute("colour", "red", 0.5),)),
        first_seen=START - 9,
        last_seen=START,
        visible=True,
        instance_id=7,
        box=(3, 4, 20, 30),
        area=450,
        appearance=np.zeros(4, np.float32),
        position=(0.5, -0.25, 1.5),
        size=(0.125, 0.25, 0.0625),
        label="cup",
        score=0.5,
    )
    others = [
        SceneObject(n, state, "no time left", None, START, START, True, n, (0, 0, 1, 1), 1, np.zeros(4, np.float32))
        for n, state in enumerate(State, start=1)
    ]
    data = MessageTypes().objects((described, *others), START + 5, "camera")
    assert deserialize_message(data, ObjectDescriptionArray) == messages.objects_message(
        [described, *others], messages.header_message(START + 5, "camera")
    )
    assert serialized_stamp(data) == START + 5


def test_missing_libraries_are_named_with_the_command_that_installs_them(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['rosbags.typesys'] = None\n"
        "from osprey_ros.cli.main import main\n"
        "sys.exit(main(['bag', 'in.mcap', '--image', '/a', '--segmentation', '/b', '--output', 'out.mcap']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install rosbags mcap" in done.stderr
