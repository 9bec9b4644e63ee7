"""Memory of an NVIDIA GPU through ctypes: allocate, copy and synchronize without compiled code.

It calls the library of the driver (libcuda) and not of the runtime (libcudart): every machine with a driver has it,
under one name, and its functions are the same in all versions of CUDA. Memory is allocated in the primary context of
the device, which TensorRT and onnxruntime use, too.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from osprey_ros.errors import EngineError

if TYPE_CHECKING:
    from osprey_ros.engines.base import Buffer

LIBRARY = "libcuda.so.1"
# bytes; TensorRT needs addresses that are multiples of it, and the driver returns such addresses
ALIGNMENT = 256

# From cuda.h.
_OUT_OF_MEMORY = 2
_NO_DEVICE = 100
_NON_BLOCKING_STREAM = 1
_MULTIPROCESSORS = 16
_CAPABILITY_MAJOR = 75
_CAPABILITY_MINOR = 76


class Cuda:
    """The first GPU, with a stream of its own in which work is queued.

    Attributes:
        name: Name of the GPU.
        compute_capability: Such as "8.7".
        multiprocessors: Number of active multiprocessors.
        driver: Newest CUDA version that the driver supports, such as "12.6".
        stream: Handle of the stream.

    Raises EngineError if there is no driver or no GPU.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise EngineError(
                f"this machine has no NVIDIA driver ({error}); use a bundle that was built for the device 'cpu'"
            ) from error
        self._call("cuInit", ctypes.c_uint(0))
        number, device = ctypes.c_int(), ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(number))
        self.driver = f"{number.value // 1000}.{number.value % 1000 // 10}"
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, ctypes.c_int(len(name)), device)
        self.name = name.value.decode(errors="replace")
        major, minor = (self._attribute(a, device) for a in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
        self.compute_capability = f"{major}.{minor}"
        self.multiprocessors = self._attribute(_MULTIPROCESSORS, device)
        self._context = ctypes.c_void_p()
        # Never released: the last release would end the context for all of this process.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.enter()
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING_STREAM))
        weakref.finalize(self, self._library.cuStreamDestroy_v2, stream)
        self.stream = int(stream.value or 0)

    def enter(self) -> None:
        """Make the GPU current for the calls of this thread."""
        self._call("cuCtxSetCurrent", self._context)

    def buffer(self, shape: Sequence[int], dtype: np.dtype | type) -> DeviceBuffer:
        """Allocate memory filled with zeros. Raises EngineError if there is too little."""
        self.enter()
        memory = _Memory(self, int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
        self.synchronize()  # other streams, such as onnxruntime's, may use it at once
        return DeviceBuffer(self, memory, memory.pointer, tuple(shape), np.dtype(dtype))

    def upload(self, pointer: int, array: np.ndarray) -> None:
        """Queue a copy of a contiguous array to the GPU. Keep the array alive until `synchronize`."""
        if array.nbytes:
            address = ctypes.c_void_p(array.ctypes.data)
            self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(pointer), address, *self._size_and_stream(array.nbytes))

    def download(self, array: np.ndarray, pointer: int) -> None:
        """Queue a copy from the GPU into a contiguous array. It is complete after `synchronize`."""
        if array.nbytes:
            address = ctypes.c_void_p(array.ctypes.data)
            self._call("cuMemcpyDtoHAsync_v2", address, ctypes.c_uint64(pointer), *self._size_and_stream(array.nbytes))

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Queue a copy within the memory of the GPU."""
        if nbytes:
            pointers = (ctypes.c_uint64(target), ctypes.c_uint64(source))
            self._call("cuMemcpyDtoDAsync_v2", *pointers, *self._size_and_stream(nbytes))

    def synchronize(self) -> None:
        """Wait until all queued work is complete. Raises EngineError if it failed."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def _size_and_stream(self, nbytes: int) -> tuple[ctypes.c_size_t, ctypes.c_void_p]:
        return ctypes.c_size_t(nbytes), ctypes.c_void_p(self.stream)

    def _attribute(self, attribute: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), device)
        return value.value

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status != 0:
            raise EngineError(self._message(function, status))

    def _message(self, function: str, status: int) -> str:
        if status == _NO_DEVICE:
            return "this machine has an NVIDIA driver but no GPU; use a bundle that was built for the device 'cpu'"
        if status == _OUT_OF_MEMORY:
            return "the GPU is out of memory; close other programs that use it, or use a smaller bundle"
        message = ctypes.c_char_p()
        self._library.cuGetErrorString(ctypes.c_int(status), ctypes.byref(message))
        text = message.value.decode(errors="replace") if message.value else "unknown error"
        return f"the GPU driver failed in {function}: {text} ({status}); see `nvidia-smi` and the system log"


class DeviceBuffer:
    """A `Buffer` on the GPU, made by `Cuda.buffer`."""

    device = "cuda"

    def __init__(self, cuda: Cuda, memory: _Memory, pointer: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._cuda = cuda
        self._memory = memory  # shared by all views of it
        self.pointer = pointer
        self.shape = shape
        self.dtype = dtype
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize

    def write(self, array: np.ndarray, row: int = 0) -> None:
        self._check_rows(array.dtype, array.shape, row)
        array = np.ascontiguousarray(array)
        self._cuda.enter()
        self._cuda.upload(self.rows(row, row + len(array)).pointer, array)
        self._cuda.synchronize()

    def read(self) -> np.ndarray:
        array = np.empty(self.shape, self.dtype)
        self._cuda.enter()
        self._cuda.download(array, self.pointer)
        self._cuda.synchronize()
        return array

    def rows(self, start: int, stop: int, batch: bool = False) -> DeviceBuffer:
        if not 0 <= start <= stop <= self.shape[0]:
            raise EngineError(f"rows {start} to {stop} are not in a buffer of {self.shape[0]} rows")
        row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        shape = (stop - start, *self.shape[1:])
        pointer = self.pointer + start * row_bytes
        return DeviceBuffer(self._cuda, self._memory, pointer, (1, *shape) if batch else shape, self.dtype)

    def copy(self, source: Buffer, row: int = 0) -> None:
        self._check_rows(source.dtype, source.shape, row)
        target = self.rows(row, row + source.shape[0])
        self._cuda.enter()
        self._cuda.copy(target.pointer, source.pointer, target.nbytes)
        self._cuda.synchronize()  # engines use streams of their own

    def gather(self, rows: np.ndarray) -> DeviceBuffer:
        # One copy for each run of consecutive rows.
        gathered = self._cuda.buffer((len(rows), *self.shape[1:]), self.dtype)
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        stops = np.append(starts[1:], len(rows))[: len(starts)]
        self._cuda.enter()
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            source = self.rows(int(rows[start]), int(rows[stop - 1]) + 1)
            self._cuda.copy(gathered.rows(start, stop).pointer, source.pointer, source.nbytes)
        self._cuda.synchronize()
        return gathered

    def _check_rows(self, dtype: np.dtype, shape: tuple[int, ...], row: int) -> None:
        if dtype != self.dtype or shape[1:] != self.shape[1:] or not 0 <= row <= self.shape[0] - shape[0]:
            raise EngineError(f"{dtype} {shape} cannot be written to row {row} of a {self.dtype} {self.shape} buffer")


class _Memory:
    """An allocation, freed with the last reference to it. Filling it with zeros is queued."""

    def __init__(self, cuda: Cuda, nbytes: int) -> None:
        # Never empty: TensorRT needs an address even for tensors without elements.
        size = max(nbytes, ALIGNMENT)
        pointer = ctypes.c_uint64()
        cuda._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
        self.pointer = int(pointer.value)
        weakref.finalize(self, _free, cuda, self.pointer)
        cuda._call("cuMemsetD8Async", pointer, ctypes.c_ubyte(0), *cuda._size_and_stream(size))


def _free(cuda: Cuda, pointer: int) -> None:
    cuda.enter()
    cuda._library.cuMemFree_v2(ctypes.c_uint64(pointer))
