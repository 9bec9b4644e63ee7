"""`osprey annotate`: equal results whatever the processes, resumable, and what it reads and writes."""

from __future__ import annotations

import json
import os
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import SampleImage, TinyModel
from mcap.reader import make_reader
from PIL import Image
from recordings import IMAGE, OBJECTS, SEGMENTATION, frames, shifted, write_folder

from osprey_ros.annotation.items import find_items
from osprey_ros.annotation.journal import NAME, Journal
from osprey_ros.annotation.processes import describe_items
from osprey_ros.annotation.worker import Settings
from osprey_ros.cli.main import main
from osprey_ros.errors import StorageError
from osprey_ros.regions.masks import mask_from_rle

PHOTOS = 5
Run = Callable[..., int]


@pytest.fixture
def photos(sample: SampleImage, tmp_path: Path) -> Path:
    """Images with an id image of the same name each, and a damaged one."""
    for folder in ("in/deep", "masks/deep"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(PHOTOS):
        name = f"deep/{number}.png" if number % 2 else f"{number}.png"
        Image.fromarray(shifted(sample, number)).save(tmp_path / "in" / name)
        Image.fromarray(sample.ids).save(tmp_path / "masks" / name)
    (tmp_path / "in/bad.jpg").write_bytes(b"no image")
    return tmp_path


@pytest.fixture
def annotate(tiny_model: TinyModel) -> Run:
    """Run the command on inputs into a folder."""
    model = ["--bundle", str(tiny_model.bundle), "--max-new-tokens", "6"]
    return lambda inputs, output, *options: main(
        ["annotate", *map(str, inputs), "--output", str(output), *model, *options]
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != NAME}


def test_two_processes_and_a_run_that_was_killed_give_the_files_of_one_process(
    photos: Path, annotate: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--masks", str(photos / "masks"), "--format", "coco", "parquet", "webdataset")
    one, two = photos / "one", photos / "two"
    assert annotate([photos / "in"], one, *options, "--json") == 1
    summary = json.loads(capsys.readouterr().out)
    assert (summary["items"], summary["done_now"], summary["set_aside"]) == (PHOTOS + 1, PHOTOS + 1, 1)
    assert annotate([photos / "in"], two, *options, "--workers", "2") == 1
    expected = files(one)
    assert sorted(expected) == ["annotations.json", "annotations.parquet", "failed.jsonl", "shard-000000.tar"]
    assert files(two) == expected

    # A kill leaves whole lines and perhaps a part of one.
    lines = (one / NAME).read_bytes().splitlines(keepends=True)
    (two / NAME).write_bytes(b"".join(lines[:3]) + lines[3][:-9])
    for name in expected:
        (two / name).unlink()
    capsys.readouterr()
    assert annotate([photos / "in"], two, *options, "--json") == 1
    assert json.loads(capsys.readouterr().out)["done_before"] == 2
    assert files(two) == expected
    keys = [json.loads(line)["item"] for line in (two / NAME).read_bytes().splitlines()[1:]]
    assert len(keys) == len(set(keys)) == PHOTOS + 1


def test_a_killed_process_loses_no_item_and_doubles_none(photos: Path, tiny_model: TinyModel) -> None:
    items = find_items([str(photos / "in")], photos / "masks")
    settings = Settings(str(tiny_model.bundle), "none", max_new_tokens=6)
    expected = {item.key: outcome.record for item, outcome in describe_items(items, settings, photos, 1, _never)}
    found: list[tuple[str, Any]] = []
    for item, outcome in describe_items(items, settings, photos, 2, _never):
        if not found:
            os.kill(outcome.worker, signal.SIGKILL)
        found.append((item.key, outcome.record))
    assert len(found) == len(items)
    assert dict(found) == expected


def _never() -> bool:
    return False


def test_the_files_hold_the_regions_and_their_descriptions(photos: Path, annotate: Run, sample: SampleImage) -> None:
    import pyarrow.parquet as pq

    out = photos / "out"
    options = ("--masks", str(photos / "masks"), "--format", "coco", "parquet", "webdataset")
    assert annotate([photos / "in/0.png"], out, *options, "--attributes", "color = red | green") == 0
    coco = json.loads((out / "annotations.json").read_text())
    (image,) = coco["images"]
    assert (image["file_name"], image["height"], image["width"]) == (str(photos / "in/0.png"), *sample.ids.shape)
    ids = [thing["region_id"] for thing in coco["annotations"]]
    assert ids == np.unique(sample.ids[sample.ids > 0]).tolist()
    for thing in coco["annotations"]:
        crop = mask_from_rle(np.array(thing["segmentation"]["counts"]), *thing["segmentation"]["size"])
        assert crop.mask.sum() == (sample.ids == thing["region_id"]).sum() == thing["area"]
        assert thing["attributes"]["color"]["value"] in ("red", "green")
    rows = pq.read_table(out / "annotations.parquet").to_pylist()
    assert [(row["region_id"], row["caption"]) for row in rows] == [
        (thing["region_id"], thing["caption"]) for thing in coco["annotations"]
    ]
    with tarfile.open(out / "shard-000000.tar") as shard:
        pixels, entry = shard.getmembers()
        assert pixels.name.partition(".")[0] == entry.name.partition(".")[0]
        assert shard.extractfile(pixels).read() == (photos / "in/0.png").read_bytes()  # type: ignore[union-attr]
        assert len(json.load(shard.extractfile(entry))["objects"]) == len(rows)  # type: ignore[arg-type]
    # What was written is a data set again, of the same masks.
    again = photos / "again"
    assert annotate([out / "annotations.json"], again, "--format", "coco") == 0
    second = json.loads((again / "annotations.json").read_text())
    assert [one["segmentation"] for one in second["annotations"]] == [
        one["segmentation"] for one in coco["annotations"]
    ]
    assert [one["caption"] for one in second["annotations"]] == [one["caption"] for one in coco["annotations"]]


def objects(recording: Path) -> list[bytes]:
    """Return the messages with objects, as they are stored."""
    with recording.open("rb") as file:
        return [message.data for _, _, message in make_reader(file).iter_messages(topics=[OBJECTS])]


def test_videos_are_segmented_and_recordings_copied(
    sample: SampleImage,
    tmp_path: Path,
    annotate: Run,
    tiny_model: TinyModel,
    capsys: pytest.CaptureFixture[str],
) -> None:
    video = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (80, 60))
    for _ in range(4):
        video.write(np.ascontiguousarray(sample.rgb[:, :, ::-1]))
    video.release()
    recording = write_folder(tmp_path / "bag", frames(sample))
    topics = ("--image-topic", IMAGE, "--segmentation-topic", SEGMENTATION)
    out = tmp_path / "out"
    assert annotate([tmp_path / "film.avi", tmp_path / "b?g"], out) == 2
    assert "give --image-topic and --segmentation-topic" in capsys.readouterr().err
    options = (*topics, "--segmenter", "segmenter", "--every", "2", "--max-regions", "2", "--format", "webdataset")
    assert annotate([tmp_path / "film.avi", tmp_path / "b?g"], out, *options) == 0
    with tarfile.open(out / "shard-000000.tar") as shard:
        names = [member.name for member in shard if member.name.endswith(".json")]
    assert [name.rpartition("-")[2] for name in names] == ["00000000.json", "00000002.json"]
    (written,) = (out / "recordings").iterdir()
    bag = [
        "bag",
        str(recording),
        "--image",
        IMAGE,
        "--segmentation",
        SEGMENTATION,
        "--output",
        str(tmp_path / "one.mcap"),
    ]
    model = ["--bundle", str(tiny_model.bundle), "--max-new-tokens", "6", "--threads", "1", "--min-area", "1"]
    assert main([*bag, *model, "--every", "2", "--max-regions", "2"]) == 0
    assert objects(written) == objects(tmp_path / "one.mcap")
    assert len(objects(written)) == 2


def test_a_run_with_other_settings_and_a_second_run_at_once_are_refused(
    photos: Path, annotate: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    out, options = photos / "out", ("--masks", str(photos / "masks"))
    assert annotate([photos / "in/0.png"], out, *options) == 0
    assert annotate([photos / "in/0.png"], out, *options, "--style", "detailed") == 2
    assert "was begun with other settings (style)" in capsys.readouterr().err
    with Journal(photos / "busy", {}), pytest.raises(StorageError, match="another process writes into"):
        Journal(photos / "busy", {})
    (photos / "own").mkdir()
    (photos / "own" / NAME).write_text("a diary")
    assert annotate([photos / "in/0.png"], photos / "own", *options) == 2
    assert (photos / "own" / NAME).read_text() == "a diary"


def test_what_was_set_aside_is_described_with_retry(photos: Path, annotate: Run) -> None:
    out, options = photos / "out", ("--masks", str(photos / "masks"))
    assert annotate([photos / "in/bad.jpg"], out, *options) == 1
    (failed,) = (out / "failed.jsonl").read_text().splitlines()
    assert "bad.jpg" in json.loads(failed)["item"]
    assert "cannot be read" in json.loads(failed)["reason"]
    (photos / "in/bad.jpg").write_bytes((photos / "in/0.png").read_bytes())
    (photos / "masks/bad.png").write_bytes((photos / "masks/0.png").read_bytes())
    assert annotate([photos / "in/bad.jpg"], out, *options) == 1
    assert annotate([photos / "in/bad.jpg"], out, *options, "--retry") == 0
    assert (out / "failed.jsonl").read_text() == ""
