"""Stores records in many small files and reads them one at a time, so that data sets need not fit into memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from osprey_ros.files import write_file
from osprey_ros.strict_json import to_json
from osprey_torch.readers.records import Record, Skipped, Turn
from osprey_torch.readers.segmentation import Segmentation

PER_SHARD = 2000  # records a file
_INDEX = "index.json"


class Shards:
    """Records written by `write_shards`: a sequence that holds only where each of them begins.

    `skipped`: how many were left out when they were written; `source`: what they were read from.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        index = self.folder / _INDEX
        if not index.is_file():
            raise FileNotFoundError(f"{folder}: no {_INDEX}, these are no whole shards: write them again")
        described = json.loads(index.read_text())
        self.skipped: int = described["skipped"]
        self.source: str = described.get("source", "")
        self._paths = [self.folder / name for name in described["shards"]]
        self._offsets = [_line_starts(path) for path in self._paths]
        self._first = np.cumsum([0, *(len(offsets) for offsets in self._offsets)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, number: int) -> Record:
        if not 0 <= number < len(self):
            raise IndexError(f"record {number} of {len(self)}")
        shard = int(np.searchsorted(self._first, number, side="right")) - 1
        with self._paths[shard].open("rb") as file:
            file.seek(int(self._offsets[shard][number - self._first[shard]]))
            return _from_json(json.loads(file.readline()))


def write_shards(
    records: Iterable[Record], folder: Path, skipped: Skipped, source: str = "", per_shard: int = PER_SHARD
) -> Shards:
    """Write records to `folder`; its index comes last, so that a stop leaves nothing that looks whole."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _INDEX).unlink(missing_ok=True)
    names: list[str] = []
    lines: list[str] = []

    def flush() -> None:
        names.append(f"{len(names):05d}.jsonl")
        (folder / names[-1]).write_text("".join(lines), encoding="utf-8")
        lines.clear()

    for record in records:
        lines.append(to_json(_to_json(record)) + "\n")
        if len(lines) == per_shard:
            flush()
    if lines:
        flush()
    write_file(folder / _INDEX, to_json({"shards": names, "skipped": skipped.total, "source": source}) + "\n")
    return Shards(folder)


def _line_starts(path: Path) -> np.ndarray:
    content = path.read_bytes()
    ends = np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n"))
    return np.concatenate([[0], ends[:-1] + 1])


def _to_json(record: Record) -> dict[str, Any]:
    return {**asdict(record), "image": str(record.image)}


def _from_json(data: dict[str, Any]) -> Record:
    return Record(
        image=Path(data["image"]),
        masks=tuple(Segmentation(**mask) for mask in data["masks"]),
        dialogues=tuple(
            tuple(Turn(turn["question"], turn["answer"], tuple(turn["regions"])) for turn in turns)
            for turns in data["dialogues"]
        ),
        origin=data["origin"],
    )
