"""Rendered scenes on disk: images and id images as memory-mapped arrays, facts as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from osprey_ros.files import write_file
from osprey_ros.strict_json import to_json
from osprey_ros.vision.preprocess import resize_shortest_edge
from osprey_sim import render
from osprey_sim.dialogues import RegionFacts, region_facts
from training.chunks import Chunk, missing_chunks, run_in_processes

CHUNK = 250  # scenes a file: what a stop can lose


class SceneStore:
    """Scenes rendered by `render_scenes`, read back one at a time."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._chunks = sorted(self.folder.glob("*-facts.jsonl"))
        if not self._chunks:
            raise FileNotFoundError(f"{folder}: no rendered scenes (*-facts.jsonl); call training.store.render_scenes")
        self._arrays = [
            {kind: np.load(_file(path, kind), mmap_mode="r") for kind in ("picture", "instances", "parts")}
            for path in self._chunks
        ]
        self._facts = [
            [[RegionFacts.from_json(f) for f in json.loads(line)] for line in path.read_text().splitlines()]
            for path in self._chunks
        ]
        self._index = [(chunk, row) for chunk, facts in enumerate(self._facts) for row in range(len(facts))]

    def __len__(self) -> int:
        return len(self._index)

    def facts(self, index: int) -> list[RegionFacts]:
        chunk, row = self._index[index]
        return self._facts[chunk][row]

    def images(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (image uint8 [h, w, 3], its shortest edge resized; instance ids and part ids, both uint8 [H, W])."""
        chunk, row = self._index[index]
        arrays = self._arrays[chunk]
        return arrays["picture"][row], arrays["instances"][row], arrays["parts"][row]


def render_scenes(
    folder: Path,
    split: str,
    count: int,
    image_size: int,
    workers: int,
    progress: Callable[[int], None],
    size: tuple[int, int] = (render.WIDTH, render.HEIGHT),
) -> SceneStore:
    """Render scenes 0 .. count-1 of a split into `folder`, skipping chunks that are there.

    Args:
        image_size: the model's image side; images are stored with their shortest edge resized to it.
        progress: called with the number of scenes that became ready; what it raises ends the rendering.
        size: width and height of what is rendered.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = missing_chunks(count, CHUNK, lambda start, stop: _facts(folder, start, stop).is_file(), progress)
    run_in_processes(partial(_render_chunk, folder, split, image_size, size), chunks, workers, progress)
    return SceneStore(folder)


def _render_chunk(folder: Path, split: str, image_size: int, size: tuple[int, int], chunk: Chunk) -> int:
    start, stop = chunk
    images, instances, parts, lines = [], [], [], []
    for scene, frame in render.render_scenes(split, range(start, stop), size):
        images.append(resize_shortest_edge(frame.rgb, image_size))
        instances.append(_as_bytes(frame.instance_ids))
        parts.append(_as_bytes(frame.part_ids))
        lines.append(to_json([asdict(f) for f in region_facts(scene, frame)]))
    facts_path = _facts(folder, start, stop)
    for kind, arrays in (("picture", images), ("instances", instances), ("parts", parts)):
        np.save(_file(facts_path, kind), np.stack(arrays))
    # Written last and moved into place: its presence says that the chunk is whole.
    write_file(facts_path, "\n".join(lines) + "\n")
    return stop - start


def _facts(folder: Path, start: int, stop: int) -> Path:
    return folder / f"{start:06d}-{stop:06d}-facts.jsonl"


def _file(facts_path: Path, kind: str) -> Path:
    return facts_path.with_name(facts_path.name.replace("facts.jsonl", f"{kind}.npy"))


def _as_bytes(ids: np.ndarray) -> np.ndarray:
    if ids.max() > 255:
        raise ValueError(f"an id image holds {ids.max()}: the store keeps ids up to 255")
    return ids.astype(np.uint8)
