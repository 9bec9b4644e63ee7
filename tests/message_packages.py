"""Builds packages of messages that are not among the wheels, from lists of their fields.

yolo_msgs has the messages of yolo_ros, which is GPL, tf2_msgs those of tf2. The list of fields says which bytes are on
the wire. Comments, files and order of the definitions are ours.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "yolo_msgs"
POINT, PLACE = "yolo_msgs/Point2D", "geometry_msgs/Point"
MESSAGES: Mapping[str, Mapping[str, str]] = {
    "Point2D": {"x": "float64", "y": "float64"},
    "Vector2": {"x": "float64", "y": "float64"},
    "Pose2D": {"position": POINT, "theta": "float64"},
    "BoundingBox2D": {"center": "yolo_msgs/Pose2D", "size": "yolo_msgs/Vector2"},
    "BoundingBox3D": {"center": "geometry_msgs/Pose", "size": "geometry_msgs/Vector3", "frame_id": "string"},
    "Mask": {"height": "int32", "width": "int32", "data": f"{POINT}[]"},
    "KeyPoint2D": {"id": "int32", "point": POINT, "score": "float64"},
    "KeyPoint2DArray": {"data": "yolo_msgs/KeyPoint2D[]"},
    "KeyPoint3D": {"id": "int32", "point": PLACE, "score": "float64"},
    "KeyPoint3DArray": {"data": "yolo_msgs/KeyPoint3D[]", "frame_id": "string"},
    "Detection": {
        "class_id": "int32",
        "class_name": "string",
        "score": "float64",
        "id": "string",
        "bbox": "yolo_msgs/BoundingBox2D",
        "bbox3d": "yolo_msgs/BoundingBox3D",
        "mask": "yolo_msgs/Mask",
        "keypoints": "yolo_msgs/KeyPoint2DArray",
        "keypoints3d": "yolo_msgs/KeyPoint3DArray",
    },
    "DetectionArray": {"header": "std_msgs/Header", "detections": "yolo_msgs/Detection[]"},
}
TRANSFORMS: Mapping[str, Mapping[str, str]] = {"TFMessage": {"transforms": "geometry_msgs/TransformStamped[]"}}
_DEPENDENCIES = ("geometry_msgs", "std_msgs")


def built(folder: Path, package: str = PACKAGE, messages: Mapping[str, Mapping[str, str]] = MESSAGES) -> Path:
    """Return the prefix where the package is installed; build it if no earlier run has built the same into a folder.

    A build takes about 20 s on two cores. Raises RuntimeError with the output of a step that failed.
    """
    cmake = _cmake(package, messages)
    key = hashlib.sha256(json.dumps([messages, cmake, sys.version, sys.prefix, 2]).encode()).hexdigest()[:12]
    place = folder / key
    place.mkdir(parents=True, exist_ok=True)
    with open(place / "lock", "w") as lock:  # of test processes side by side, one builds
        fcntl.flock(lock, fcntl.LOCK_EX)
        prefix, done = place / "install", place / "done"
        if not done.exists():
            _build(_write(place / "source", cmake, package, messages), place / "build", prefix)
            done.touch()
    return prefix


@contextmanager
def importable(prefix: Path, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Make the package importable in this process, and yield an environment in which other processes import it."""
    (packages,) = prefix.glob("lib/python*/site-packages")
    libraries = str(prefix / "lib")
    sys.path.insert(0, str(packages))
    changed = {
        "AMENT_PREFIX_PATH": os.pathsep.join((str(prefix), os.environ.get("AMENT_PREFIX_PATH", sys.prefix))),
        "LD_LIBRARY_PATH": os.pathsep.join((libraries, os.environ.get("LD_LIBRARY_PATH", ""))),
    }
    for library in sorted((prefix / "lib").glob("*.so")):
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)  # rosidl looks for it by its name, and finds it loaded
    before = os.environ.get("AMENT_PREFIX_PATH")
    os.environ["AMENT_PREFIX_PATH"] = changed["AMENT_PREFIX_PATH"]
    try:
        yield {
            **environment,
            **changed,
            "PYTHONPATH": os.pathsep.join((str(packages), *map(str, [ROOT]), environment.get("PYTHONPATH", ""))),
        }
    finally:
        sys.path.remove(str(packages))
        if before is None:
            del os.environ["AMENT_PREFIX_PATH"]
        else:
            os.environ["AMENT_PREFIX_PATH"] = before


def _cmake(package: str, messages: Mapping[str, Mapping[str, str]]) -> str:
    """Return the CMakeLists.txt: that of osprey_interfaces, which works with the wheels, with other messages."""
    text = (ROOT / "osprey_interfaces" / "CMakeLists.txt").read_text()
    begin, end = text.index("rosidl_generate_interfaces("), text.index("# The ROS 2 wheels")
    files = "\n".join(f'  "msg/{name}.msg"' for name in messages)
    generate = f"rosidl_generate_interfaces(${{PROJECT_NAME}}\n{files}\n  DEPENDENCIES {' '.join(_DEPENDENCIES)}\n)\n\n"
    return text[:begin].replace("osprey_interfaces", package) + generate + text[end:]


def _write(source: Path, cmake: str, package: str, messages: Mapping[str, Mapping[str, str]]) -> Path:
    (source / "msg").mkdir(parents=True, exist_ok=True)
    (source / "CMakeLists.txt").write_text(cmake)
    for name, fields in messages.items():
        lines = [f"{kind} {field}" for field, kind in fields.items()]
        (source / "msg" / f"{name}.msg").write_text("\n".join(lines) + "\n")
    manifest = (ROOT / "osprey_interfaces" / "package.xml").read_text()
    (source / "package.xml").write_text(manifest.replace("osprey_interfaces", package))
    return source


def _build(source: Path, folder: Path, prefix: Path) -> None:
    prefixes = [sys.prefix, *filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))]
    environment = {
        **os.environ,
        "AMENT_PREFIX_PATH": os.pathsep.join(prefixes),
        "PATH": os.pathsep.join((str(Path(sys.prefix) / "bin"), os.environ.get("PATH", ""))),
    }
    for command in (
        [
            *("cmake", "-S", str(source), "-B", str(folder), "-G", "Ninja", f"-DCMAKE_INSTALL_PREFIX={prefix}"),
            *(f"-DCMAKE_PREFIX_PATH={';'.join(prefixes)}", f"-DPython3_EXECUTABLE={sys.executable}"),
            *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF", f"-DCMAKE_INSTALL_RPATH={prefix / 'lib'}"),
        ],
        ["cmake", "--build", str(folder)],
        ["cmake", "--install", str(folder)],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:2])} failed: {(done.stdout + done.stderr)[-3000:]}")
