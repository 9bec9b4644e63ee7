"""Keys and values of the decoder's rows, kept in buffers on the engine's device and written there by the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from osprey_ros.engines.base import Buffer, Engine

# Buffers grow to multiples of this, so that questions of about the same length share one allocation.
_GRANULE = 64


class KeyValueRows:
    """``count`` buffers [capacity, ...], keys and values of each layer in turn, filled to the same row.

    Nothing is ever given back: the buffers stay as large as they once had to be.

    Args:
        row_shape: of the keys or values of a row. batch: whether the engine takes and gives them as a batch of one.
        before_moving: called before rows move to larger buffers. Whoever has views of them then must let them go.
    """

    def __init__(
        self,
        engine: Engine,
        count: int,
        row_shape: tuple[int, ...],
        dtype: np.dtype,
        batch: bool,
        before_moving: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._row_shape = row_shape
        self._batch = batch
        self._dtype = dtype
        self._buffers: list[Buffer] = [engine.buffer((0, *row_shape), dtype) for _ in range(count)]
        self.capacity = 0
        self.length = 0
        self._before_moving = before_moving

    def reserve(self, capacity: int) -> None:
        """Makes room for at least ``capacity`` rows in all; those that are there stay."""
        if capacity <= self.capacity:
            return
        capacity = -(-capacity // _GRANULE) * _GRANULE
        self._before_moving()
        # One after another: at no time are there two copies of all.
        for index, old in enumerate(self._buffers):
            larger = self._engine.buffer((capacity, *self._row_shape), self._dtype)
            if self.length:
                larger.write(old.rows(0, self.length).read())
            self._buffers[index] = larger
        self.capacity = capacity

    def views(self, names: Sequence[str], start: int, stop: int) -> dict[str, Buffer]:
        """The rows ``start`` to ``stop`` (not included) of each buffer, under these names in their order."""
        batch = self._batch
        return {name: buffer.rows(start, stop, batch) for name, buffer in zip(names, self._buffers, strict=True)}

    def keep(self, rows: np.ndarray, start: int) -> None:
        """Moves these of the rows behind the first ``start`` next to those, and forgets the others.

        ``rows``: integers in rising order, counted from ``start``.
        """
        for buffer in self._buffers:
            buffer.write(buffer.rows(start, self.length).read()[rows], start)
        self.length = start + len(rows)
