"""The runtime is light: importing it, and running it, pulls in nothing that a robot does not have."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files

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


def test_a_name_loads_only_its_own_module() -> None:
    loaded = _loaded_after("from osprey_ros import OspreyError")
    assert loaded.isdisjoint({*HEAVY, "numpy", "onnxruntime", "tokenizers", "cv2", "PIL", "osprey_ros.describer"})


@pytest.mark.parametrize("name", ["Timing", "Sampling"])
def test_plain_data_loads_no_engine_and_no_tokenizer(name: str) -> None:
    loaded = _loaded_after(f"from osprey_ros import {name}")
    assert loaded.isdisjoint({*HEAVY, "onnxruntime", "tokenizers", "regex", "cv2", "PIL"})
    assert not [module for module in loaded if module.startswith(("osprey_ros.engines", "osprey_ros.describer"))]


def test_the_interface_of_engines_loads_no_runtime() -> None:
    loaded = _loaded_after("import osprey_ros.engines.base, osprey_ros.bundle.fingerprint")
    assert loaded.isdisjoint({*HEAVY, "onnxruntime"})
    assert loaded.isdisjoint(
        {"osprey_ros.engines.onnxruntime", "osprey_ros.engines.tensorrt", "osprey_ros.engines.cuda"}
    )


def test_public_names_are_what_their_modules_define() -> None:
    import osprey_ros

    expected = {"AttributeSpec", "Describer", "Frame", "Matching", "OneOf", "Pipeline", "StepSettings", "load_image"}
    assert expected <= set(osprey_ros.__all__) <= set(dir(osprey_ros))
    for name in osprey_ros.__all__:
        found = getattr(osprey_ros, name)
        assert found.__name__ == name
        assert found.__module__.startswith("osprey_ros.")


def test_type_information_is_shipped() -> None:
    import osprey_ros

    assert files(osprey_ros).joinpath("py.typed").is_file()


def test_unknown_name_is_an_attribute_error() -> None:
    import osprey_ros

    with pytest.raises(AttributeError, match="Discriber"):
        osprey_ros.Discriber  # noqa: B018
