"""Install the Python bindings of several TensorRT versions side by side, to test the functions that we call.

Each version has a folder in TARGET (by default `tensorrt-bindings` in the running environment), outside of the import
path. The bindings are small; the TensorRT libraries themselves are not installed. Versions without a wheel for this
Python or machine are skipped with a message.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

# The oldest supported version (JetPack 6), one of the last of version 10, and the newest.
BINDINGS = {
    "10.3.0": "tensorrt-cu12-bindings",
    "10.13.3.9": "tensorrt-cu12-bindings",
    "11.4.0.106": "tensorrt-cu13-bindings",
}


def default_target() -> Path:
    """Return the folder that the test reads."""
    return Path(sys.prefix) / "tensorrt-bindings"


def has_wheel(version: str) -> bool:
    """Return whether a version has a wheel for this Python and machine."""
    return platform.machine() == "x86_64" and (version != "10.3.0" or sys.version_info < (3, 13))


def main(target: Path) -> None:
    """Install the missing versions. Raise CalledProcessError if pip fails."""
    for version, package in BINDINGS.items():
        folder = target / version
        if not has_wheel(version):
            print(f"{package} {version} has no wheel for Python {platform.python_version()} on {platform.machine()}")
        elif not (folder / "tensorrt_bindings").is_dir():
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
            subprocess.run([*pip, "--only-binary", ":all:", "--target", folder, f"{package}=={version}"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default_target())
