"""Checks of Python, of this package, and of the libraries that run the engines."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import osprey_ros
from osprey_ros.doctor import finding
from osprey_ros.doctor.finding import Finding, Level

ok, warning, problem = (partial(make, "software") for make in (finding.ok, finding.warning, finding.problem))

OLDEST, NEWEST = (3, 10), (3, 14)  # versions of Python that the tests run with
# The modules that every installation needs, and how pip calls their packages.
_REQUIRED = {
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "scipy": "scipy",
    "tokenizers": "tokenizers",
    "llguidance": "llguidance",
    "tqdm": "tqdm",
}
# The extras of the package, and the modules that each one brings.
_EXTRAS = {"bag": ("mcap", "rosbags"), "sim": ("mujoco", "OpenGL"), "web": ("aiohttp",)}


def check_python(current: tuple[int, int] | None = None) -> Finding:
    """Return whether this package is tested with this Python."""
    found = current or (sys.version_info.major, sys.version_info.minor)
    text = f"{sys.version.split()[0]} in {sys.prefix}"
    if found < OLDEST:
        return problem("Python", text, f"use Python {OLDEST[0]}.{OLDEST[1]} or later")
    if found > NEWEST:
        return warning("Python", text, f"this version is not tested; the newest that is: {NEWEST[0]}.{NEWEST[1]}")
    return ok("Python", text)


def check_package() -> Finding:
    """Return the version and the place of this package."""
    return ok("osprey_ros", f"{osprey_ros.__version__} in {osprey_ros.__path__[0]}")


def check_libraries() -> list[Finding]:
    """Return whether the libraries are there that every installation needs, and which extras are complete."""
    missing = [package for module, package in _REQUIRED.items() if not _can_import(module)]
    if missing:
        text = f"missing or broken: {', '.join(missing)}"
        return [problem("libraries", text, f"pip install {' '.join(missing)}")]
    extras = [name for name, modules in _EXTRAS.items() if all(find_spec(module) for module in modules)]
    others = [name for name in _EXTRAS if name not in extras]
    text = f"numpy {_version('numpy')}, OpenCV {_version('opencv-python-headless', 'opencv-python')}"
    text += f"; extras {', '.join(extras) or 'none'}" + (f", without {', '.join(others)}" if others else "")
    return [ok("libraries", text)]


def check_onnxruntime(gpu: bool) -> Finding:
    """Return what onnxruntime can run on. ``gpu``: whether the machine has a GPU that can be used."""
    try:
        import onnxruntime
    except ImportError as error:
        return problem("onnxruntime", f"cannot be imported ({error})", "pip install onnxruntime")
    providers = onnxruntime.get_available_providers()
    text = f"{onnxruntime.__version__} with {', '.join(p.removesuffix('ExecutionProvider') for p in providers)}"
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name) != "?"]
    if len(both) > 1:
        return warning(
            "onnxruntime",
            f"{text}; both {' and '.join(both)} are installed, and one hides the other",
            "pip uninstall onnxruntime onnxruntime-gpu, then install the one that you need",
        )
    if gpu and "CUDAExecutionProvider" not in providers:
        return warning(
            "onnxruntime",
            f"{text}; the GPU is not used by ONNX graphs",
            "pip uninstall onnxruntime, then pip install 'osprey_ros[gpu]'; or build TensorRT plans",
        )
    return ok("onnxruntime", text)


def check_tensorrt(gpu: bool) -> Finding:
    """Return the version of TensorRT. ``gpu``: whether the machine has a GPU that can be used."""
    try:
        tensorrt = importlib.import_module("tensorrt")
    except ImportError:
        where = "build plans with it for the highest speed" if gpu else "only bundles with plans for a GPU need it"
        return ok("TensorRT", f"not installed; {where}")
    if not gpu:
        return ok("TensorRT", f"{tensorrt.__version__}, without a GPU to use it on")
    return ok("TensorRT", str(tensorrt.__version__))


def usable(findings: Collection[Finding]) -> bool:
    """Return whether no finding is a problem."""
    return all(found.level is not Level.PROBLEM for found in findings)


def _can_import(module: str) -> bool:
    try:
        importlib.import_module(module)
    except Exception:  # a library for another processor or NumPy fails in ways of its own
        return False
    return True


def _version(*names: str) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "?"
