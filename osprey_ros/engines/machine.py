"""The fingerprint of this machine, and the check of a TensorRT plan against it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from osprey_ros.bundle.fingerprint import REBUILD, differences, read_fingerprint
from osprey_ros.bundle.manifest import EngineManifest
from osprey_ros.engines.cuda import Cuda
from osprey_ros.errors import BundleError, EngineError, OspreyError

log = logging.getLogger(__name__)


def require_tensorrt() -> str:
    """Return the version of the module `tensorrt`. Raises EngineError if it cannot be imported."""
    try:
        import tensorrt
    except ImportError as error:
        raise EngineError(
            f"TensorRT cannot be imported ({error}): on a Jetson it comes with JetPack, elsewhere with "
            "`pip install tensorrt`; or use a bundle that was built for the runtime 'onnxruntime'"
        ) from error
    return str(tensorrt.__version__)


def current() -> dict[str, str]:
    """Return the fingerprint of this machine: a value for each of MACHINE_FIELDS.

    Raises EngineError if there is no GPU or no TensorRT.
    """
    version = require_tensorrt()
    cuda = Cuda()
    return {
        "gpu": cuda.name,
        "compute_capability": cuda.compute_capability,
        "multiprocessors": str(cuda.multiprocessors),
        "tensorrt": version,
        "driver": cuda.driver,
    }


def check_plan(plan: Path, machine: Mapping[str, str] | None = None) -> None:
    """Reject a plan that was built for another machine.

    A difference in HARMLESS_FIELDS alone is logged as a warning.

    Args:
        plan: The plan; its fingerprint lies beside it.
        machine: Fingerprint to compare with; by default `current`.

    Raises BundleError if the plan has no fingerprint or another one.
    """
    found = differences(read_fingerprint(plan), current() if machine is None else machine)
    if not found:
        return
    text = "; ".join(map(str, found))
    if all(difference.harmless for difference in found):
        log.warning("%s: %s; build it again if results or times have changed", plan, text)
        return
    raise BundleError(f"{plan} was built for another machine: {text}; {REBUILD}")


def plan_notes(manifest: EngineManifest) -> list[str]:
    """Return one sentence for each TensorRT plan that does not fit this machine.

    That is not a fault, because the bundle can be for another machine. On a machine without a GPU or without TensorRT,
    one sentence says that the plans were not compared.
    """
    plans = [entry for entry in manifest.engines.values() if entry.fingerprint]
    if not plans:
        return []
    try:
        here = current()
    except OspreyError as error:
        return [f"the TensorRT plans were not compared with this machine ({error})"]
    notes = []
    for entry in plans:
        found = differences(entry.fingerprint, here)
        if found:
            notes.append(f"{entry.file} was built for another machine: {'; '.join(map(str, found))}")
    return notes
