"""Sessions of onnxruntime as the engines open them, for tests that look at graphs alone."""

from __future__ import annotations

import os
from collections.abc import Mapping

import onnxruntime

from osprey_ros.engines.onnxruntime import harmful_optimizers


def open_session(
    model: str | os.PathLike[str] | bytes, settings: Mapping[str, str] | None = None
) -> onnxruntime.InferenceSession:
    """A session on the CPU. settings: entries of its configuration."""
    options = onnxruntime.SessionOptions()
    for key, value in (settings or {}).items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(
        model,
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=harmful_optimizers(onnxruntime.__version__),
    )
