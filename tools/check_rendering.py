"""Makes sure that MuJoCo can draw without a display, in software: `.venv/bin/python tools/check_rendering.py`.

Where that does not work, installs the Mesa libraries with apt if that is allowed without a password,
else says what to install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("libegl1", "libgl1-mesa-dri")
PROBE = "from osprey_sim.gl import open_context; open_context(64, 64)"


def main() -> None:
    problem = probe()
    if problem and install():
        problem = probe()
    if problem:
        sys.exit(
            f"{problem}\nThe simulator cannot draw without a display: install Mesa "
            f"(Debian and Ubuntu: `sudo apt-get install {' '.join(PACKAGES)}`) and try again."
        )


def probe() -> str:
    """Opens a drawing context in a process of its own. Returns what went wrong, empty if it worked."""
    result = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return ""
    return result.stderr.strip().splitlines()[-1] if result.stderr.strip() else f"status {result.returncode}"


def install() -> bool:
    """Installs the Mesa libraries as root or through a sudo that asks nothing. Returns whether that worked."""
    apt = shutil.which("apt-get")
    if apt is None:
        return False
    if os.geteuid() == 0:
        prefix = []
    elif (
        shutil.which("sudo")
        and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    ):
        prefix = ["sudo", "-n"]
    else:
        return False
    print(f"installing {', '.join(PACKAGES)} with apt-get", flush=True)
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
        if subprocess.run([*prefix, *environment, apt, *arguments], check=False).returncode:
            return False
    return True


if __name__ == "__main__":
    main()
