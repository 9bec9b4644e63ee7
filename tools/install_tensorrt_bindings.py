"""Installs the Python bindings of several TensorRT versions side by side, for the test of what we call in them.

Each goes to a folder of its own under TARGET (by default `tensorrt-bindings` in the running environment), where nothing
imports it by accident. The bindings are small; the TensorRT libraries themselves are not installed. What has no wheel
for this Python or machine is left out and named.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

# The oldest that is supported (JetPack 6), one of the last of version 10, and the newest.
BINDINGS = {
    "10.3.0": "tensorrt-cu12-bindings",
    "10.13.3.9": "tensorrt-cu12-bindings",
    "11.4.0.106": "tensorrt-cu13-bindings",
}


def default_target() -> Path:
    """Where the test looks for them."""
    return Path(sys.prefix) / "tensorrt-bindings"


def has_wheel(version: str) -> bool:
    """Whether there is a wheel of a version for this Python and machine."""
    return platform.machine() == "x86_64" and (version != "10.3.0" or sys.version_info < (3, 13))


def main(target: Path) -> None:
    """Installs what is not there yet. Raises CalledProcessError where pip fails."""
    for version, package in BINDINGS.items():
        folder = target / version
        if not has_wheel(version):
            print(f"{package} {version} has no wheel for Python {platform.python_version()} on {platform.machine()}")
        elif not (folder / "tensorrt_bindings").is_dir():
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
            subprocess.run([*pip, "--only-binary", ":all:", "--target", folder, f"{package}=={version}"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default_target())
