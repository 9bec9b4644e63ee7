"""One small interface to whatever runs an engine file; each runtime is a module, imported when asked for."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from osprey_ros.errors import EngineError
from osprey_ros.system.cancellation import CancellationToken

DEVICES = ("cpu", "cuda")
UNBOUNDED = sys.maxsize  # rows
_LOGGER = logging.getLogger(__name__)


class Buffer(Protocol):
    """Memory on an engine's device that engines read and write in place: contiguous, first axis outermost."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> np.dtype:
        """Element type."""

    @property
    def device(self) -> str:
        """Where the memory lies: one of DEVICES."""

    @property
    def pointer(self) -> int:
        """Address of the first element, on the device."""

    def write(self, array: np.ndarray, row: int = 0) -> None:
        """Copies ``array`` [n, ...] of the buffer's dtype over the rows ``row`` to ``row + n``."""

    def read(self) -> np.ndarray:
        """The contents. On the CPU this is the memory itself, elsewhere a copy: do not write into it."""

    def rows(self, start: int, stop: int, batch: bool = False) -> Buffer:
        """The rows ``start`` to ``stop`` (not included) of the same memory, which stays alive with the view.

        With ``batch`` they are a batch of one, as engines may want them: an axis of length 1 comes before the others.
        """

    def copy(self, source: Buffer, row: int = 0) -> None:
        """Copy all rows of ``source``, [n, ...] on the same device, over rows ``row`` to ``row + n`` of this buffer.

        The memory must not overlap. Nothing passes through the host.
        """

    def gather(self, rows: np.ndarray) -> Buffer:
        """Return a new buffer on the same device with these rows, integers [n], without passing through the host."""


class BoundRun(Protocol):
    """A run of an engine with bound inputs and outputs, see `Engine.bind`."""

    def __call__(self, cancel: CancellationToken | None = None) -> object:
        """Run once. Raises StoppedError if ``cancel`` ends the run, and EngineError if it fails."""


class Engine(Protocol):
    """A loaded engine: named arrays in, named arrays out. Use it from one thread at a time."""

    @property
    def device(self) -> str:
        """Where its buffers lie: one of DEVICES."""

    @property
    def interruptible(self) -> bool:
        """Whether a run ends soon when it is canceled. Otherwise cancellation takes effect before the next run."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs."""

    @property
    def input_shapes(self) -> Mapping[str, tuple[int | str, ...]]:
        """Shape of each input; a string names an axis whose length is known at run time only."""

    @property
    def input_dtypes(self) -> Mapping[str, np.dtype]:
        """Element type of each input."""

    @property
    def output_dtypes(self) -> Mapping[str, np.dtype]:
        """Element type of each output."""

    def most_rows(self, name: str) -> int:
        """How long the first axis of an input may be in one run, UNBOUNDED where the engine sets no bound."""

    def buffer(self, shape: Sequence[int], dtype: np.dtype | type) -> Buffer:
        """New memory on the device, filled with zeros. Raises EngineError if there is not enough."""

    def run(
        self,
        inputs: Mapping[str, np.ndarray | Buffer],
        outputs: Sequence[str] | None = None,
        into: Mapping[str, Buffer] | None = None,
        cancel: CancellationToken | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs once and returns the wanted outputs as arrays in host memory.

        Args:
            inputs: an array (copied to the device where that is another memory) or a buffer for every input.
            outputs: names of those to return, by default all that are not in ``into``.
            into: buffers that outputs are written to, each of the very shape and dtype of its output. They are not
                returned. They may lie beside buffers that are read in the same run; they may overlap them only where
                the engine's graph is made for it (`export/graph_attention.py`).
            cancel: ends the run; what is in ``into`` then is undefined.

        Raises EngineError for inputs it refuses, StoppedError when canceled.
        """

    def bind(self, inputs: Mapping[str, np.ndarray | Buffer], into: Mapping[str, Buffer]) -> BoundRun:
        """Gets a run ready that is made whenever the returned function is called, with what is in the inputs then.

        Args:
            inputs: as for `run`; arrays contiguous. They and ``into`` stay alive with the function.
            into: as for `run`; other outputs are lost.

        Raises EngineError for inputs it refuses, here or in the run.
        """


def load_engine(
    path: str | os.PathLike[str], runtime: str = "onnxruntime", device: str = "cpu", threads: int | None = None
) -> Engine:
    """Loads an engine file.

    Args:
        path: the file; ``runtime``: "onnxruntime" or "tensorrt"; ``device``: one of DEVICES.
        threads: bounds the CPU threads (default: one per core).

    Raises EngineError for an unknown or missing runtime or device and for a file that it refuses.
    """
    if device not in DEVICES:
        raise EngineError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    if threads is not None and threads < 1:
        raise EngineError(f"threads is {threads}: it must be at least 1")
    _LOGGER.info("loading %s with %s on %s", path, runtime, device)
    if runtime == "onnxruntime":
        from osprey_ros.engines.onnxruntime import OnnxEngine

        return OnnxEngine(path, device, threads)
    if runtime == "tensorrt":
        if device != "cuda":
            raise EngineError(f"TensorRT runs on the device 'cuda' only, not on {device!r}: correct the manifest")
        from osprey_ros.engines.tensorrt import TensorRTEngine

        return TensorRTEngine(path)
    raise EngineError(f"unknown engine runtime {runtime!r}: this version has 'onnxruntime' and 'tensorrt'")
