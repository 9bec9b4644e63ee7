"""Build osprey_interfaces into the running virtual environment: `.venv/bin/python tools/build_interfaces.py`.

The build uses the sourced ROS 2, or else the wheels of the environment. It takes about 15 s on 2 cores. cmake and ninja
are installed from PyPI if they are missing; a C and a C++ compiler are required.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "osprey_interfaces"
FROM_PYPI = {"cmake": "cmake==3.31.10", "ninja": "ninja==1.13.0"}


def main() -> None:
    prefix = Path(sys.prefix)
    if prefix == Path(sys.base_prefix):
        sys.exit("not a virtual environment; run `.venv/bin/python tools/build_interfaces.py`")
    if not any(shutil.which(name) for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name):
        sys.exit("no C++ compiler found; install one (Debian and Ubuntu: `apt-get install build-essential`)")
    path = os.pathsep.join((str(prefix / "bin"), os.environ.get("PATH", "")))
    missing = [package for name, package in FROM_PYPI.items() if not shutil.which(name, path=path)]
    if missing:
        run([sys.executable, "-m", "pip", "install", "--quiet", *missing], "pip.log", path)

    shutil.rmtree(BUILD, ignore_errors=True)  # its cache may be of another Python or ROS
    with tempfile.TemporaryDirectory(prefix="osprey-interfaces-") as temporary:
        build(prefix, *places(ROOT, Path(temporary)), path)


def places(root: Path, temporary: Path) -> tuple[Path, Path]:
    """Return the folder of the sources and the one of the build.

    CMake's part of rosidl drops other characters than ASCII from paths: a checkout in such a path is built from a copy.
    """
    source = root / "osprey_interfaces"
    if str(root).isascii():
        return source, root / "build" / "osprey_interfaces" / "cmake"
    if not str(temporary).isascii():
        sys.exit(f"{root} and {temporary} are not ASCII, which the build of ROS messages needs; set TMPDIR to /tmp")
    return Path(shutil.copytree(source, temporary / "source")), temporary / "build"


def build(prefix: Path, source: Path, folder: Path, path: str) -> None:
    """Configure, build and install into `prefix`, with `path` as PATH."""
    prefixes = [str(prefix), *filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))]
    print(f"building osprey_interfaces for {prefix}", flush=True)
    configure: list[str | Path] = [
        *("cmake", "-S", source, "-B", folder, "-G", "Ninja"),
        *(f"-DCMAKE_INSTALL_PREFIX={prefix}", f"-DCMAKE_PREFIX_PATH={';'.join(dict.fromkeys(prefixes))}"),
        *(f"-DPython3_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF"),
    ]
    run(configure, "configure.log", path)
    run(["cmake", "--build", folder], "build.log", path)
    run(["cmake", "--install", folder], "install.log", path)
    kinds = ", ".join(f"osprey_interfaces.{kind}" for kind in ("action", "msg", "srv"))
    run([sys.executable, "-c", f"import {kinds}"], "import.log", path)


def run(command: list[str | Path], log_name: str, path: str) -> None:
    """Run a command with its output in a log file. If it fails, print the end of the log and exit."""
    BUILD.mkdir(parents=True, exist_ok=True)
    log = BUILD / log_name
    with log.open("wb") as output:
        environment = {**os.environ, "PATH": path}
        status = subprocess.run(
            [str(part) for part in command], stdout=output, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode
    if status:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
        sys.exit(
            f"{tail}\n\n`{command[0]}` failed with status {status} while building osprey_interfaces; full log: {log}"
        )


if __name__ == "__main__":
    main()
