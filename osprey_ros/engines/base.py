"""The interface of engines. Each runtime is a module that `load_engine` imports when an engine needs it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from osprey_ros.errors import BundleError, EngineError
from osprey_ros.system.cancellation import CancellationToken

if TYPE_CHECKING:
    from osprey_ros.bundle.engine_bundle import EngineBundle

DEVICES = ("cpu", "cuda")
UNBOUNDED = sys.maxsize  # rows that an engine without a limit takes
# Options of `osprey build` with which an engine computes in float32.
PRECISION_OPTIONS = {
    "vision": "--vision fp32",
    "mask_extractor": "--mask-extractor fp32",
    "crop": "--vision fp32",
    "decoder": "--llm fp32 --lm-head fp32",
    "segmenter_encoder": "--precision fp32",
    "segmenter_decoder": "--precision fp32",
}
_LOGGER = logging.getLogger(__name__)


class Buffer(Protocol):
    """Contiguous memory on an engine's device, which engines read and write in place. The first axis holds rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> np.dtype:
        """Element type."""

    @property
    def device(self) -> str:
        """Device of the memory: one of DEVICES."""

    @property
    def pointer(self) -> int:
        """Address of the first element on the device."""

    def write(self, array: np.ndarray, row: int = 0) -> None:
        """Copy an array [n, ...] of the same dtype over rows ``row`` to ``row + n``."""

    def read(self) -> np.ndarray:
        """Return the contents: on the CPU the memory itself, otherwise a copy. Do not write into it."""

    def rows(self, start: int, stop: int, batch: bool = False) -> Buffer:
        """Return a view of rows ``start`` to ``stop`` (exclusive), which keeps the memory alive.

        ``batch`` puts an axis of length 1 in front, for engines with a batch axis.
        """

    def copy(self, source: Buffer, row: int = 0) -> None:
        """Copy all rows of ``source``, [n, ...] on the same device, over rows ``row`` to ``row + n`` of this buffer.

        The memory must not overlap. Nothing passes through the host.
        """

    def gather(self, rows: np.ndarray) -> Buffer:
        """Return a new buffer on the same device with these rows, integers [n], without passing through the host."""


Inputs: TypeAlias = Mapping[str, "np.ndarray | Buffer"]  # by the names of an engine's inputs


class BoundRun(Protocol):
    """A run of an engine with bound inputs and outputs, see `Engine.bind`."""

    def __call__(self, cancel: CancellationToken | None = None) -> object:
        """Run once. Raises StoppedError if ``cancel`` ends the run, and EngineError if it fails."""


class Engine(Protocol):
    """A loaded engine: named arrays in, named arrays out. Use it from one thread at a time."""

    @property
    def device(self) -> str:
        """Device of its buffers: one of DEVICES."""

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
        """Shape of each input. A string names an axis whose length varies between runs."""

    @property
    def input_dtypes(self) -> Mapping[str, np.dtype]:
        """Element type of each input."""

    @property
    def output_dtypes(self) -> Mapping[str, np.dtype]:
        """Element type of each output."""

    def most_rows(self, name: str) -> int:
        """Return the maximum length of the first axis of an input in one run; UNBOUNDED if there is no limit."""

    def buffer(self, shape: Sequence[int], dtype: np.dtype | type) -> Buffer:
        """Allocate memory on the device, filled with zeros. Raises EngineError if there is too little."""

    def run(
        self,
        inputs: Inputs,
        outputs: Sequence[str] | None = None,
        into: Mapping[str, Buffer] | None = None,
        cancel: CancellationToken | None = None,
    ) -> dict[str, np.ndarray]:
        """Run once and return outputs as arrays in host memory.

        Args:
            inputs: An array or a buffer for every input. Arrays are copied to the device if it has its own memory.
            outputs: Names of the outputs to return; by default all that are not in ``into``.
            into: Buffers for outputs, with exactly the shape and dtype of each. They are not returned. They may overlap
                buffers of inputs only if the graph of the engine allows it (`export/graph_attention.py`).
            cancel: Ends the run. The contents of ``into`` are then undefined.

        Raises EngineError for invalid inputs and if the run fails, StoppedError when canceled.
        """

    def bind(self, inputs: Inputs, into: Mapping[str, Buffer]) -> BoundRun:
        """Return a function that runs the engine on the contents that the inputs have when it is called.

        Args:
            inputs: As for `run`, arrays contiguous. The function keeps them and ``into`` alive.
            into: As for `run`. Other outputs are discarded.

        Raises EngineError for invalid inputs, here or in the run.
        """


def check_finite(output: np.ndarray, role: str) -> None:
    """Raise EngineError if an output of an engine has NaN or infinite values. ``role``: as in `Bundle.engine`."""
    # The sum is not finite if a value is not; it needs no copy of the array.
    with np.errstate(over="ignore", invalid="ignore"):
        total = output.sum(dtype=np.float32)
    if not np.isfinite(total) and not np.isfinite(output).all():
        raise EngineError(
            f"the {role.replace('_', ' ')} engine returned values that are not finite (NaN or infinity); "
            f"rebuild the bundle from an intact checkpoint, or with {PRECISION_OPTIONS[role]} if float16 overflows"
        )


def load_role(bundle: EngineBundle[Any], role: str, threads: int | None, output_name: str) -> Engine:
    """Load the engine of a role of a bundle. Raises EngineError as `load_engine` does, BundleError for a wrong file."""
    entry = bundle.engine(role)
    path = bundle.path(entry.file)
    engine = load_engine(path, entry.runtime, entry.device, threads)
    if output_name not in engine.output_names:
        raise BundleError(f"{path} has no output {output_name}: it is not the engine that its name says")
    return engine


def load_engine(
    path: str | os.PathLike[str], runtime: str = "onnxruntime", device: str = "cpu", threads: int | None = None
) -> Engine:
    """Load an engine file.

    Args:
        path: The file.
        runtime: "onnxruntime" or "tensorrt".
        device: One of DEVICES.
        threads: Maximum number of CPU threads; by default one for each core.

    Raises EngineError if the runtime or device is unknown or missing, or if the file cannot be loaded.
    """
    if device not in DEVICES:
        raise EngineError(f"unknown device {device!r}; choose one of {', '.join(DEVICES)}")
    if threads is not None and threads < 1:
        raise EngineError(f"threads is {threads}; it must be at least 1")
    _LOGGER.info("loading %s with %s on %s", path, runtime, device)
    if runtime == "onnxruntime":
        from osprey_ros.engines.onnxruntime import OnnxEngine

        return OnnxEngine(path, device, threads)
    if runtime == "tensorrt":
        if device != "cuda":
            raise EngineError(f"TensorRT runs on the device 'cuda' only, not on {device!r}; correct the manifest")
        from osprey_ros.engines.tensorrt import TensorRTEngine

        return TensorRTEngine(path)
    raise EngineError(f"unknown engine runtime {runtime!r}; choose 'onnxruntime' or 'tensorrt'")
