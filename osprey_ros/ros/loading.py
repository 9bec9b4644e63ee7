"""Loads the bundle of the node, with what is worth knowing meanwhile in the log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.describer import Describer
from osprey_ros.errors import BundleError
from osprey_ros.system import process_memory as memory

_REPORT = 5.0  # seconds between two lines about a load that takes long


def load_describer(
    name: str, threads: int, preprocessing: str, reserve: int, log: Callable[[str], object]
) -> Describer:
    """Opens a bundle, checks that there is memory for it, and loads its engines.

    ``threads`` is 0 for one thread a core; ``preprocessing`` is as of `Describer`; ``reserve`` bytes must stay free.
    Raises OspreyError.
    """
    bundle = Bundle.open(name, verify=False)
    size = sum(entry.bytes for entry in bundle.manifest.files.values()) / memory.MIB
    log(f"bundle {bundle.manifest.name} in {bundle.root}: {size:.0f} MB in {len(bundle.manifest.files)} files")
    shortage = memory.shortage(bundle, reserve)
    if shortage:
        raise BundleError(shortage)
    started = time.monotonic()
    with _reports("still checking the files", log):
        bundle = Bundle.open(name)
    checked = time.monotonic()
    need = memory.needed(bundle) / memory.MIB
    log(f"files checked in {checked - started:.1f} s; loading the engines, which takes at most {need:.0f} MB of memory")
    with _reports("still loading", log):
        describer = Describer(bundle, threads=threads or None, preprocessing=preprocessing)
    log(f"engines loaded in {time.monotonic() - checked:.1f} s{_held()}")
    return describer


@contextmanager
def _reports(what: str, log: Callable[[str], object]) -> Iterator[None]:
    """Logs every few seconds, from a thread, that something goes on."""
    done = threading.Event()
    started = time.monotonic()

    def report() -> None:
        while not done.wait(_REPORT):
            log(f"{what}, {time.monotonic() - started:.0f} s{_held()}")

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _held() -> str:
    held = memory.resident()
    return "" if held is None else f", {held / memory.MIB:.0f} MB of memory held"
