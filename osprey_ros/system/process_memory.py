"""Main memory: what this process holds, what the machine has left, and what a bundle will need.

Imports no ROS. Reads Linux's /proc; where that is not to be had, nothing is known and nothing is refused.
"""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.manifest import EMBEDDINGS

MIB = 1 << 20
# How much more than its files a runtime holds at most while it loads them: onnxruntime packs weights anew for its
# kernels, one after another. Two layers of a 7B model, 1274 MiB of engines, took 1658 MiB with the libraries.
_LOADING = {"onnxruntime": 1.3, "tensorrt": 1.2}
_WORK = 150 * MIB  # feature maps, keys and values, and the libraries themselves


def resident() -> int | None:
    """Bytes of main memory that this process holds (RSS)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


def available() -> int | None:
    """Bytes that can be had without swapping; in a container with a limit, what is left below it if that is less."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())  # "max" where there is none
        held = int((group / "memory.current").read_text())
        # The cache of files counts as held, and gives way.
        cache = next(
            int(line.split()[1])
            for line in (group / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
    except (OSError, StopIteration, ValueError):
        return free
    return min(free, max(0, limit - held + cache))


def needed(bundle: Bundle) -> int:
    """Bytes that are needed at most to load a bundle and to work with it, by the sizes of its files."""
    files = bundle.manifest.files
    engines = {entry.file: entry.runtime for entry in bundle.manifest.engines.values()}
    total = float(_WORK)
    for name, entry in files.items():
        if name == EMBEDDINGS:
            continue  # mapped from disk: its pages give way
        # Weights beside a graph go with its runtime; that of the decoder where the file is nobody's.
        runtime = engines.get(name, bundle.engine("decoder").runtime)
        total += entry.bytes * _LOADING.get(runtime, max(_LOADING.values()))
    return int(total)


def shortage(bundle: Bundle, reserve: int) -> str:
    """Why a bundle should not be loaded now; "" if there is room, or no knowing. ``reserve`` bytes are to stay free."""
    room, need = available(), needed(bundle)
    if room is None or room - need >= reserve:
        return ""
    kept = f" and memory_reserve keeps {reserve / MIB:.0f} MB free" if reserve else ""
    return (
        f"bundle {bundle.manifest.name} needs about {need / MIB:.0f} MB of memory, {room / MIB:.0f} MB are available"
        f"{kept}: end other programs, take a smaller bundle, or lower memory_reserve"
    )


def trim() -> None:
    """Returns to the system what was freed, where the C library keeps it otherwise and can be asked to (glibc)."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def give_back() -> None:
    """Frees what nothing refers to any more, cycles included, and returns it to the system."""
    gc.collect()
    trim()
