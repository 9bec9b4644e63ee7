"""Main memory: used by this process, available on the machine, and needed by a bundle.

It reads /proc and the control group of Linux. On systems without them, amounts are unknown and no check fails.
"""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.manifest import EMBEDDINGS

MIB = 1 << 20
# Peak memory while a runtime loads a file, as a multiple of its size: onnxruntime repacks the weights for its kernels,
# one after another. Measured: 1658 MiB for two layers of a 7B model (1274 MiB of engines), libraries included.
_LOADING_FACTOR = {"onnxruntime": 1.3, "tensorrt": 1.2}
_WORKING_MEMORY = 150 * MIB  # feature maps, keys and values, and the libraries


def process_memory() -> int | None:
    """Return the bytes of main memory that this process uses (RSS); None if unknown."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


def available_memory() -> int | None:
    """Return the bytes that can be allocated without swapping; None if unknown.

    In a container with a memory limit, it is what remains of the limit, if that is less.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())  # "max" if there is no limit
        used = int((group / "memory.current").read_text())
        # The file cache counts as used, but the system reclaims it when it is needed.
        cache = next(
            int(line.split()[1])
            for line in (group / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
    except (OSError, StopIteration, ValueError):
        return free
    return min(free, max(0, limit - used + cache))


def needed_memory(bundle: Bundle) -> int:
    """Return the bytes that loading and running a bundle needs at most, estimated from the sizes of its files."""
    files = bundle.manifest.files
    engines = {entry.file: entry.runtime for entry in bundle.manifest.engines.values()}
    total = float(_WORKING_MEMORY)
    for name, entry in files.items():
        if name == EMBEDDINGS:
            continue  # mapped from disk: the system can reclaim its pages
        # Files that are no engine hold weights of the decoder.
        runtime = engines.get(name, bundle.engine("decoder").runtime)
        total += entry.bytes * _LOADING_FACTOR.get(runtime, max(_LOADING_FACTOR.values()))
    return int(total)


def memory_shortage(bundle: Bundle, reserve: int) -> str:
    """Return why there is too little memory for a bundle; "" if there is enough, or if that is unknown.

    ``reserve`` is the number of bytes that must remain available.
    """
    available, needed = available_memory(), needed_memory(bundle)
    if available is None or available - needed >= reserve:
        return ""
    kept = f" and memory_reserve keeps {reserve / MIB:.0f} MB free" if reserve else ""
    return (
        f"bundle {bundle.manifest.name} needs about {needed / MIB:.0f} MB of memory, {available / MIB:.0f} MB are "
        f"available{kept}; end other programs, use a smaller bundle, or lower memory_reserve"
    )


def release_freed_memory() -> None:
    """Return freed memory from the C library to the system, if the library supports it (glibc does)."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def release_memory() -> None:
    """Free unreachable objects, reference cycles included, and return their memory to the system."""
    gc.collect()
    release_freed_memory()
