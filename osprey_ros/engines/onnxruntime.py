"""ONNX graphs as engines, run by onnxruntime on the CPU or on a CUDA device."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from osprey_ros.engines.base import UNBOUNDED, BoundRun, Buffer, Inputs
from osprey_ros.engines.onnx_binding import NO_OPTIONS, Binding, HostBuffer, failure, run_options
from osprey_ros.errors import EngineError
from osprey_ros.file_errors import LFS_POINTER, is_lfs_pointer, native_path, os_reason
from osprey_ros.system.cancellation import CancellationToken

if TYPE_CHECKING:
    from osprey_ros.engines.cuda import Cuda

_LOGGER = logging.getLogger(__name__)
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}

# Key in a graph's metadata. Its value names an input of a small model: runs with few rows of it are fastest on one
# thread, and a run with one row can be fastest on the stored int4 weights instead of weights unpacked to float32.
FEW_ROWS = "osprey_ros.few_rows"


class OnnxEngine:
    """An `Engine` that runs an ONNX graph. On the CPU, contiguous inputs are used in place."""

    interruptible = True  # between two nodes of the graph

    def __init__(self, path: str | os.PathLike[str], device: str = "cpu", threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(f"onnxruntime cannot be imported ({error}): `pip install onnxruntime`") from error
        provider = _PROVIDERS[device]
        if provider not in onnxruntime.get_available_providers():
            raise EngineError(
                f"this onnxruntime has no {provider}: `pip install onnxruntime-gpu` instead of onnxruntime, "
                "or use a bundle built for the device 'cpu'"
            )
        self._path = os.fspath(path)
        self.device = device
        self._cuda: Cuda | None = None
        if device == "cuda":
            from osprey_ros.engines.cuda import Cuda

            self._cuda = Cuda()
        # Without this fusion, onnxruntime unpacks quantized weights once, when the session is made.
        unpacked = {"session.disable_quant_qdq": "1"}
        self._session = self._open(provider, threads, unpacked)
        # Sessions for few rows of this input, each with its maximum number of rows.
        self._few_rows = self._session.get_modelmeta().custom_metadata_map.get(FEW_ROWS) if device == "cpu" else None
        self._sessions: list[tuple[int, Any]] = []
        if self._few_rows:
            if levels_are_fast(cpu_flags()):
                self._sessions.append((1, self._open(provider, 1, {"session.qdq_matmulnbits_accuracy_level": "0"})))
            if threads != 1:
                self._sessions.append((few_rows(onnxruntime.__version__), self._open(provider, 1, unpacked)))
        self._bindings: dict[tuple[int, tuple[str, ...], tuple[str, ...]], Binding] = {}
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.input_names = tuple(i.name for i in inputs)
        self.output_names = tuple(o.name for o in outputs)
        self._inputs = frozenset(self.input_names)
        self.input_shapes: dict[str, tuple[int | str, ...]] = {i.name: tuple(i.shape) for i in inputs}
        self.input_dtypes = {i.name: np.dtype(_DTYPES[i.type]) for i in inputs}
        self.output_dtypes = {o.name: np.dtype(_DTYPES[o.type]) for o in outputs}

    def _open(self, provider: str, threads: int | None, settings: Mapping[str, str]) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        for key, value in {**waiting_threads(onnxruntime.__version__), **settings}.items():
            options.add_session_config_entry(key, value)
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            session = onnxruntime.InferenceSession(
                native_path(self._path),
                sess_options=options,
                providers=list(dict.fromkeys((provider, _PROVIDERS["cpu"]))),
                disabled_optimizers=harmful_optimizers(onnxruntime.__version__),
            )
        except Exception as error:  # onnxruntime's exceptions share no base class below Exception
            _LOGGER.debug("onnxruntime refuses %s: %s", self._path, _one_line(error))
            raise EngineError(_refusal(Path(self._path), _one_line(error), onnxruntime.__version__)) from error
        if provider not in session.get_providers():
            raise EngineError(f"onnxruntime cannot start {provider}: check the versions of CUDA and cuDNN it needs")
        return session

    def most_rows(self, name: str) -> int:
        return UNBOUNDED

    def buffer(self, shape: Sequence[int], dtype: np.dtype | type) -> Buffer:
        if self._cuda is not None:
            return self._cuda.buffer(shape, dtype)
        return HostBuffer(np.zeros(tuple(shape), dtype))

    def run(
        self,
        inputs: Inputs,
        outputs: Sequence[str] | None = None,
        into: Mapping[str, Buffer] | None = None,
        cancel: CancellationToken | None = None,
    ) -> dict[str, np.ndarray]:
        targets = into or {}
        names = [n for n in self.output_names if n not in targets] if outputs is None else list(outputs)
        self._check(inputs)
        try:
            with NO_OPTIONS if cancel is None else run_options(cancel) as options:
                if self.device == "cpu" and names and not targets:  # faster than a binding
                    arrays = {n: v.array if isinstance(v, HostBuffer) else v for n, v in inputs.items()}
                    return dict(zip(names, self._session_for(inputs)[1].run(names, arrays, options), strict=True))
                binding = self._binding(inputs, tuple(targets), tuple(names))
                binding.take(inputs, targets)
                return binding.run(names, options)
        except Exception as error:  # as above
            raise failure(self._path, error, cancel) from error

    def bind(self, inputs: Inputs, into: Mapping[str, Buffer]) -> BoundRun:
        if self.device != "cpu":  # arrays are copied to the device for each run
            return partial(self.run, inputs, (), into)
        self._check(inputs)
        binding = Binding(self._session_for(inputs)[1], self.device, self._path)
        try:
            binding.take(inputs, into)
        except Exception as error:  # as above
            raise failure(self._path, error) from error
        return binding

    def _binding(self, inputs: Inputs, targets: tuple[str, ...], names: tuple[str, ...]) -> Binding:
        place, session = self._session_for(inputs)
        key = (place, targets, names)
        if key not in self._bindings:
            self._bindings[key] = Binding(session, self.device, self._path)
        return self._bindings[key]

    def _session_for(self, inputs: Inputs) -> tuple[int, Any]:
        """Return the index of the session for inputs of these shapes, and the session."""
        if self._few_rows:
            rows = inputs[self._few_rows].shape[0]
            for index, (most, session) in enumerate(self._sessions):
                if rows <= most:
                    return index, session
        return len(self._sessions), self._session

    def _check(self, inputs: Mapping[str, Any]) -> None:
        if inputs.keys() == self._inputs:
            return
        missing = [name for name in self.input_names if name not in inputs]
        unknown = [name for name in inputs if name not in self.input_names]
        wrong = f"it lacks its input {', '.join(missing)}" if missing else f"it has no {', '.join(unknown)}"
        raise EngineError(f"{self._path} failed: {wrong}")


def waiting_threads(version: str) -> dict[str, str]:
    """Return the session settings for threads that wait for work.

    Waking a thread takes longer than most nodes of our graphs, so threads spin for 50 us between nodes. Longer spinning
    would occupy cores that others need. Between runs, threads sleep. They always sleep if onnxruntime cannot limit the
    spinning (1.23 cannot, 1.26 can).
    """
    if not _spins_briefly(version):
        return {"session.intra_op.allow_spinning": "0"}
    return {
        "session.intra_op.allow_spinning": "1",
        "session.intra_op.spin_duration_us": "50",
        "session.force_spinning_stop": "1",
    }


def few_rows(version: str) -> int:
    """Return the maximum number of rows for which one thread is fastest in a small decoder.

    A second thread pays off once its share of the work outweighs the hand-over, which is much cheaper to a spinning
    thread than to a sleeping one (`docs/history/benchmarks.md`).
    """
    return 4 if _spins_briefly(version) else 24


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the features of the processor by their names in Linux, such as "avx2"; empty if they are unknown."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        if line.startswith(("flags", "Features")):  # on x86 and on ARM; of the first core
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def levels_are_fast(flags: frozenset[str]) -> bool:
    """Return whether one row is multiplied faster with stored int4 weights than with unpacked float32 weights.

    With AVX2 it is not: a run over one row takes 0.37 ms instead of 0.28 (`docs/history/benchmarks.md`).
    """
    return "avx512f" in flags or "avx2" not in flags


def _spins_briefly(version: str) -> bool:
    return release(version) >= (1, 26)


def harmful_optimizers(version: str) -> list[str]:
    """Return the optimizers that break our graphs in a version of onnxruntime.

    Before 1.32, a product with a transposed matrix without rows, such as the keys of an empty prefix, divides by zero
    and ends the process (seen with 1.23, 1.25, 1.27, 1.29, 1.30 and 1.31). Without the optimizer, a decode step takes
    about a tenth longer.
    """
    return ["MatmulTransposeFusion"] if release(version) < (1, 32) else []


def release(version: str) -> tuple[int, int]:
    """Return the major and minor number of a version of onnxruntime."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return major, minor


def _refusal(path: Path, reason: str, version: str) -> str:
    """Return why a graph cannot be loaded. ``reason``: the message of onnxruntime, whose ``version`` is given."""
    try:
        if is_lfs_pointer(path):
            return f"{path} {LFS_POINTER}"
    except FileNotFoundError:
        return f"{path} is missing; copy the bundle again"
    except OSError as error:
        return f"{path} cannot be read: {os_reason(error)}"
    start = f"onnxruntime {version} refuses {path}: "
    words = reason.lower()
    if "ir version" in words or "opset" in words or "not a registered function" in words:
        return f"{start}the graph needs a newer version; update onnxruntime, or rebuild the bundle here"
    if "alloc" in words or "memory" in words:
        return f"{start}there is too little memory; close other programs, or use a smaller bundle"
    if "external data" in words or "no such file" in words:
        return f"{start}a file with weights beside it is missing or cut short; copy the bundle again"
    return f"{start}it is damaged or not an ONNX graph; copy the bundle again"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
