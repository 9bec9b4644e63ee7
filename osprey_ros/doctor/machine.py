"""Checks of the machine: processor, GPU and memory."""

from __future__ import annotations

import os
import platform
from functools import partial
from pathlib import Path

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.default import default_bundle
from osprey_ros.doctor import finding
from osprey_ros.doctor.finding import Finding
from osprey_ros.errors import BundleError, EngineError
from osprey_ros.system.process_memory import MIB, available_memory, memory_shortage, needed_memory

ok, warning, problem = (partial(make, "machine") for make in (finding.ok, finding.warning, finding.problem))
_JETSON = Path("/etc/nv_tegra_release")


def check_processor() -> Finding:
    """Return what the processor is."""
    from osprey_ros.engines.onnxruntime import cpu_flags

    cores, flags, kind = os.cpu_count() or 0, cpu_flags(), platform.machine()
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    text = f"{kind}, {cores} cores" + (f", {here} of them for this process" if here != cores else "")
    if kind in ("x86_64", "AMD64") and flags and "avx2" not in flags:
        return warning("processor", f"{text}, without AVX2", "expect several times the times of the documentation")
    return ok("processor", text)


def has_gpu() -> bool:
    """Return whether engines can run on a GPU."""
    from osprey_ros.engines.cuda import Cuda

    try:
        Cuda()
    except EngineError:
        return False
    return True


def check_gpu() -> Finding:
    """Return what the first GPU is, if there is one."""
    from osprey_ros.engines.cuda import LIBRARY, Cuda

    try:
        gpu = Cuda()
    except EngineError as error:
        if "no NVIDIA driver" in str(error):
            return ok("GPU", "no NVIDIA driver; engines run on the processor")
        return warning(
            "GPU",
            f"the driver ({LIBRARY}) is installed, but no GPU can be used: {error}",
            "in a container, start it with --gpus all or the nvidia runtime; else restart after a driver update",
        )
    board = "Jetson, " if _JETSON.exists() else ""
    return ok("GPU", f"{board}{gpu.name}, compute capability {gpu.compute_capability}, CUDA {gpu.driver} at most")


def check_memory() -> Finding:
    """Return whether memory suffices for the default bundle."""
    available = available_memory()
    if available is None:
        return ok("memory", "the amount that is available is unknown on this system")
    text = f"{available / MIB:.0f} MB are available"
    try:
        bundle = Bundle.open(default_bundle(), verify=False)
    except BundleError:
        return ok("memory", text)
    if memory_shortage(bundle, 0):
        needed = f"{text}, the bundle {bundle.manifest.name} needs about {needed_memory(bundle) / MIB:.0f} MB"
        return problem("memory", needed, "end other programs, or use a smaller bundle")
    return ok("memory", f"{text}, enough for the bundle {bundle.manifest.name}")
