"""Checks of bundles and of the folders in which something is written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from osprey_ros.bundle.default import VARIABLE, default_bundle
from osprey_ros.bundle.places import cache_folder, find_bundle, installed_bundles
from osprey_ros.doctor import finding
from osprey_ros.doctor.finding import Finding
from osprey_ros.engines.machine import plan_notes
from osprey_ros.errors import BundleError, one_line
from osprey_ros.file_errors import os_reason
from osprey_ros.segmenter.bundle import open_any_bundle

_LITTLE = 200_000_000  # bytes of a disk that is nearly full


def check_bundles(hashes: bool = True) -> Iterator[Finding]:
    """Yield a finding for the default bundle, and for each one that can be given by name.

    ``hashes``: whether every file is compared with its hash, which reads new files once.
    """
    default = default_bundle()
    try:
        root = find_bundle(default)
    except BundleError as error:
        remedy = f"unset {VARIABLE}, or set it to a name from `osprey bundle list`"
        yield finding.problem("bundles", default, one_line(str(error)), remedy)
        root = None
    for place in installed_bundles():
        is_default = root is not None and place.folder.resolve() == root.resolve()
        make = partial(finding.problem if is_default else finding.warning, "bundles", place.name)
        try:
            bundle = open_any_bundle(place.folder)
            if hashes:
                bundle.verify()
        except BundleError as error:
            yield make(one_line(str(error)), "osprey bundle verify lists all faults; copy or download the bundle again")
            continue
        text = f"{bundle.manifest.kind_of_bundle} in {place.folder}, {'files as listed' if hashes else 'complete'}"
        text += ", the default" if is_default else ""
        notes = plan_notes(bundle.manifest)
        if notes:
            yield make(f"{text}; {'; '.join(notes)}", "build its plans on this machine, or give --device cpu")
        elif not bundle.manifest.verified:
            yield make(f"{text}, never compared with its PyTorch model", "build it again without --no-verify")
        else:
            yield finding.ok("bundles", place.name, text)


def check_folders(scene_file: str = "") -> Iterator[Finding]:
    """Yield a finding for the cache, for the logs of ROS, and for the folder of a scene file if one is given."""
    try:
        yield _writable("cache", cache_folder(), "set XDG_CACHE_HOME to a folder that can be written")
        yield _writable("logs of ROS", log_folder(), "set ROS_LOG_DIR to a folder that can be written")
    except RuntimeError as error:
        yield finding.warning(
            "folders", "home", f"there is no home directory ({error})", "set HOME, XDG_CACHE_HOME and ROS_LOG_DIR"
        )
    if scene_file:
        path = Path(os.path.expanduser(scene_file))
        if path.is_dir():
            yield finding.problem("folders", "scene file", f"{path} is a folder", "name a file in it")
        else:
            yield _writable("scene file", path.parent, "name a scene_file in a folder that can be written")


def log_folder() -> Path:
    """Return the folder of ROS's logs. Raises RuntimeError without a home directory."""
    if os.environ.get("ROS_LOG_DIR"):
        return Path(os.environ["ROS_LOG_DIR"]).expanduser()
    return Path(os.environ.get("ROS_HOME") or Path.home() / ".ros").expanduser() / "log"


def _writable(name: str, folder: Path, remedy: str) -> Finding:
    """Return whether a folder, or the first one above it that exists, can be written. Nothing stays in it."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
            file.flush()
        free = shutil.disk_usage(there).free
    except OSError as error:
        return finding.problem("folders", name, f"{folder} cannot be written: {os_reason(error)}", remedy)
    if free < _LITTLE:
        return finding.warning("folders", name, f"{folder} has only {free / 1e6:.0f} MB free", "free some space")
    return finding.ok("folders", name, f"{folder} can be written, {free / 1e9:.1f} GB are free")
