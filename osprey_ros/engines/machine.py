"""The part of a fingerprint that describes this machine, and the check of a plan against it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from osprey_ros.bundle.fingerprint import REBUILD, differences, read_fingerprint
from osprey_ros.engines.cuda import Cuda
from osprey_ros.errors import BundleError


def current() -> dict[str, str]:
    """The machine's part of a fingerprint, with the keys of MACHINE_FIELDS.

    Raises EngineError where there is no GPU or no TensorRT.
    """
    from osprey_ros.engines.tensorrt import require_tensorrt

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
    """Refuses a plan that was built on another machine than this one (or than ``machine``, as `current` gives it).

    Raises BundleError naming every field that differs, both values, and the remedy.
    """
    found = differences(read_fingerprint(plan), current() if machine is None else machine)
    if found:
        raise BundleError(f"{plan} was built for another machine: {'; '.join(map(str, found))}; {REBUILD}")
