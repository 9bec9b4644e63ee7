"""The runtime is light: importing it, and running it, pulls in nothing that a robot does not have."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "transformers", "timm", "rclpy", "tensorrt")
MODULES = ("bundle", "cli", "decoder", "describer", "draw", "engines", "image", "mask_files", "prompt", "regions")


def _loaded_after(code: str) -> set[str]:
    report = f"{code}\nimport sys\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_osprey_ros_loads_nothing_heavy() -> None:
    loaded = _loaded_after("import osprey_ros")
    assert "osprey_ros" in loaded
    assert loaded.isdisjoint({*HEAVY, "numpy", "onnxruntime", "cv2", "PIL"})


def test_every_public_name_and_module_comes_without_torch_or_ros() -> None:
    loaded = _loaded_after(
        "import osprey_ros\n"
        "for name in osprey_ros.__all__: getattr(osprey_ros, name)\n"
        + "".join(f"import osprey_ros.{module}\n" for module in MODULES)
    )
    assert "osprey_ros.describer" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_unknown_name_is_an_attribute_error() -> None:
    import osprey_ros

    with pytest.raises(AttributeError, match="Discriber"):
        osprey_ros.Discriber  # noqa: B018
