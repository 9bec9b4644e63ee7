"""Check that MuJoCo renders without a display, in software: `.venv/bin/python tools/check_rendering.py`.

If it does not, install the Mesa libraries with apt if no password is needed, or else name the packages to install.
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
            f"{problem}\nThe simulator cannot render without a display; install Mesa "
            f"(Debian and Ubuntu: `sudo apt-get install {' '.join(PACKAGES)}`) and try again."
        )


def probe() -> str:
    """Open a GL context in another process. Return the error, or "" if it works."""
    result = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return ""
    return result.stderr.strip().splitlines()[-1] if result.stderr.strip() else f"status {result.returncode}"


def install() -> bool:
    """Install the Mesa libraries as root or with a sudo that needs no password. Return whether it succeeded."""
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
