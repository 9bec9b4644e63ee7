"""The runtime is light: importing it, and running it, pulls in nothing that a robot does not have."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "transformers", "timm", "rclpy", "tensorrt", "mujoco")

# Everything but the ROS side. Written out, because pkgutil.walk_packages imports what it is to skip.
IMPORT_ALL = """
import importlib, pkgutil, osprey_ros
def import_all(package):
    for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if found.name != "osprey_ros.ros":
            module = importlib.import_module(found.name)
            if found.ispkg:
                import_all(module)
import_all(osprey_ros)
"""


def _loaded_after(code: str) -> set[str]:
    report = f"{code}\nimport sys\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_osprey_ros_loads_nothing_heavy() -> None:
    loaded = _loaded_after("import osprey_ros")
    assert "osprey_ros" in loaded
    assert loaded.isdisjoint({*HEAVY, "numpy", "onnxruntime", "cv2", "PIL"})


def test_every_public_name_and_module_comes_without_torch_or_ros() -> None:
    loaded = _loaded_after(IMPORT_ALL + "for name in osprey_ros.__all__: getattr(osprey_ros, name)")
    assert {f"osprey_ros.{name}" for name in ("describer", "cli", "pipeline", "engines.onnxruntime")} <= loaded
    assert "osprey_ros.ros" not in loaded
    assert loaded.isdisjoint(HEAVY)


def test_unknown_name_is_an_attribute_error() -> None:
    import osprey_ros

    with pytest.raises(AttributeError, match="Discriber"):
        osprey_ros.Discriber  # noqa: B018
