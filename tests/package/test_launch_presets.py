"""Launch files for what people already run: osprey.launch.py with other defaults, which its parameters accept."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from osprey_ros.messages.regions import regions_from_message
from osprey_ros.ros.outputs.messages import header_message
from osprey_ros.ros.parameters import PARAMETERS

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
PRESETS = ("yolo_ros", "isaac_ros", "semantic_inference", "segment_anything", "detections")
OWN = ("osprey", "demo")


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of launch, whose actions are their arguments: launch is not on PyPI."""

    def action(*names: Any, **arguments: Any) -> SimpleNamespace:
        return SimpleNamespace(names=names, **arguments)

    actions = dict.fromkeys(("DeclareLaunchArgument", "IncludeLaunchDescription", "OpaqueFunction"), action)
    for name, module in {
        "launch": {"LaunchContext": None, "LaunchDescription": list},
        "launch.actions": actions,
        "launch.launch_description_sources": {"PythonLaunchDescriptionSource": str},
        "launch_ros": {},
        "launch_ros.actions": {"LifecycleNode": action},
        "ament_index_python": {},
        "ament_index_python.packages": {"get_package_share_directory": lambda package: str(LAUNCH.parent)},
    }.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**module))


def test_all_of_them_are_checked_here() -> None:
    assert {path.name.removesuffix(".launch.py") for path in LAUNCH.glob("*.launch.py")} == {*PRESETS, *OWN}


@pytest.mark.parametrize("name", PRESETS)
def test_defaults_are_arguments_of_osprey_launch_and_values_of_its_parameters(name: str, launch: None) -> None:
    known = {one.names[0]: one for one in run_path(str(LAUNCH / "osprey.launch.py"))["ARGUMENTS"]}
    *declared, included = run_path(str(LAUNCH / f"{name}.launch.py"))["generate_launch_description"]()
    assert included.names == (str(LAUNCH / "osprey.launch.py"),)
    defaults = {one.names[0]: one.default_value for one in declared}
    assert defaults.keys() <= known.keys()
    assert all(one.default_value in one.description for one in declared)
    for argument, value in defaults.items():
        if argument in PARAMETERS:
            PARAMETERS[argument].check(value)
            assert value in getattr(known[argument], "choices", (value,))
        else:
            assert value.startswith("/")  # a topic
    source = defaults.get("regions_from", "segmentation")
    assert source in defaults  # the topic of the regions is given


@pytest.mark.parametrize("name", PRESETS)
def test_the_page_about_masks_names_it(name: str) -> None:
    assert f"{name}.launch.py" in (LAUNCH.parent / "docs" / "masks.md").read_text()


def test_the_lines_for_masks_that_overlap_give_these_masks() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (LAUNCH.parent / "docs" / "masks.md").read_text(), re.DOTALL)
    defined: dict[str, Any] = {}
    exec(code, defined)
    masks = np.random.default_rng(0).random((3, 30, 40)) > 0.5
    message = defined["region_array"](header_message(1, "camera"), masks, [5, 3, 9])
    regions, _ = regions_from_message(message)
    assert regions.ids.tolist() == [5, 3, 9]
    for row, mask in enumerate(masks):
        x, y, width, height = regions.boxes[row]
        np.testing.assert_array_equal(regions.crop(row), mask[y : y + height, x : x + width])
        assert regions.areas[row] == mask.sum()
