"""What ROS tools read of the package: versions, entry points, what is installed, launch files."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ElementTree
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import osprey_ros

ROOT = Path(__file__).resolve().parents[1]


def setup_arguments() -> dict[str, ast.expr]:
    """The keyword arguments of setup() in setup.py."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup":
            return {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    raise AssertionError("setup.py does not call setup()")


def test_one_version_everywhere() -> None:
    packages = [ElementTree.parse(ROOT / place / "package.xml") for place in (".", "osprey_interfaces")]
    assert [p.findtext("name") for p in packages] == ["osprey_ros", "osprey_interfaces"]
    versions = {p.findtext("version") for p in packages} | {ast.literal_eval(setup_arguments()["version"])}
    assert versions == {osprey_ros.__version__}


def test_the_entry_points_exist() -> None:
    scripts = ast.literal_eval(setup_arguments()["entry_points"])["console_scripts"]
    assert {script.split(" = ")[0] for script in scripts} == {"osprey", "osprey_node", "sim_camera"}
    for script in scripts:
        module, function = script.split(" = ")[1].split(":")
        assert callable(getattr(import_module(module), function))


def test_the_messages_depend_on_what_the_package_says() -> None:
    depends = {d.text for d in ElementTree.parse(ROOT / "osprey_interfaces" / "package.xml").iter("depend")}
    used = {
        line.split("/")[0]
        for message in (ROOT / "osprey_interfaces" / "msg").glob("*.msg")
        for line in message.read_text().splitlines()
        if "/" in line.split("#")[0]
    }
    assert used - {"osprey_interfaces"} <= depends


@pytest.mark.parametrize("name", ["osprey.launch.py", "demo.launch.py"])
def test_launch_files_start_the_installed_executables(name: str) -> None:
    tree = ast.parse((ROOT / "launch" / name).read_text())
    executables = [k.value.value for k in ast.walk(tree) if isinstance(k, ast.keyword) and k.arg == "executable"]
    assert executables == [{"osprey.launch.py": "osprey_node", "demo.launch.py": "sim_camera"}[name]]


def test_colcon_is_told_of_both_packages() -> None:
    defaults = yaml.safe_load((ROOT / "colcon_defaults.yaml").read_text())
    for verb in ("build", "list", "test"):
        assert all((ROOT / path / "package.xml").is_file() for path in defaults[verb]["base-paths"])
        assert len(defaults[verb]["base-paths"]) == 2
