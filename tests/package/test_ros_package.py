"""What ROS tools read of the package: versions, entry points, what is installed, launch files."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from catkin_pkg.changelog import get_changelog_from_path

import osprey_ros

ROOT = Path(__file__).resolve().parents[2]


def setup_arguments() -> dict[str, ast.expr]:
    """The keyword arguments of setup() in setup.py."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup":
            return {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    raise AssertionError("setup.py does not call setup()")


def test_one_version_and_license_everywhere() -> None:
    packages = [ElementTree.parse(ROOT / place / "package.xml") for place in (".", "osprey_interfaces")]
    assert [p.findtext("name") for p in packages] == ["osprey_ros", "osprey_interfaces"]
    assert {p.findtext("version") for p in packages} == {osprey_ros.__version__}
    assert {p.findtext("license") for p in packages} == {"Apache-2.0"}
    fields = ["name", "version", "license", "description", "maintainer", "maintainer-email"]
    command = [sys.executable, "setup.py", "--quiet", *(f"--{field}" for field in fields)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    package = packages[0]
    maintainer = package.find("maintainer")
    assert maintainer is not None
    expected = [package.findtext(field) for field in fields[:4]] + [maintainer.text, maintainer.get("email")]
    assert done.stdout.splitlines() == expected


def test_the_version_of_an_installed_package_comes_from_its_metadata(tmp_path: Path) -> None:
    installed = tmp_path / "osprey_ros"
    installed.mkdir()
    for name in ("__init__.py", "_moved.py"):
        (installed / name).write_text((ROOT / "osprey_ros" / name).read_text())
    (tmp_path / "osprey_ros-7.8.9.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: osprey_ros\nVersion: 7.8.9\n"
    (tmp_path / "osprey_ros-7.8.9.dist-info" / "METADATA").write_text(metadata)
    show = [sys.executable, "-c", "import osprey_ros; print(osprey_ros.__version__)"]
    done = subprocess.run(show, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.stdout == "7.8.9\n", done.stderr


def test_the_license_is_the_full_text_and_is_installed() -> None:
    text = (ROOT / "LICENSE").read_text()
    # The published text, with its appendix.
    assert sha256(text.encode()).hexdigest() == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert ast.literal_eval(setup_arguments()["license_files"]) == ["LICENSE", "NOTICE"]
    for name in ("NOTICE", "README.md", "engines/nano/README.md"):
        assert "Apache" in (ROOT / name).read_text()


def test_the_changelog_begins_with_this_version() -> None:
    changelog = get_changelog_from_path(str(ROOT), "osprey_ros")
    versions = [version for version, _, _ in changelog.foreach_version(reverse=True)]
    assert versions == sorted(versions, key=lambda v: [int(n) for n in v.split(".")], reverse=True)
    assert versions[0] == osprey_ros.__version__
    assert all(changelog.get_content_of_version(version) for version in versions)


def test_the_entry_points_exist() -> None:
    scripts = ast.literal_eval(setup_arguments()["entry_points"])["console_scripts"]
    assert {script.split(" = ")[0] for script in scripts} == {"osprey", "osprey_node", "segmenter_node", "sim_camera"}
    for script in scripts:
        module, function = script.split(" = ")[1].split(":")
        assert callable(getattr(import_module(module), function))


def test_the_messages_depend_on_what_the_package_says() -> None:
    depends = {d.text for d in ElementTree.parse(ROOT / "osprey_interfaces" / "package.xml").iter("depend")}
    used = {
        line.split("/")[0]
        for message in (ROOT / "osprey_interfaces").glob("*/*.*")
        for line in message.read_text().splitlines()
        if "/" in line.split("#")[0]
    }
    # What the generators need for services and actions; Humble has no service_msgs.
    assert (used | {"action_msgs", "service_msgs"}) - {"osprey_interfaces"} <= depends


def test_every_interface_is_built() -> None:
    built = re.findall(r'"((?:msg|srv|action)/\S+)"', (ROOT / "osprey_interfaces" / "CMakeLists.txt").read_text())
    there = [path for kind in ("msg", "srv", "action") for path in (ROOT / "osprey_interfaces" / kind).iterdir()]
    assert len(there) > 10
    assert sorted(built) == sorted(f"{path.parent.name}/{path.name}" for path in there)


def calls(name: str, function: str) -> list[ast.Call]:
    """All calls of a function in a launch file."""
    tree = ast.parse((ROOT / "launch" / name).read_text())
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == function]


def keyword(call: ast.Call, name: str) -> Any:
    return next(ast.literal_eval(k.value) for k in call.keywords if k.arg == name)


def test_launch_files_start_the_installed_executables() -> None:
    nodes = calls("osprey.launch.py", "LifecycleNode")
    assert {keyword(node, "executable") for node in nodes} == {"segmenter_node", "osprey_node"}
    assert '"package": "osprey_ros"' in (ROOT / "launch" / "osprey.launch.py").read_text()
    started = {(keyword(node, "package"), keyword(node, "executable")) for node in calls("demo.launch.py", "Node")}
    assert ("osprey_ros", "sim_camera") in started
    assert all(package != "osprey_ros" or executable == "sim_camera" for package, executable in started)


@pytest.mark.parametrize("name", ["osprey.launch.py", "demo.launch.py"])
def test_every_launch_argument_is_described(name: str) -> None:
    declared = calls(name, "DeclareLaunchArgument")
    assert declared
    assert all(any(k.arg == "description" for k in call.keywords) for call in declared)


def test_launch_arguments() -> None:
    source = (ROOT / "launch" / "osprey.launch.py").read_text()
    wanted = "namespace bundle image segmentation params_file use_sim_time autostart respawn log_level image_transport"
    assert all(f'"{name}"' in source for name in wanted.split())


@pytest.fixture
def osprey_launch(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What osprey.launch.py defines; actions are their keyword arguments, for launch is not on PyPI."""

    def action(*names: str, **arguments: Any) -> SimpleNamespace:
        return SimpleNamespace(names=names, **arguments)

    launch = {"LaunchContext": None, "LaunchDescription": None}
    actions = dict.fromkeys(("DeclareLaunchArgument", "OpaqueFunction", "LifecycleNode"), action)
    for name, module in {
        "launch": launch,
        "launch.actions": actions,
        "launch_ros": {},
        "launch_ros.actions": actions,
        "ament_index_python": {},
        "ament_index_python.packages": {"get_package_share_directory": lambda package: str(ROOT)},
    }.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**module))
    return run_path(str(ROOT / "launch" / "osprey.launch.py"))


def parameters_of(osprey_launch: dict[str, Any], **given: str) -> dict[str, Any]:
    """The parameters that go before params_file, where these arguments are given."""
    values = {argument.names[0]: argument.default_value for argument in osprey_launch["ARGUMENTS"]}
    (node,) = osprey_launch["osprey"](SimpleNamespace(launch_configurations={**values, **given}))
    file, parameters = node.parameters
    assert file == str(ROOT / "config" / "osprey.yaml")
    return parameters


def test_the_file_of_parameters_has_its_way_where_no_argument_is_given(osprey_launch: dict[str, Any]) -> None:
    assert parameters_of(osprey_launch) == {"autostart": True}
    given = parameters_of(osprey_launch, use_sim_time="true", use_depth="false", bundle="nano", autostart="false")
    assert given == {"use_sim_time": True, "use_depth": False, "bundle": "nano", "autostart": False}
    choices = {a.names[0]: getattr(a, "choices", None) for a in osprey_launch["ARGUMENTS"]}
    assert choices["use_sim_time"] == choices["use_depth"] == ("", "true", "false")


def test_a_segmenter_takes_the_camera_and_the_node_takes_its_ids(osprey_launch: dict[str, Any]) -> None:
    values = {argument.names[0]: argument.default_value for argument in osprey_launch["ARGUMENTS"]}
    values |= {"segmenter": "true", "image": "/camera/image", "clicked_point": "/clicks", "segmenter_source": "clicks"}
    segmenter, osprey = osprey_launch["osprey"](SimpleNamespace(launch_configurations=values))
    assert segmenter.parameters == [{"bundle": "segmenter", "source": "clicks", "rate_limit": 5.0, "autostart": True}]
    assert dict(segmenter.remappings)["image"] == dict(osprey.remappings)["image"] == "/camera/image"
    assert dict(segmenter.remappings)["clicked_point"] == "/clicks"
    assert dict(osprey.remappings)["segmentation"] == "segmenter/ids"


def test_each_installed_folder_is_there_and_has_what_launch_files_name() -> None:
    folders = [call.args[0].value for call in ast.walk(setup_arguments()["data_files"]) if isinstance(call, ast.Call)]
    assert {"launch", "config", "rviz", "foxglove", "engines/nano"} <= set(folders)
    assert all(any((ROOT / folder).iterdir()) for folder in folders)


def test_docker_sees_all_that_is_installed() -> None:
    lines = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    let_back = {line.removeprefix("!") for line in lines if line.startswith("!")}
    installed = set()
    for entry in setup_arguments()["data_files"].elts:
        if isinstance(entry, ast.Call):
            installed.add(entry.args[0].value)
        else:
            # A name within them may be an f-string of NAME.
            installed |= {ast.unparse(file).strip("f'").replace("{NAME}", "osprey_ros") for file in entry.elts[1].elts}
    assert len(installed) >= 8
    hidden = [path for path in installed if not any(Path(path).is_relative_to(folder) for folder in let_back)]
    assert not hidden, "not in the build context, setup.py fails there"


def test_colcon_runs_the_tests_with_pytest() -> None:
    assert "pytest" in ast.literal_eval(setup_arguments()["extras_require"])["test"]


def test_what_is_imported_is_a_dependency() -> None:
    rosdep = {"numpy": "python3-numpy", "cv2": "python3-opencv", "PIL": "python3-pil"}
    rosdep |= {"onnxruntime": "python3-onnxruntime-pip", "scipy": "python3-scipy"}
    declared = {d.text for d in ElementTree.parse(ROOT / "package.xml").iter("exec_depend")}
    imported = set()
    for path in (*(ROOT / "osprey_ros").rglob("*.py"), ROOT / "osprey_sim" / "camera_node.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    messages = {name for name in imported if name.endswith(("_msgs", "_interfaces"))}
    assert messages | {"rclpy"} <= declared
    assert {rosdep[name] for name in imported & set(rosdep)} <= declared


@pytest.mark.parametrize("topic", ["/osprey/overlay", "/osprey/markers", "/camera/depth"])
def test_the_viewers_look_at_the_topics_of_the_demo(topic: str) -> None:
    rviz = (ROOT / "rviz" / "osprey.rviz").read_text()
    assert yaml.safe_load(rviz)["Visualization Manager"]["Displays"]
    foxglove = (ROOT / "foxglove" / "osprey.json").read_text()
    panels = json.loads(foxglove)["configById"]
    assert all(f'"{panel}"' in foxglove.split('"layout"')[1] for panel in panels)
    assert topic in rviz
    assert topic in foxglove


def test_colcon_is_told_of_both_packages() -> None:
    defaults = yaml.safe_load((ROOT / "colcon_defaults.yaml").read_text())
    for verb in ("build", "list", "test"):
        assert all((ROOT / path / "package.xml").is_file() for path in defaults[verb]["base-paths"])
        assert len(defaults[verb]["base-paths"]) == 2
