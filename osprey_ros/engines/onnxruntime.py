"""Engines as ONNX graphs run by onnxruntime on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from osprey_ros.engines import EngineError


class OnnxEngine:
    """One onnxruntime session. Inputs are used where they lie in memory, without a copy, if they are contiguous."""

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(f"onnxruntime cannot be imported ({error}): `pip install onnxruntime`") from error
        self._path = os.fspath(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        # A describer holds several engines that run in turn: idle threads of one must not spin while another works.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            if threads < 1:
                raise EngineError(f"threads is {threads}: it must be at least 1")
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                self._path, sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no base class below Exception
            raise EngineError(f"onnxruntime refuses {self._path}: {_one_line(error)}") from error
        self.input_names = tuple(i.name for i in self._session.get_inputs())
        self.output_names = tuple(o.name for o in self._session.get_outputs())

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Runs the graph once; see `osprey_ros.engines.Engine`."""
        names = self.output_names if outputs is None else outputs
        try:
            arrays = self._session.run(names, dict(inputs))
        except Exception as error:  # as above
            raise EngineError(f"{self._path} failed: {_one_line(error)}") from error
        return dict(zip(names, arrays, strict=True))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
