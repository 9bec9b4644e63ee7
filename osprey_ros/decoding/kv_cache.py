"""Key-value cache of the decoder: buffers on the engine's device, and which branch each cached row belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from osprey_ros.engines.base import Buffer, Engine

HIDDEN = np.float32(-1e9)  # mask value of a pair without attention; finite, so that an empty row does not become NaN

_GRANULE = 64  # rows; buffers grow to multiples of it, so that questions of similar length share one allocation
_NO_BRANCH = -1  # owner of a row whose branch has ended
_MIN_COMPACTED_ROWS = 64  # fewer rows of ended branches are not worth a compaction


@dataclass(frozen=True)
class Prefix:
    """The first ``length`` rows of a decoder's cache.

    A decoder caches one prefix. Handles on rows that were overwritten since ``generation`` are refused.
    """

    length: int
    generation: int


NO_PREFIX = Prefix(0, 0)


class KVCache:
    """Keys and values of each layer in buffers [capacity, ...] that are filled up to the same row, ``length``.

    Memory is not released while the cache lives: the buffers keep their largest size.

    Args:
        engine: Allocates the buffers.
        count: Number of buffers, two for each layer.
        row_shape: Shape of the keys or values of one row.
        dtype: Element type.
        batched: Whether the engine takes rows as a batch of one.
        before_moving: Called before rows move to larger buffers, to release views of the old ones.
    """

    def __init__(
        self,
        engine: Engine,
        count: int,
        row_shape: tuple[int, ...],
        dtype: np.dtype,
        batched: bool,
        before_moving: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._row_shape = row_shape
        self._batched = batched
        self._dtype = dtype
        self._buffers: list[Buffer] = [engine.buffer((0, *row_shape), dtype) for _ in range(count)]
        self.capacity = 0
        self.length = 0
        self._before_moving = before_moving

    def reserve(self, capacity: int) -> None:
        """Grow the buffers to at least ``capacity`` rows. The cached rows are copied on the device."""
        if capacity <= self.capacity:
            return
        capacity = -(-capacity // _GRANULE) * _GRANULE
        self._before_moving()
        # One buffer after another: there is never a second copy of all of them.
        for index, old in enumerate(self._buffers):
            larger = self._engine.buffer((capacity, *self._row_shape), self._dtype)
            if self.length:
                larger.copy(old.rows(0, self.length))
            self._buffers[index] = larger
        self.capacity = capacity

    def views(self, *parts: tuple[Sequence[str], int, int]) -> dict[str, Buffer]:
        """Return rows start to stop (exclusive) of each buffer, for each (names of the buffers, start, stop)."""
        return {
            name: buffer.rows(start, stop, self._batched)
            for names, start, stop in parts
            for name, buffer in zip(names, self._buffers, strict=True)
        }

    def compact(self, rows: np.ndarray, start: int) -> None:
        """Keep only these rows behind the first ``start`` ones, moved together on the device.

        Args:
            rows: Ascending integers, counted from ``start``.
            start: Number of leading rows that stay where they are.
        """
        for buffer in self._buffers:
            buffer.copy(buffer.rows(start, self.length).gather(rows), start)
        self.length = start + len(rows)


class BranchCache:
    """The rows of a cache behind its prefix, in the order of their computation, and the branch of each.

    Rows of ended branches stay until they are as many as the others; then the cache is compacted. So it holds at most
    twice the rows that are needed, and each row moves about once. It is compacted earlier if it would hold more rows
    than the engine takes.

    Args:
        cache: Where the rows are.
        most_rows: The most rows of branches that the engine takes.
    """

    def __init__(self, cache: KVCache, most_rows: int) -> None:
        self._cache = cache
        self._most_rows = most_rows
        self.first = 0  # index of the first row behind the prefix
        self._owners = np.full(0, _NO_BRANCH, dtype=np.intp)  # one for each row of capacity
        self._stem_owners = np.zeros(0, dtype=np.intp)
        self._has_stems = False
        self._ended_rows = 0
        # Of the last run, if it had one row for each branch: owners, mask with spare columns, and columns in use.
        self._last: tuple[np.ndarray, np.ndarray, int] | None = None

    def reset(self, first: int) -> None:
        """Remove all rows of branches, and put later ones behind the first ``first`` rows of the cache."""
        self.first = self._cache.length = first
        self._ended_rows = 0
        self._last = None

    def start(self, stem_owners: np.ndarray) -> None:
        """Remove all rows of branches, for new branches with these stem owners (see `Branches`)."""
        self.reset(self.first)
        self._stem_owners = stem_owners
        self._has_stems = bool((stem_owners < 0).any())

    def reserve(self, count: int) -> None:
        """Make room for ``count`` more rows: compact the cache where that pays, then grow it if necessary."""
        length, cache = self._length, self._cache
        ended = self._ended_rows
        if ended and (ended >= max(_MIN_COMPACTED_ROWS, length - ended) or length > self._most_rows):
            live = np.flatnonzero(self._owners[:length] != _NO_BRANCH)
            cache.compact(live, self.first)
            self._owners[: len(live)] = self._owners[live]
            self._ended_rows = 0
            self._last = None
        if cache.length + count > cache.capacity:
            cache.reserve(max(cache.length + count, cache.capacity * 3 // 2))
        if cache.capacity - self.first > len(self._owners):
            owners = np.full(cache.capacity, _NO_BRANCH, dtype=np.intp)
            owners[: self._length] = self._owners[: self._length]
            self._owners = owners

    def append(self, owners: np.ndarray) -> None:
        """Count rows that the engine has written behind the others. ``owners``: integers [S], their branches."""
        length = self._length
        self._owners[length : length + len(owners)] = owners
        self._cache.length += len(owners)

    def drop(self, branches: np.ndarray) -> None:
        """Mark the rows of ended branches, integers [n], as not needed any more."""
        ended = np.zeros(len(self._stem_owners), dtype=bool)
        ended[branches] = True
        owned = self._owners[: self._length]
        gone = ended[np.maximum(owned, 0)] & (owned >= 0)
        owned[gone] = _NO_BRANCH
        self._ended_rows += int(np.count_nonzero(gone))
        if self._last is not None:
            owners, mask, columns = self._last
            stay = ~ended[np.maximum(owners, 0)]
            self._last = owners[stay], mask[stay], columns

    def mask(self, owners: np.ndarray, own: np.ndarray | None = None, prefix: int | None = None) -> np.ndarray:
        """Return the attention mask, float32 [S, B + S], of new rows over the cached rows and themselves.

        The result is a view of memory that the next call overwrites.

        Args:
            owners: Integers [S], the branch or stem of each new row. A row attends to earlier rows of its branch and
                to its stem. Rows of one branch are in order, and stems come before branches.
            own: bool [S, S], which new rows attend to which, where that differs from the rule above.
            prefix: If given, the mask also covers the rows of the prefix, and all rows attend to this many of them.
        """
        count, length = len(owners), self._length
        before = 0 if prefix is None else self.first
        past = before + length
        end = past + count
        if own is None and self._last is not None:
            last_owners, mask, columns = self._last
            same = owners is last_owners or np.array_equal(owners, last_owners)
            if same and columns == past and end <= mask.shape[1]:
                # The same branches as in the previous step: each row also attends to the previous row and to itself.
                mask.reshape(-1)[past :: mask.shape[1] + 1][:count] = 0
                self._last = owners, mask, end
                return mask[:, :end]
        all_owners = np.concatenate([self._owners[:length], owners])
        visible = owners[:, None] == all_owners
        if self._has_stems:
            stems = np.where(owners >= 0, self._stem_owners[np.maximum(owners, 0)], owners)
            visible |= stems[:, None] == all_owners
        visible[:, length:] &= np.tri(count, dtype=bool) if own is None else own
        one_each = own is None and count <= len(self._stem_owners) and len(set(owners.tolist())) == count
        mask = np.full((count, before + len(self._owners) if one_each else end), HIDDEN)
        mask[:, : prefix or 0] = 0
        mask[:, before:end][visible] = 0
        self._last = (owners, mask, end) if one_each else None
        return mask[:, :end]

    @property
    def _length(self) -> int:
        return self._cache.length - self.first
