"""The cache of keys and values: it grows and is compacted on its device."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from osprey_ros.decoding.kv_cache import HIDDEN, BranchCache, KVCache
from osprey_ros.engines.base import Buffer


class DeviceBuffer:
    """Memory that the host cannot reach: only copies on the device are possible. ``copied`` counts rows."""

    copied = 0

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def read(self) -> np.ndarray:
        raise AssertionError("rows passed through the host")

    def write(self, array: np.ndarray, row: int = 0) -> None:
        raise AssertionError("rows passed through the host")

    def rows(self, start: int, stop: int, batch: bool = False) -> DeviceBuffer:
        return DeviceBuffer(self.array[start:stop])

    def copy(self, source: Any, row: int = 0) -> None:
        assert not np.shares_memory(self.array[row : row + len(source.array)], source.array)
        self.array[row : row + len(source.array)] = source.array
        DeviceBuffer.copied += len(source.array)

    def gather(self, rows: np.ndarray) -> DeviceBuffer:
        return DeviceBuffer(self.array[rows])


def _buffer(shape: Sequence[int], dtype: np.dtype) -> Buffer:
    return DeviceBuffer(np.zeros(shape, dtype))  # type: ignore[return-value]


@pytest.fixture
def cache() -> KVCache:
    engine: Any = SimpleNamespace(buffer=_buffer)
    return KVCache(engine, 3, (2,), np.dtype(np.float32), False, lambda: None)


def _fill(cache: KVCache, start: int, stop: int) -> None:
    for number, view in enumerate(cache.views(("kvw", start, stop)).values()):
        view.array[:] = 100 * number + np.arange(start, stop)[:, None]  # type: ignore[attr-defined]


def _contents(cache: KVCache) -> list[list[float]]:
    return [view.array[:, 0].tolist() for view in cache.views(("kvw", 0, cache.length)).values()]  # type: ignore[attr-defined]


def test_growing_keeps_all_rows_on_the_device(cache: KVCache) -> None:
    cache.reserve(10)
    assert cache.capacity == 64
    cache.length = 60
    _fill(cache, 0, 60)
    before = DeviceBuffer.copied
    cache.reserve(100)
    assert cache.capacity == 128
    assert DeviceBuffer.copied - before == 3 * 60
    assert _contents(cache) == [[100 * number + row for row in range(60)] for number in range(3)]


def test_compacting_moves_the_rows_that_stay_together(cache: KVCache) -> None:
    cache.reserve(64)
    cache.length = 20
    _fill(cache, 0, 20)
    cache.compact(np.array([0, 3, 4, 9]), start=10)
    assert cache.length == 14
    expected = [*range(10), 10, 13, 14, 19]
    assert _contents(cache) == [[100 * number + row for row in expected] for number in range(3)]


def test_rows_of_ended_branches_leave_when_they_are_half_of_all(cache: KVCache) -> None:
    cache.reserve(8)
    cache.length = 8  # a prefix
    branches = BranchCache(cache, most_rows=1 << 20)
    branches.reset(8)
    branches.start(np.array([0, 1]))
    for _ in range(70):
        branches.reserve(2)
        _fill(cache, cache.length, cache.length + 2)
        branches.append(np.array([0, 1]))
    branches.drop(np.array([0]))
    branches.reserve(1)
    assert cache.length == 8 + 70  # those of branch 1
    assert _contents(cache)[0][8:] == list(range(9, 148, 2))
    mask = branches.mask(np.array([1]))
    assert mask.shape == (1, 71)
    assert not (mask == HIDDEN).any()
