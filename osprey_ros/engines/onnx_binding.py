"""Memory of the host as buffers, bound to a session of onnxruntime for repeated runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from osprey_ros.engines.base import Buffer, Inputs
from osprey_ros.errors import EngineError, OspreyError, StoppedError
from osprey_ros.system.cancellation import CancellationToken

NO_OPTIONS = nullcontext(None)  # of a run that nothing cancels

# Values of ONNX's enumeration TensorProto.DataType.
_ONNX_TYPES = {
    np.dtype(dtype): number
    for dtype, number in (
        (np.float32, 1),
        (np.uint8, 2),
        (np.int32, 6),
        (np.int64, 7),
        (np.bool_, 9),
        (np.float16, 10),
        (np.float64, 11),
    )
}


class HostBuffer:
    """A `Buffer` in host memory: rows of a contiguous numpy array."""

    __slots__ = ("array", "dtype", "shape")
    device = "cpu"

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    @property
    def pointer(self) -> int:
        return int(self.array.ctypes.data)

    def write(self, array: np.ndarray, row: int = 0) -> None:
        self.array[row : row + len(array)] = array

    def read(self) -> np.ndarray:
        return self.array

    def rows(self, start: int, stop: int, batch: bool = False) -> HostBuffer:
        return HostBuffer(self.array[None, start:stop] if batch else self.array[start:stop])

    def copy(self, source: Buffer, row: int = 0) -> None:
        self.write(source.read(), row)

    def gather(self, rows: np.ndarray) -> HostBuffer:
        return HostBuffer(self.array[rows])


class Binding:
    """Memory bound to the inputs and outputs of a session. onnxruntime allocates the outputs that have no buffer.

    Args:
        session: The session of onnxruntime.
        device: Device of its buffers.
        path: File of the graph, for messages.
    """

    def __init__(self, session: Any, device: str, path: str) -> None:
        from onnxruntime import OrtValue

        self._session, self._device, self._path = session, device, path
        self._binding = session.io_binding()
        self._wrap = OrtValue.ortvalue_from_numpy_with_onnx_type
        self._bound: dict[str, tuple[int, tuple[int, ...]]] = {}  # device buffers that are bound: address and shape
        self._held: dict[str, np.ndarray] = {}  # some versions of onnxruntime (1.27) do not keep arrays alive

    def __call__(self, cancel: CancellationToken | None = None) -> None:
        """Run once; see `osprey_ros.engines.base.BoundRun`."""
        try:
            with NO_OPTIONS if cancel is None else run_options(cancel) as options:
                self.run((), options)
        except Exception as error:  # onnxruntime's exceptions share no base class below Exception
            raise failure(self._path, error, cancel) from error

    def take(self, inputs: Inputs, into: Mapping[str, Buffer]) -> None:
        """Bind inputs and outputs. Device buffers that are bound already are skipped."""
        for name, value in inputs.items():
            self._input(name, value)
        for name, buffer in into.items():
            self._output(name, buffer)

    def _input(self, name: str, value: np.ndarray | Buffer) -> None:
        # Binding an array is many times faster than binding its address. Arrays are copied to another device.
        if isinstance(value, HostBuffer | np.ndarray):
            array = value.array if isinstance(value, HostBuffer) else np.ascontiguousarray(value)
            self._held[name] = array
            self._binding.bind_cpu_input(name, array)
            self._bound.pop(name, None)
        elif self._is_new(name, value):
            self._binding.bind_input(name, self._device, 0, value.dtype, value.shape, value.pointer)

    def _output(self, name: str, buffer: Buffer) -> None:
        if isinstance(buffer, HostBuffer):
            array = self._held[name] = buffer.array
            self._binding.bind_ortvalue_output(name, self._wrap(array, _ONNX_TYPES[array.dtype]))
        elif self._is_new(name, buffer):
            self._binding.bind_output(name, self._device, 0, buffer.dtype, buffer.shape, buffer.pointer)

    def _is_new(self, name: str, buffer: Buffer) -> bool:
        place = (buffer.pointer, buffer.shape)
        if self._bound.get(name) == place:
            return False
        self._bound[name] = place
        return True

    def run(self, names: Sequence[str], options: Any = None) -> dict[str, np.ndarray]:
        """Run with onnxruntime's RunOptions, if any, and return copies of these outputs."""
        for name in names:
            self._binding.bind_output(name, "cpu")  # releases the memory of the previous run, whose shape can differ
        self._session.run_with_iobinding(self._binding, options)
        if not names:
            return {}
        values = self._binding.get_outputs()
        # Outputs are in the order in which they were first bound: buffers, then these.
        return {name: value.numpy() for name, value in zip(names, values[len(values) - len(names) :], strict=True)}


@contextmanager
def run_options(cancel: CancellationToken) -> Iterator[Any]:
    """Yield RunOptions that end their run when ``cancel`` is called."""
    from onnxruntime import RunOptions

    options = RunOptions()
    remove = cancel.add_callback(partial(setattr, options, "terminate", True))
    try:
        yield options
    finally:
        remove()


def failure(path: str, error: Exception, cancel: CancellationToken | None = None) -> OspreyError:
    """Return the error to raise for an exception of onnxruntime in a run of a graph."""
    if cancel is not None and cancel.canceled:
        return StoppedError(f"a run of {path} was canceled")
    return EngineError(f"{path} failed: {' '.join(str(error).split())}")
