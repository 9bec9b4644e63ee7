"""Recordings of both storages, compressed, old, without an index, cut off and damaged."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from conftest import SampleImage
from recordings import (
    CHATTER,
    IMAGE,
    PERIOD,
    QOS,
    SEGMENTATION,
    START,
    STORE,
    Item,
    chatter_item,
    frames,
    ids_item,
    image_item,
    write_folder,
    write_mcap,
)

from osprey_ros.errors import StorageError
from osprey_ros.recording.frames import plan_frames
from osprey_ros.recording.reader import Recording
from osprey_ros.recording.types import MessageTypes

TYPES = MessageTypes()
# No text of a library follows.
DAMAGE = (
    r"in is damaged after \d+ messages; copy it again, or try `(mcap recover|sqlite3 FILE \.recover)`$"
    r"|message \d+ \(topic \S+\) is neither serialized as CDR nor compressed with zstd, it begins with the bytes 00"
)


@pytest.fixture
def items(sample: SampleImage) -> list[Item]:
    return frames(sample)


def read(path: Path) -> list[Item]:
    """Return all messages of a recording, which must have no fault."""
    with Recording(path, TYPES) as recording:
        found = [(message.topic.name, message.topic.type, message.data, message.time) for message in recording.read()]
        assert recording.message_count == len(found)
        assert not recording.cut_off
        return found


@pytest.mark.parametrize(
    ("storage", "compression"),
    [(s, c) for s in ("sqlite3", "mcap") for c in ("NONE", "FILE", "MESSAGE")] + [("mcap", "STORAGE")],
)
def test_both_storages_and_all_compressions(storage: str, compression: str, items: list[Item], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", items, storage, compression)
    assert read(folder) == items
    with Recording(folder, TYPES) as recording:
        assert [topic.name for topic in recording.topics] == [IMAGE, CHATTER, SEGMENTATION]
        for topic in recording.topics:
            assert (topic.qos, topic.encoding) == ((QOS,), "cdr")
            assert topic.definition == STORE.generate_msgdef(topic.type, ros_version=2)[0]
            assert topic.type_hash == STORE.hash_rihs01(topic.type)
    if compression in ("NONE", "STORAGE"):
        (file,) = (path for path in folder.iterdir() if path.suffix in (".mcap", ".db3"))
        assert read(Path(shutil.move(file, tmp_path))) == items


def test_sqlite_of_humble_has_no_definitions(items: list[Item], tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in", items, "sqlite3") / "in.db3"
    with sqlite3.connect(source) as database:
        database.executescript(
            "DROP TABLE schema; DROP TABLE metadata; DROP TABLE message_definitions;"
            "ALTER TABLE topics DROP COLUMN type_description_hash;"
            "UPDATE topics SET type = 'my_msgs/msg/Unheard' WHERE name = '/chatter';"
        )
    assert [data for _, _, data, _ in read(source)] == [data for _, _, data, _ in items]
    with Recording(source, TYPES) as recording:
        known = {topic.name: (topic.type, topic.definition != "") for topic in recording.topics}
    assert known[CHATTER] == ("my_msgs/msg/Unheard", False)
    assert known[IMAGE] == ("sensor_msgs/msg/Image", True)


@pytest.mark.parametrize(
    "options",
    [
        {"use_chunking": False},
        {"repeat_schemas": False},
        {"repeat_channels": False},
        {"use_statistics": False, "use_summary_offsets": False, "repeat_channels": False, "repeat_schemas": False},
        {"profile": ""},
    ],
)
def test_mcap_files_with_an_incomplete_index(options: dict[str, bool], items: list[Item], tmp_path: Path) -> None:
    swapped = [*items[:4], items[5], items[4], *items[6:]]  # messages of two threads are written in any order
    path = write_mcap(tmp_path / "in.mcap", swapped, **options)
    assert sorted(read(path)) == sorted(items)
    with Recording(path, TYPES) as recording:
        assert {topic.type for topic in recording.topics} == {"sensor_msgs/msg/Image", "std_msgs/msg/String"}


@pytest.mark.parametrize("chunks", [True, False])
def test_a_killed_recorder_leaves_readable_messages(chunks: bool, items: list[Item], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", items)
    file = write_mcap(folder / "in.mcap", items, finish=False, use_chunking=chunks)
    whole = file.read_bytes()
    for size, least in ((len(whole), 10), (len(whole) - 200, 8)):
        file.write_bytes(whole[:size])
        for path in (file, folder):
            with Recording(path, TYPES) as recording:
                assert recording.cut_off
                found = [(m.topic.name, m.topic.type, m.data, m.time) for m in recording.read()]
            assert found == items[: len(found)]
            assert len(found) >= least


def test_several_files(items: list[Item], tmp_path: Path) -> None:
    # The fourth frame's image ends one file and its segmentation begins the next.
    parts = [items[:4], items[4:10], items[10:]]
    folder = write_folder(tmp_path / "in", items)
    (folder / "in.mcap").unlink()
    names = [f"in_{number}.mcap" for number in range(3)]
    for name, part in zip(names, parts, strict=True):
        (write_folder(tmp_path / name, part) / f"{name}.mcap").rename(folder / name)
    metadata = folder / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("- in.mcap\n", "".join(f"  - {name}\n" for name in names)[2:]))
    assert read(folder) == items
    (folder / names[1]).unlink()
    with pytest.raises(StorageError, match=r"in_1\.mcap"):
        Recording(folder, TYPES)


@pytest.mark.parametrize(
    ("storage", "compression"),
    [("mcap", "NONE"), ("mcap", "FILE"), ("mcap", "MESSAGE"), ("sqlite3", "NONE"), ("sqlite3", "MESSAGE")],
)
def test_damage_is_an_error(storage: str, compression: str, items: list[Item], tmp_path: Path) -> None:
    large = chatter_item(np.random.default_rng(0).bytes(1 << 20).hex(), START + PERIOD // 5)
    folder = write_folder(tmp_path / "in", [*items[:1], large, *items[1:]], storage, compression)
    (file,) = (path for path in folder.iterdir() if path.suffix != ".yaml")
    if (storage, compression) == ("mcap", "NONE"):
        write_mcap(file, [*items[:1], large, *items[1:]])  # with checksums
    data = bytearray(file.read_bytes())
    page = len(data) // 2 // 4096 * 4096  # of the large message
    if compression == "MESSAGE":
        data = data.replace(b"\x28\xb5\x2f\xfd", bytes(4))  # magic number of compressed messages
    elif compression == "FILE":
        del data[page:]
    else:
        data[page : page + 4096] = b"\xff" * 4096
    file.write_bytes(data)
    with pytest.raises(StorageError, match=DAMAGE):
        read(folder)


def test_what_is_not_a_recording_is_an_error(items: list[Item], tmp_path: Path) -> None:
    def failure(name: str) -> str:
        with pytest.raises(StorageError) as error:
            Recording(tmp_path / name, TYPES)
        return str(error.value)

    for name in ("text.mcap", "text.db3", "text.txt"):
        (tmp_path / name).write_text("not a recording")
    write_mcap(tmp_path / "json.mcap", items, encoding="jsonschema")
    write_mcap(tmp_path / "one.mcap", items, profile="ros1", encoding="ros1msg")
    assert "nothing.mcap does not exist" in failure("nothing.mcap")
    assert "text.mcap is not an MCAP file" in failure("text.mcap")
    assert "text.db3 is not an SQLite file" in failure("text.db3")
    assert "give a .mcap or .db3 file" in failure("text.txt")
    assert "has no metadata.yaml and several recordings: json.mcap, one.mcap, text.db3, text.mcap; give one" in failure(
        ""
    )
    assert f"topic {IMAGE} was recorded with ROS 1; convert" in failure("one.mcap")
    assert f"topic {IMAGE} has a definition in jsonschema, not in ros2msg or ros2idl" in failure("json.mcap")


def test_every_and_rate_select_frames(sample: SampleImage, tmp_path: Path) -> None:
    jitter = (0, 4, -3, 2, -4, 0, 3, -2, 1, 0)  # milliseconds
    items = []
    for number, late in enumerate(jitter):
        stamp = START + number * PERIOD + late * 1_000_000
        items += [image_item(sample.rgb, stamp), ids_item(sample.ids, stamp)]
    with Recording(write_folder(tmp_path / "in", items), TYPES) as recording:

        def selected(**options: float) -> list[int]:
            plan = plan_frames(recording, IMAGE, SEGMENTATION, **options)  # type: ignore[arg-type]
            assert plan.matched == 10
            return [pair.image for pair in plan.frames]

        assert selected() == list(range(10))
        assert selected(every=4) == [0, 4, 8]
        assert selected(rate=100.0) == list(range(10))
        for rate, expected in ((5.0, 5), (2.0, 2)):
            assert abs(len(selected(rate=rate)) - expected) <= 1
        assert selected(rate=0.5) == [0]
