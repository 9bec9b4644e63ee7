"""Write the descriptions of a run: COCO JSON, Parquet and WebDataset, from the journal and in the order of the items.

The files do not depend on the order in which the items were finished.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2

from osprey_ros.annotation.formats import COCO, PARQUET, WEBDATASET
from osprey_ros.annotation.items import Item
from osprey_ros.annotation.journal import Journal
from osprey_ros.annotation.worker import video_frames
from osprey_ros.errors import StorageError
from osprey_ros.files import completed_file
from osprey_ros.strict_json import to_json

FAILED = "failed.jsonl"
_ROWS = 10_000  # of a row group
_SAMPLES = 1000  # images of a shard
_JPEG_QUALITY = 95  # of frames of videos


class Described(NamedTuple):
    """An image or a frame of a video that was described, and its entry in the journal."""

    item: Item
    entry: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the image: its path, and of a frame its index behind a #."""
        return f"{self.item.key}#{self.entry['frame']}" if "frame" in self.entry else self.item.key


def write_outputs(folder: Path, items: Sequence[Item], journal: Journal, formats: Sequence[str]) -> int:
    """Write a file for each format, and the reasons of the items and frames that were set aside.

    Args:
        folder: Of annotations.json, annotations.parquet, shard-000000.tar and so on, and failed.jsonl.
        items: All are finished.
        journal: Their outcomes.
        formats: Of `osprey_ros.annotation.formats.FORMATS`.

    Returns:
        The number of items and frames of recordings that were set aside.

    Raises:
        OSError: A file cannot be written.
        StorageError: An image cannot be read again for WebDataset.
    """
    failed = 0
    with completed_file(folder / FAILED) as partial, partial.open("w") as file:
        for item in items:
            outcome = journal.outcome(item.key)
            record = outcome.get("record") or {"failed": [{"reason": outcome["reason"]}]}
            for entry in record.get("failed", ()):
                file.write(to_json({"item": item.key, **entry}) + "\n")
                failed += 1
    for name in formats:
        _WRITERS[name](folder, items, journal)
    return failed


def _described(items: Sequence[Item], journal: Journal) -> Iterator[Described]:
    for item in items:
        for entry in (journal.outcome(item.key).get("record") or {}).get("images", ()):
            yield Described(item, entry)


def _write_coco(folder: Path, items: Sequence[Item], journal: Journal) -> None:
    """Write a COCO data set, one image and one annotation a line: a large one does not have to fit into memory."""
    with completed_file(folder / "annotations.json") as partial, partial.open("w") as file:
        file.write('{"categories": [{"id": 1, "name": "object"}],\n"images": [')
        for number, found in enumerate(_described(items, journal), 1):
            size = {"height": found.entry["height"], "width": found.entry["width"]}
            _write_element(file, number, {"id": number, "file_name": found.name, **size})
        file.write('],\n"annotations": [')
        count = 0
        for number, found in enumerate(_described(items, journal), 1):
            for thing in found.entry["objects"]:
                count += 1
                own = {name: value for name, value in thing.items() if name not in ("id", "box", "counts", "text")}
                annotation = {
                    "id": count,
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": thing["box"],
                    "segmentation": {"size": [found.entry["height"], found.entry["width"]], "counts": thing["counts"]},
                    "region_id": thing["id"],
                    "caption": thing["text"],
                }
                _write_element(file, count, {**annotation, **own})
        file.write("]}\n")


def _write_element(file: IO[str], number: int, value: dict[str, Any]) -> None:
    file.write(("\n" if number == 1 else ",\n") + to_json(value))


def _write_parquet(folder: Path, items: Sequence[Item], journal: Journal) -> None:
    """Write a table with a row for each region."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = {name: pa.int64() for name in ("frame", "height", "width", "region_id", "area")}
    columns = {
        "image": pa.string(),
        **numbers,
        "box": pa.list_(pa.int64()),
        "counts": pa.list_(pa.int64()),
        "caption": pa.string(),
        "confidence": pa.float64(),
        "raw_confidence": pa.float64(),
        "unlike_training": pa.float64(),
        "reason": pa.string(),
        "kinds": pa.string(),
        "attributes": pa.string(),
    }
    schema = pa.schema(list(columns.items()))
    with completed_file(folder / "annotations.parquet") as partial, pq.ParquetWriter(partial, schema) as writer:
        rows: list[dict[str, Any]] = []
        for found in _described(items, journal):
            rows += _rows(found)
            if len(rows) >= _ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema))


def _rows(found: Described) -> Iterator[dict[str, Any]]:
    size = {name: found.entry[name] for name in ("height", "width")}
    for thing in found.entry["objects"]:
        texts = {name: to_json(thing[name]) for name in ("kinds", "attributes")}
        own = {"image": found.item.key, "frame": found.entry.get("frame"), "region_id": thing["id"]}
        yield {**thing, **size, **own, "caption": thing["text"], **texts}


def _write_webdataset(folder: Path, items: Sequence[Item], journal: Journal) -> None:
    """Write tar files of `_SAMPLES` images each, and of each image the pixels as they are and the JSON beside it."""
    found, number = _samples(items, journal), 0
    sample = next(found, None)
    while sample is not None:
        with completed_file(folder / f"shard-{number:06d}.tar") as partial, tarfile.open(partial, "w") as shard:
            for _ in range(_SAMPLES):
                name, suffix, pixels, entry = sample
                _add(shard, f"{name}{suffix}", pixels)
                _add(shard, f"{name}.json", to_json(entry).encode())
                sample = next(found, None)
                if sample is None:
                    break
        number += 1


def _samples(items: Sequence[Item], journal: Journal) -> Iterator[tuple[str, str, bytes, dict[str, Any]]]:
    """Yield name, suffix, bytes and JSON of each image. A dot in a name would end it."""
    for item in items:
        entries = (journal.outcome(item.key).get("record") or {}).get("images", ())
        name = item.name.replace(".", "_")
        if entries and "frame" in entries[0]:
            every = entries[1]["frame"] if len(entries) > 1 else 1
            for entry, (index, rgb) in zip(entries, video_frames(item.key, every), strict=False):
                options = (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
                pixels = cv2.imencode(".jpg", rgb[:, :, ::-1], options)[1].tobytes()
                yield f"{name}-{index:08d}", ".jpg", pixels, {"image": item.key, **entry}
        for entry in (one for one in entries if "frame" not in one):
            try:
                pixels = Path(item.key).read_bytes()
            except OSError as error:
                raise StorageError(f"{item.key} was described and cannot be read any more; put it back") from error
            yield name, os.path.splitext(item.key)[1].lower(), pixels, {"image": item.key, **entry}


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    shard.addfile(info, io.BytesIO(data))


_WRITERS = {COCO: _write_coco, PARQUET: _write_parquet, WEBDATASET: _write_webdataset}
