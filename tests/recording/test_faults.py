"""Recordings with faults that users report: killed recorders, compressed payloads, missing stamps, old definitions."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from conftest import SampleImage
from message_packages import MESSAGES as YOLO_MESSAGES
from recordings import (
    CHATTER,
    IMAGE,
    PERIOD,
    SEGMENTATION,
    START,
    STORE,
    Item,
    frames,
    ids_item,
    image_item,
    write_folder,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from osprey_ros.errors import StorageError
from osprey_ros.recording.frames import FrameReader, plan_frames
from osprey_ros.recording.reader import Recording
from osprey_ros.recording.types import MessageTypes

TYPES = MessageTypes()


@pytest.fixture
def items(sample: SampleImage) -> list[Item]:
    return frames(sample)


def read(path: Path) -> tuple[list[Item], list[str]]:
    """Return the messages of a recording, and the sentences about what may be missing."""
    with Recording(path, TYPES) as recording:
        found = [(message.topic.name, message.topic.type, message.data, message.time) for message in recording.read()]
        return found, [*recording.notes, *recording.missing(len(found))]


def failure(path: Path) -> str:
    with pytest.raises(StorageError) as error, Recording(path, TYPES) as recording:
        list(recording.read())
    return str(error.value)


@pytest.fixture
def killed(items: list[Item], tmp_path: Path) -> Path:
    """The folder of a killed recorder: 5 of 12 messages are in the table, the others in its journal."""
    folder = write_folder(tmp_path / "running" / "in", items, "sqlite3")
    with sqlite3.connect(folder / "in.db3") as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA wal_autocheckpoint = 0")
        late = database.execute("SELECT * FROM messages WHERE id > 5").fetchall()
        database.execute("DELETE FROM messages WHERE id > 5")
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.executemany("INSERT INTO messages VALUES (?, ?, ?, ?)", late)
        database.commit()
        shutil.copytree(folder, tmp_path / "in")
    (tmp_path / "in" / "in.db3-shm").unlink()
    return tmp_path / "in"


def test_the_journal_of_a_killed_recorder_is_read(killed: Path, items: list[Item]) -> None:
    before = {path.name: path.read_bytes() for path in killed.iterdir()}
    for path in (killed, killed / "in.db3", killed / "metadata.yaml"):
        found, notes = read(path)
        assert found == items
        assert len(notes) == 1
        assert "in.db3 has a journal (in.db3-wal), so its recorder was killed or is still running" in notes[0]
    assert {path.name: path.read_bytes() for path in killed.iterdir()} == before


def test_messages_that_were_written_and_cannot_be_read_are_counted(killed: Path, items: list[Item]) -> None:
    (killed / "in.db3-wal").unlink()
    for path in (killed, killed / "in.db3"):
        found, notes = read(path)
        assert found == items[:5]
        assert notes == [f"{path} should have 12 messages according to metadata.yaml, but 5 could be read"]


def test_an_unfinished_change_of_a_killed_recorder_is_named(items: list[Item], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", items, "sqlite3")
    (folder / "in.db3-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7")
    assert "in.db3 has an unfinished change (in.db3-journal)" in read(folder)[1][0]


@pytest.mark.parametrize("name", ["50% off?", "a#b"])
def test_names_with_signs_of_addresses(name: str, items: list[Item], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", items, "sqlite3").rename(tmp_path / "moved")  # rosbags cannot write there
    shutil.move(folder / "in.db3", tmp_path / f"{name}.db3")
    assert read(tmp_path / f"{name}.db3") == (items, [])


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_compressed_messages_are_read_without_metadata(storage: str, items: list[Item], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", items, storage, "MESSAGE")
    (file,) = (path for path in folder.iterdir() if path.suffix != ".yaml")
    assert read(Path(shutil.move(file, tmp_path))) == (items, [])


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_compressed_file_is_read_without_metadata(storage: str, items: list[Item], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", items, storage, "FILE")
    (file,) = (path for path in folder.iterdir() if path.suffix == ".zstd")
    assert read(file) == (items, [])
    (folder / "metadata.yaml").unlink()
    assert read(folder) == (items, [])


def test_a_compression_other_than_zstd_is_named(items: list[Item], tmp_path: Path) -> None:
    lz4 = [(topic, kind, b"\x04\x22\x4d\x18" + data[4:], moment) for topic, kind, data, moment in items]
    assert (
        f"message 1 (topic {IMAGE}) is neither serialized as CDR nor compressed with zstd, it begins with the bytes "
        "04 22 4d 18" in failure(write_folder(tmp_path / "in", lz4))
    )


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
@pytest.mark.parametrize("identifier", ['""', "my_storage"])
def test_the_files_say_what_they_are(storage: str, identifier: str, items: list[Item], tmp_path: Path) -> None:
    metadata = write_folder(tmp_path / "in", items, storage) / "metadata.yaml"
    metadata.write_text(
        metadata.read_text().replace(f"storage_identifier: {storage}", f"storage_identifier: {identifier}")
    )
    assert read(tmp_path / "in") == (items, [])


def test_folders_without_metadata(items: list[Item], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", items)
    (folder / "metadata.yaml").unlink()
    (folder / "._in.mcap").write_bytes(b"Mac OS X")
    assert read(folder) == (items, [])

    (folder / "in.mcap").unlink()
    for number, part in ((2, items[:4]), (10, items[4:])):  # the order of numbers, not of texts
        write_folder(tmp_path / f"in_{number}", part)
        shutil.move(tmp_path / f"in_{number}" / f"in_{number}.mcap", folder)
    assert read(folder) == (items, [])

    (folder / "in_11.mcap").touch()
    assert read(folder) == (items, [f"{folder / 'in_11.mcap'}: no messages, the file is empty"])

    shutil.copy(folder / "in_2.mcap", folder / "other.mcap")
    assert "several recordings: in_2.mcap, in_10.mcap, in_11.mcap, other.mcap; give one of these files" in failure(
        folder
    )
    (tmp_path / "empty").mkdir()
    assert "has no recording: no .mcap or .db3 file and no metadata.yaml" in failure(tmp_path / "empty")


def test_damaged_and_incomplete_metadata(items: list[Item], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", items)
    shutil.copy(folder / "in.mcap", folder / "in_1.mcap")
    found, (note,) = read(folder)
    assert found == items
    assert note == f"{folder}: metadata.yaml does not list in_1.mcap, which was not read; run `ros2 bag reindex`"
    (folder / "in_1.mcap").unlink()
    for text in ("", "rosbag2_bagfile_information: [", "rosbag2_bagfile_information: {relative_file_paths: 7}"):
        (folder / "metadata.yaml").write_text(text)
        found, (note,) = read(folder)
        assert found == items
        assert note.startswith(f"{folder / 'metadata.yaml'} is not the metadata of a recording; ")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("in.mcap", b"", "is empty"),
        ("in.mcap", b"#ROSBAG V2.0\n", "is a recording of ROS 1; convert it with `rosbags-convert`"),
        ("in.db3", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        ("in.db3-wal", b"\x37\x7f\x06\x82" + bytes(28), "is the journal of a .db3 file"),
    ],
)
def test_files_that_are_no_recordings_are_named(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert f"{tmp_path / name} {reason}" in failure(tmp_path / name)


def test_a_database_of_another_program_is_named(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "in.db3") as database:
        database.execute("CREATE TABLE places (id INTEGER)")
    assert "without the tables of rosbag2" in failure(tmp_path / "in.db3")


def no_match(path: Path, slop: float = 0.0) -> str:
    with pytest.raises(StorageError) as error, Recording(path, TYPES) as recording:
        plan_frames(recording, IMAGE, SEGMENTATION, slop)
    return str(error.value)


def unstamped(item: Item) -> Item:
    return (*item[:2], item[2][:4] + bytes(8) + item[2][12:], item[3])


def test_a_stamp_of_0_is_no_stamp(sample: SampleImage, tmp_path: Path) -> None:
    items = [image_item(sample.rgb, START + n * PERIOD) for n in range(3)]
    ids = [ids_item(sample.ids, START + n * PERIOD) for n in range(3)]
    reason = no_match(write_folder(tmp_path / "ids", items + [unstamped(item) for item in ids]))
    assert f"all 3 messages of {SEGMENTATION} have no stamp (it is 0)" in reason
    assert f"to the stamp of {IMAGE}" in reason
    assert "slop" not in reason
    both = [unstamped(item) for item in items + ids]
    assert f"all 3 messages of {IMAGE} have no stamp" in no_match(write_folder(tmp_path / "both", both))
    with Recording(write_folder(tmp_path / "one", [*items, unstamped(ids[0]), *ids[1:]]), TYPES) as recording:
        plan = plan_frames(recording, IMAGE, SEGMENTATION)
    assert (plan.matched, dict(plan.unstamped)) == (2, {"image": 0, "segmentation": 1})


def test_no_slop_is_advised_that_is_refused(sample: SampleImage, tmp_path: Path) -> None:
    items = []
    for number in range(4):
        stamp = START + number * PERIOD
        items += [image_item(sample.rgb, stamp), ids_item(sample.ids, stamp + 20_000_000_000)]
    reason = no_match(write_folder(tmp_path / "in", items))
    assert "are 19.7 s apart, so their publishers use different clocks" in reason
    assert "slop" not in reason


POSE = "geometry_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n"
RESULTS = "std_msgs/Header header\nObjectHypothesisWithPose[] results\nBoundingBox2D bbox\n"
FOXY = {
    "BoundingBox2D": POSE,
    "ObjectHypothesisWithPose": "string id\nfloat64 score\n",
    "Detection2D": f"{RESULTS}string tracking_id\n",
    "Detection2DArray": "std_msgs/Header header\nDetection2D[] detections\n",
}
GALACTIC = {
    **FOXY,
    "ObjectHypothesis": "string class_id\nfloat64 score\n",
    "ObjectHypothesisWithPose": "ObjectHypothesis hypothesis\n",
    "Detection2D": f"{RESULTS}string id\n",
}
PLAIN = {**FOXY, "Detection2D": "std_msgs/Header header\nBoundingBox2D bbox\nstring id\n"}


def record(folder: Path, store: Any, image: Item, kind: str, message: Any) -> Path:
    """Write one image and one message about its regions, with the definitions of a store."""
    with Writer(folder, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.write(writer.add_connection(IMAGE, image[1], typestore=STORE), image[3], image[2])
        connection = writer.add_connection(SEGMENTATION, kind, typestore=store)
        writer.write(connection, START, store.serialize_cdr(message, kind))
    return folder


@pytest.mark.parametrize(
    ("definitions", "label"), [(FOXY, "cup"), (GALACTIC, "cup"), (PLAIN, None)], ids=["foxy", "galactic", "plain"]
)
def test_detections_of_older_releases(
    definitions: dict[str, str], label: str | None, sample: SampleImage, tmp_path: Path
) -> None:
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, text in definitions.items():
        store.register(get_types_from_msg(text, f"vision_msgs/msg/{name}"))

    def make(name: str, /, **fields: Any) -> Any:
        return store.types[name](**fields)

    stamp = make("builtin_interfaces/msg/Time", sec=START // 10**9, nanosec=START % 10**9)
    about: dict[str, Any] = {"header": make("std_msgs/msg/Header", stamp=stamp, frame_id="camera")}
    center = make("geometry_msgs/msg/Pose2D", x=30.0, y=20.0, theta=0.0)
    detection = {**about, "bbox": make("vision_msgs/msg/BoundingBox2D", center=center, size_x=10.0, size_y=6.0)}
    if definitions is FOXY:
        detection["results"] = [make("vision_msgs/msg/ObjectHypothesisWithPose", id="cup", score=0.5)]
    elif definitions is GALACTIC:
        hypothesis = make("vision_msgs/msg/ObjectHypothesis", class_id="cup", score=0.5)
        detection["results"] = [make("vision_msgs/msg/ObjectHypothesisWithPose", hypothesis=hypothesis)]
    detection["tracking_id" if definitions is FOXY else "id"] = "4"
    kind = "vision_msgs/msg/Detection2DArray"
    message = make(kind, **about, detections=[make("vision_msgs/msg/Detection2D", **detection)])
    with Recording(record(tmp_path / "in", store, image_item(sample.rgb, START), kind, message), TYPES) as recording:
        reader = FrameReader(recording, IMAGE, SEGMENTATION, TYPES)
        frame = reader.frame(*(message.data for message in sorted(recording.read(), key=lambda m: m.topic.name)))
    assert [int(number) for number in frame.regions.ids] == [4]  # type: ignore[union-attr]
    assert frame.regions.boxes[0].tolist() == [25, 17, 10, 6]  # type: ignore[union-attr]
    assert {number: found.label for number, found in frame.labels.items()} == ({4: label} if label else {})


def test_detections_of_yolo_ros(sample: SampleImage, tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, fields in YOLO_MESSAGES.items():
        text = "".join(f"{kind} {field}\n" for field, kind in fields.items())
        store.register(get_types_from_msg(text, f"yolo_msgs/msg/{name}"))

    def empty(kind: str) -> Any:
        """Return a message whose fields are empty."""
        values = {"string": "", "int32": 0, "uint32": 0, "float64": 0.0}
        fields = {
            name: [] if node[0] in (3, 4) else empty(node[1]) if node[0] == 2 else values[node[1][0]]
            for name, node in store.fielddefs[kind][1]
        }
        return store.types[kind](**fields)

    kind = "yolo_msgs/msg/DetectionArray"
    message, detection = empty(kind), empty("yolo_msgs/msg/Detection")
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(START, 10**9)
    detection.id, detection.class_name, detection.score = "12", "cup", 0.5
    detection.mask.height, detection.mask.width = sample.rgb.shape[:2]
    point = store.types["yolo_msgs/msg/Point2D"]
    detection.mask.data = [point(x=float(x), y=float(y)) for x, y in ((10, 20), (29, 20), (29, 30), (10, 30))]
    message.detections = [detection]
    with Recording(record(tmp_path / "in", store, image_item(sample.rgb, START), kind, message), TYPES) as recording:
        reader = FrameReader(recording, IMAGE, SEGMENTATION, TYPES)
        frame = reader.frame(*(message.data for message in sorted(recording.read(), key=lambda m: m.topic.name)))
    assert frame.regions.ids.tolist() == [12]  # type: ignore[union-attr]
    assert frame.regions.boxes[0].tolist() == [10, 20, 20, 11]  # type: ignore[union-attr]
    assert frame.labels[12].label == "cup"


def test_a_definition_without_a_field_is_named(sample: SampleImage, tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS2_HUMBLE)
    kind = "osprey_interfaces/msg/RegionArray"
    text = "std_msgs/Header header\nuint32 height\n"
    store.register(get_types_from_msg(text, kind))
    stamp = store.types["builtin_interfaces/msg/Time"](sec=1, nanosec=0)
    message = store.types[kind](header=store.types["std_msgs/msg/Header"](stamp=stamp, frame_id=""), height=6)
    folder = record(tmp_path / "in", store, image_item(sample.rgb, START), kind, message)
    with Recording(folder, TYPES) as recording, pytest.raises(StorageError) as error:
        FrameReader(recording, IMAGE, SEGMENTATION, TYPES)
    assert f"{kind} was recorded with another definition: {kind} has no field width, regions" in str(error.value)


def test_a_definition_that_cannot_be_parsed_is_an_error_in_our_words() -> None:
    with pytest.raises(StorageError) as error:
        TYPES.reader("std_msgs/msg/String", "string ä ==\n")
    assert str(error.value) == (
        "the recorded definition of std_msgs/msg/String cannot be parsed; record it again, or convert the recording "
        "with `ros2 bag convert` where the type is installed"
    )


def test_other_topics_are_kept_as_they_are(items: list[Item], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", items, "sqlite3")
    with sqlite3.connect(folder / "in.db3") as database:
        database.execute("UPDATE topics SET serialization_format = 'json' WHERE name = ?", (CHATTER,))
        database.execute(
            "UPDATE messages SET data = x'7b7d' WHERE topic_id = (SELECT id FROM topics WHERE name = ?)", (CHATTER,)
        )
    found, notes = read(folder)
    assert [data for topic, _, data, _ in found if topic == CHATTER] == [b"{}"] * 4
    assert not notes
