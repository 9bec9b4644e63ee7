"""Labeled images on disk with the feature maps of the frozen tower, which are computed once and read in place."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import onnxruntime

from osprey_torch.small_segmenter import LEVELS, STRIDES, SmallSegmenterConfig
from training.chunks import Chunk, missing_chunks, run_in_processes
from training.segmenter.images import LabeledImage

CHUNK = 25  # images in a file: what a stop can lose
_PIXELS, _IDS, _MAPS = "pixels", "ids", "maps"
Source = Callable[[], Callable[[int], LabeledImage]]
"""Called once in each process; what it returns gives an image by its number."""


class Window(NamedTuple):
    """A part of an image in pixels, multiples of the coarsest stride."""

    top: int
    left: int
    height: int
    width: int


class ImageFeatures(NamedTuple):
    """A part of a labeled image: uint8 [H, W, 3], uint8 [H, W], and float32 maps [C, H / stride, W / stride]."""

    pixels: np.ndarray
    ids: np.ndarray
    maps: list[np.ndarray]


class FeatureFolder:
    """Labeled images with features, as `compute_features` has written them. Files are mapped, not read.

    Args:
        folder: Of the files.
        config: Of the model.
    """

    def __init__(self, folder: Path, config: SmallSegmenterConfig) -> None:
        self._folder, self._config = folder, config
        self._starts = sorted(int(file.name.split(".")[0]) for file in folder.glob(f"*.{_MAPS}.npy"))
        self._open: dict[int, tuple[np.ndarray, ...]] = {}
        self._count = sum(len(self._arrays(start)[0]) for start in self._starts)

    def __len__(self) -> int:
        return self._count

    def read(self, number: int, window: Window | None = None) -> ImageFeatures:
        """Return an image by number, or a window of it."""
        pixels, ids, maps = self._arrays(self._starts[number // CHUNK])
        row = number % CHUNK
        top, left, height, width = window or Window(0, 0, self._config.height, self._config.width)
        rows, columns = slice(top, top + height), slice(left, left + width)
        found, start = [], 0
        for channels, stride in zip(LEVELS, STRIDES, strict=True):
            shape = (channels, self._config.height // stride, self._config.width // stride)
            level = maps[row, start : start + int(np.prod(shape))].reshape(shape)
            start += int(np.prod(shape))
            part = level[:, top // stride : (top + height) // stride, left // stride : (left + width) // stride]
            found.append(part.astype(np.float32))
        return ImageFeatures(np.array(pixels[row, rows, columns]), np.array(ids[row, rows, columns]), found)

    def _arrays(self, start: int) -> tuple[np.ndarray, ...]:
        if start not in self._open:
            names = (_PIXELS, _IDS, _MAPS)
            self._open[start] = tuple(np.load(_file(self._folder, start, name), mmap_mode="r") for name in names)
        return self._open[start]


def compute_features(
    folder: Path,
    tower: Path,
    config: SmallSegmenterConfig,
    source: Source,
    count: int,
    workers: int,
    known: Callable[[int], None],
    progress: Callable[[int], None],
) -> None:
    """Make images 0 .. count-1 and compute their features into `folder`; files that are there are kept.

    Args:
        folder: Gets three files for every CHUNK images.
        tower: The graph of `export.graph_small_segmenter.build_tower`.
        config: Of the model.
        source: Gives the images.
        count: Number of images.
        workers: Number of processes.
        known: Called with the numbers of images that were there before.
        progress: Called with the number of images that became ready; what it raises ends the computation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = missing_chunks(count, CHUNK, lambda start, _: _file(folder, start, _MAPS).is_file(), known)
    work, start = partial(_compute, folder, config), partial(_start, tower, source)
    if min(workers, len(chunks)) == 1:
        start()
        for chunk in chunks:
            progress(work(chunk))
        return
    run_in_processes(work, chunks, min(workers, max(1, len(chunks))), progress, start)


def _file(folder: Path, start: int, name: str) -> Path:
    return folder / f"{start:07d}.{name}.npy"


class _State(NamedTuple):
    session: onnxruntime.InferenceSession
    image_of: Callable[[int], LabeledImage]


_STATE: list[_State] = []  # of a worker process


def _start(tower: Path, source: Source) -> None:
    cv2.setNumThreads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(tower), options, providers=["CPUExecutionProvider"])
    _STATE[:] = [_State(session, source())]


def _compute(folder: Path, config: SmallSegmenterConfig, chunk: Chunk) -> int:
    state = _STATE[0]
    images = [state.image_of(number) for number in range(*chunk)]
    maps = []
    for image in images:
        pixels = (image.pixels.astype(np.float32) - config.image_mean) / config.image_std
        levels = state.session.run(None, {"image": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])})
        maps.append(np.concatenate([level.ravel() for level in levels]).astype(np.float16))
    arrays = {_PIXELS: [one.pixels for one in images], _IDS: [one.ids for one in images], _MAPS: maps}
    for name, rows in arrays.items():  # the maps last: their file says that all are there
        path = _file(folder, chunk[0], name)
        partial_file = path.with_name(f".{path.name}")
        np.save(partial_file, np.stack(rows))
        os.replace(partial_file, path)
    return chunk[1] - chunk[0]
