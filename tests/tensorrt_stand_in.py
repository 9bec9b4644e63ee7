"""Stands in for TensorRT's runtime and a GPU: the same calls, executed by onnxruntime in host memory.

It tests our side of these calls: names, shapes, addresses, copies, what is kept and what is rejected. The names of
TensorRT's own members are tested in test_tensorrt_contract.py, TensorRT itself only on a machine with a GPU.
"""

from __future__ import annotations

import ctypes
import enum
import json
import subprocess
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx_session import open_session

# The functions of the driver over malloc. The device has 1 GiB. Memory is filled when the stream is synchronized or
# before the next copy in it.
_DRIVER = """
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
static int live = 0;
static uint64_t unfilled = 0;
static size_t unfilled_size = 0;
static unsigned char filling = 0;
static int fill(void *s) {
    if (s != (void *)7) return 400;
    if (unfilled) memset((void *)unfilled, filling, unfilled_size);
    unfilled = 0;
    return 0;
}
int live_allocations(void) { return live; }
int cuInit(unsigned f) { return 0; }
int cuDriverGetVersion(int *v) { *v = 12060; return 0; }
int cuDeviceGet(int *d, int i) { *d = 0; return 0; }
int cuDeviceGetName(char *n, int length, int d) { strncpy(n, "Stand-in", length); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : a == 76 ? 7 : a == 16 ? 12 : -1; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)1; return 0; }
int cuCtxSetCurrent(void *c) { return c == (void *)1 ? 0 : 201; }
int cuStreamCreate(void **s, unsigned f) { *s = (void *)7; return 0; }
int cuStreamDestroy_v2(void *s) { return 0; }
int cuStreamSynchronize(void *s) { return fill(s); }
int cuMemAlloc_v2(uint64_t *p, size_t n) {
    if (n > ((size_t)1 << 30)) return 2;
    live++;
    *p = (uint64_t)aligned_alloc(256, (n + 255) / 256 * 256);
    memset((void *)*p, 0xff, n);
    return 0;
}
int cuMemFree_v2(uint64_t p) { live--; unfilled = p == unfilled ? 0 : unfilled; free((void *)p); return 0; }
int cuMemsetD8Async(uint64_t p, unsigned char v, size_t n, void *s) {
    if (fill(s)) return 400;
    unfilled = p; unfilled_size = n; filling = v;
    return 0;
}
static int copy(void *to, const void *from, size_t n, void *s) {
    if (fill(s)) return 400;
    memmove(to, from, n);
    return 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t n, void *s) { return copy((void *)to, from, n, s); }
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t n, void *s) { return copy(to, (void *)from, n, s); }
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, void *s) { return copy((void *)to, (void *)from, n, s); }
int cuGetErrorString(int status, const char **text) {
    *text = status == 400 ? "invalid resource handle" : "unknown";
    return 0;
}
"""


def compile_driver(folder: Path) -> Path:
    """Compiles the driver; `live_allocations()` in it counts what is not freed."""
    source, library = folder / "driver.c", folder / "driver.so"
    source.write_text(_DRIVER)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library


class ILogger:
    ERROR, INTERNAL_ERROR = range(2)


TensorIOMode = enum.Enum("TensorIOMode", ["INPUT", "OUTPUT"])


def nptype(trt_type: str) -> type:
    return {"float": np.float32, "float16": np.float16, "int64": np.int64}[trt_type]


def plan_bytes(graph: Path, profiles: Sequence[Mapping[str, Any]]) -> bytes:
    """Return a plan of the graph; a profile has the least, usual and greatest shape of each input."""
    return json.dumps(list(profiles)).encode() + b"\n" + onnx.load(graph).SerializeToString()


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        head, _, model = bytes(serialized_engine).partition(b"\n")
        try:
            return ICudaEngine(json.loads(head), model)
        except ValueError:
            self._logger.log(ILogger.ERROR, "the magic tag\ndoes not match")
            return None


class ICudaEngine:
    def __init__(self, profiles: list[dict[str, list[list[int]]]], model: bytes) -> None:
        self._profiles = profiles
        self._session = open_session(model)
        self._tensors = {t.name: t for t in (*self._session.get_inputs(), *self._session.get_outputs())}
        self._inputs = [t.name for t in self._session.get_inputs()]

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return self._tensors[name].type.removeprefix("tensor(").removesuffix(")")

    def get_tensor_shape(self, name: str) -> list[int]:
        return [-1 if isinstance(n, str) else n for n in self._tensors[name].shape]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        return self._profiles[profile_index].get(name, [self.get_tensor_shape(name)] * 3)

    def create_execution_context(self) -> IExecutionContext:
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._profile = engine, 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = profile_index
        return stream_handle == 7

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, greatest = self._engine.get_tensor_profile_shape(name, self._profile)
        self._shapes[name] = shape
        return all(a <= n <= b for a, n, b in zip(least, shape, greatest, strict=True))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory != 0 and memory % 256 == 0

    def infer_shapes(self) -> list[str]:
        return [name for name in self._engine._inputs if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """The axes of a tensor by their names, which the inputs have given lengths."""
        if name in self._shapes:
            return self._shapes[name]
        lengths: dict[str, int] = {}
        for known, shape in self._shapes.items():
            lengths |= {a: n for a, n in zip(self._engine._tensors[known].shape, shape, strict=True)}
        return tuple(lengths[n] if isinstance(n, str) else n for n in self._engine._tensors[name].shape)

    def execute_async_v3(self, stream_handle: int) -> bool:
        arrays = {name: self._array(name) for name in self._engine._tensors}
        outputs = [name for name in arrays if name not in self._engine._inputs]
        results = self._engine._session.run(outputs, {n: arrays[n].copy() for n in self._engine._inputs})
        for name, result in zip(outputs, results, strict=True):
            arrays[name][...] = result
        return stream_handle == 7

    def _array(self, name: str) -> np.ndarray:
        shape, dtype = self.get_tensor_shape(name), np.dtype(nptype(self._engine.get_tensor_dtype(name)))
        size = int(np.prod(shape)) * dtype.itemsize
        return np.frombuffer((ctypes.c_uint8 * size).from_address(self._addresses[name]), dtype).reshape(shape)


def make_module(version: str = "10.3.0") -> types.ModuleType:
    """Return a replacement for the module `tensorrt`."""
    module = types.ModuleType("tensorrt")
    for part in (ILogger, TensorIOMode, Runtime, ICudaEngine, IExecutionContext):
        setattr(module, part.__name__, part)
    module.nptype = nptype
    module.__version__ = version
    return module
