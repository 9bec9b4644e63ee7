"""One small interface to whatever runs an engine file; each runtime is a module, imported when asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from osprey_ros.errors import OspreyError


class EngineError(OspreyError):
    """An engine that cannot be loaded or run; the message names the file or the missing runtime."""


class Engine(Protocol):
    """A loaded engine: named arrays in, named arrays out."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs."""

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Runs once. ``outputs`` names those wanted, all by default. Raises EngineError for inputs it refuses."""


def load_engine(path: str | os.PathLike[str], runtime: str = "onnxruntime", threads: int | None = None) -> Engine:
    """Loads an engine file with the named runtime. ``threads`` bounds its CPU threads (default: one per core).

    Raises EngineError for an unknown or missing runtime and for a file that it refuses.
    """
    if runtime == "onnxruntime":
        from osprey_ros.engines.onnxruntime import OnnxEngine

        return OnnxEngine(path, threads)
    raise EngineError(f"unknown engine runtime {runtime!r}: this version has 'onnxruntime'")
