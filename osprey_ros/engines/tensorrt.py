"""TensorRT plans as engines: one code path for TensorRT 10.3 to 11.

A plan is loaded only if its fingerprint fits this machine (see `bundle.fingerprint`). It takes the shapes of its
optimization profiles; each run uses the first profile that takes all its shapes.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from osprey_ros.engines.base import BoundRun, Buffer, Inputs
from osprey_ros.engines.cuda import ALIGNMENT, Cuda, DeviceBuffer
from osprey_ros.engines.machine import check_plan, require_tensorrt
from osprey_ros.errors import EngineError
from osprey_ros.file_errors import os_reason
from osprey_ros.system.cancellation import CancellationToken

if TYPE_CHECKING:
    import tensorrt as trt


def make_logger(messages: list[str]) -> trt.ILogger:
    """Return a logger for TensorRT that appends errors to ``messages`` and drops everything else."""
    import tensorrt as trt

    class Logger(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                messages.append(" ".join(msg.split()))

    return Logger()


class TensorRTEngine:
    """An `Engine` that runs a plan. Arrays are copied to the GPU for each run, buffers are used in place."""

    device = "cuda"
    interruptible = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        require_tensorrt()
        import tensorrt as trt

        self._path = os.fspath(path)
        check_plan(Path(path))
        self._cuda = Cuda()
        self._errors: list[str] = []
        runtime = trt.Runtime(make_logger(self._errors))
        try:
            # Mapped, because a copy would take memory that the GPU of a Jetson shares. Not by numpy, because TensorRT
            # 10.3 reads the address while other Python threads may run.
            with open(self._path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                engine = runtime.deserialize_cuda_engine(data)
        except OSError as error:
            raise EngineError(f"{self._path} cannot be read: {os_reason(error)}") from error
        except ValueError as error:  # mmap refuses a file without bytes
            raise EngineError(f"{self._path} is empty; copy the bundle again") from error
        if engine is None:
            raise EngineError(f"TensorRT refuses {self._path}: {self._last_errors()}")
        self._runtime = runtime  # an engine needs the runtime that made it
        self._engine: trt.ICudaEngine = engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        outputs = [n for n in names if n not in inputs]
        self.input_names = tuple(inputs)
        self.output_names = tuple(outputs)
        self.input_dtypes = {n: np.dtype(trt.nptype(engine.get_tensor_dtype(n))) for n in inputs}
        self.output_dtypes = {n: np.dtype(trt.nptype(engine.get_tensor_dtype(n))) for n in outputs}
        # A plan does not store the names of variable axes.
        self.input_shapes: dict[str, tuple[int | str, ...]] = {
            n: tuple(
                length if length >= 0 else f"{n}[{axis}]" for axis, length in enumerate(engine.get_tensor_shape(n))
            )
            for n in inputs
        }
        self._profiles = [_ShapeRange(engine, index, inputs) for index in range(engine.num_optimization_profiles)]
        self._contexts: dict[int, trt.IExecutionContext] = {}
        # Device memory for copies from and to the host, by tensor name. It grows to the largest size needed.
        self._staging: dict[str, DeviceBuffer] = {}

    def most_rows(self, name: str) -> int:
        return max(profile.greatest(name)[0] for profile in self._profiles)

    def buffer(self, shape: Sequence[int], dtype: np.dtype | type) -> DeviceBuffer:
        return self._cuda.buffer(shape, dtype)

    def run(
        self,
        inputs: Inputs,
        outputs: Sequence[str] | None = None,
        into: Mapping[str, Buffer] | None = None,
        cancel: CancellationToken | None = None,
    ) -> dict[str, np.ndarray]:
        if cancel is not None:
            cancel.check(f"a run of {self._path}")
        targets = dict(into or {})
        wanted = [n for n in self.output_names if n not in targets] if outputs is None else list(outputs)
        self._check(inputs, [*wanted, *targets])
        self._cuda.enter()
        context = self._context({name: tuple(inputs[name].shape) for name in self.input_names})
        alive = [self._bind_input(context, name, inputs[name]) for name in self.input_names]
        try:
            unknown = context.infer_shapes()
        except RuntimeError as error:
            raise EngineError(f"{self._path} failed: {error}: {self._last_errors()}") from error
        if unknown:
            raise EngineError(f"{self._path} failed: TensorRT does not know the shape of {', '.join(unknown)}")
        # Every output needs memory. `moved` are outputs that are copied to their buffers after the run.
        moved: list[tuple[Buffer, DeviceBuffer]] = []
        results: dict[str, tuple[np.ndarray, int]] = {}
        for name in self.output_names:
            shape, dtype = tuple(context.get_tensor_shape(name)), self.output_dtypes[name]
            target = targets.get(name)
            if target is not None and (target.shape != shape or target.dtype != dtype):
                raise EngineError(
                    f"{self._path} failed: its output {name} is {dtype} {shape}, the buffer for it "
                    f"{target.dtype} {target.shape}"
                )
            if target is not None and target.pointer % ALIGNMENT == 0:
                pointer = target.pointer
            else:
                staged = self._stage(name, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
                pointer = staged.pointer
                if target is not None:
                    moved.append((target, staged))
            if name in wanted:
                results[name] = (np.empty(shape, dtype), pointer)
            self._accepted(context.set_tensor_address(name, pointer), f"the address of {name}")
        self._accepted(context.execute_async_v3(self._cuda.stream), "the run")
        for target, staged in moved:
            nbytes = int(np.prod(target.shape, dtype=np.int64)) * target.dtype.itemsize
            self._cuda.copy(target.pointer, staged.pointer, nbytes)
        for array, pointer in results.values():
            self._cuda.download(array, pointer)
        self._cuda.synchronize()
        del alive  # the copies to the GPU are complete
        return {name: results[name][0] for name in wanted}

    def bind(self, inputs: Inputs, into: Mapping[str, Buffer]) -> BoundRun:
        return partial(self.run, inputs, (), into)

    def _check(self, inputs: Inputs, outputs: Sequence[str]) -> None:
        missing = [name for name in self.input_names if name not in inputs]
        if missing:
            raise EngineError(f"{self._path} failed: it lacks its input {', '.join(missing)}")
        unknown = [n for n in inputs if n not in self.input_names] + [n for n in outputs if n not in self.output_names]
        if unknown:
            raise EngineError(f"{self._path} failed: it has no {', '.join(unknown)}")
        for name, dtype in self.input_dtypes.items():
            if inputs[name].dtype != dtype:
                raise EngineError(f"{self._path} failed: its input {name} is {dtype}, not {inputs[name].dtype}")

    def _context(self, shapes: Mapping[str, tuple[int, ...]]) -> trt.IExecutionContext:
        """Return the execution context of the first profile that takes these shapes, and set them."""
        fitting = [index for index, profile in enumerate(self._profiles) if profile.takes(shapes)]
        if not fitting:
            raise EngineError(
                f"{self._path} failed: {self._profiles[-1].misfit(shapes)}; give it fewer rows, or build the bundle "
                "again with larger --max-regions or --max-tokens"
            )
        index = fitting[0]
        if index not in self._contexts:
            context = self._engine.create_execution_context()
            if context is None:
                raise EngineError(f"TensorRT cannot prepare {self._path}: {self._last_errors()}")
            self._accepted(context.set_optimization_profile_async(index, self._cuda.stream), f"profile {index}")
            self._contexts[index] = context
        context = self._contexts[index]
        for name, shape in shapes.items():
            self._accepted(context.set_input_shape(name, shape), f"{name} of shape {shape}")
        return context

    def _bind_input(self, context: trt.IExecutionContext, name: str, value: np.ndarray | Buffer) -> object:
        """Set the address of an input. Return the object that must stay alive until the run is complete."""
        alive: object = value
        if isinstance(value, np.ndarray):
            alive = array = np.ascontiguousarray(value)
            pointer = self._stage(name, array.nbytes).pointer
            self._cuda.upload(pointer, array)
        elif value.pointer % ALIGNMENT == 0:
            pointer = value.pointer
        else:
            nbytes = int(np.prod(value.shape, dtype=np.int64)) * value.dtype.itemsize
            pointer = self._stage(name, nbytes).pointer
            self._cuda.copy(pointer, value.pointer, nbytes)
        self._accepted(context.set_tensor_address(name, pointer), f"the address of {name}")
        return alive

    def _stage(self, name: str, nbytes: int) -> DeviceBuffer:
        staged = self._staging.get(name)
        if staged is None or staged.nbytes < nbytes:
            # Free the smaller one first: there may be too little memory for both.
            self._staging.pop(name, None)
            staged = self._staging[name] = self._cuda.buffer((nbytes,), np.uint8)
        return staged

    def _accepted(self, accepted: bool, what: str) -> None:
        if not accepted:
            raise EngineError(f"{self._path} failed: TensorRT refuses {what}: {self._last_errors()}")

    def _last_errors(self) -> str:
        """Return and clear the errors that TensorRT has logged, on one line."""
        text = "; ".join(self._errors) or "it gives no reason"
        self._errors.clear()
        return text


class _ShapeRange:
    """Minimum and maximum shape of each input in an optimization profile."""

    def __init__(self, engine: trt.ICudaEngine, index: int, inputs: Sequence[str]) -> None:
        self._ranges: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        for name in inputs:
            least, _, greatest = engine.get_tensor_profile_shape(name, index)
            self._ranges[name] = (tuple(least), tuple(greatest))

    def greatest(self, name: str) -> tuple[int, ...]:
        """Return the maximum shape of an input."""
        return self._ranges[name][1]

    def takes(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        return all(self._fits(name, shape) for name, shape in shapes.items())

    def misfit(self, shapes: Mapping[str, tuple[int, ...]]) -> str:
        """Return a text about the first input that does not fit."""
        name, shape = next((name, shape) for name, shape in shapes.items() if not self._fits(name, shape))
        least, greatest = self._ranges[name]
        return f"its input {name} has the shape {shape}, the plan takes {least} to {greatest}"

    def _fits(self, name: str, shape: tuple[int, ...]) -> bool:
        least, greatest = self._ranges[name]
        return len(shape) == len(least) and all(a <= n <= b for a, n, b in zip(least, shape, greatest, strict=True))
