"""Arguments of a node that ROS would refuse, and those without effect."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from osprey_ros.ros import node as node_module
from osprey_ros.ros.arguments import check_arguments, completed, unused_arguments
from osprey_ros.ros.node import TOPICS


def ros(*arguments: str) -> list[str]:
    return ["--ros-args", *arguments]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["slop:=1"], "unknown argument 'slop:=1'; write parameters as --ros-args -p NAME:=VALUE"),
        ([*ros("-p", "slop:=1", "--"), "more"], "unknown argument 'more'"),
        (ros("-p", "slop"), "-p 'slop' is incomplete; write -p NAME:=VALUE"),
        (ros("-p", "0:=1"), "-p '0:=1': '0' is not a parameter name; see `ros2 param list`"),
        (ros("-p"), "-p '' is incomplete; write -p NAME:=VALUE"),
        (ros("--remap", "image=/camera"), "--remap 'image=/camera' is incomplete; write --remap FROM:=TO"),
        (ros("-r", "image:=/my camera"), "-r 'image:=/my camera': ROS refuses the name '/my camera'; use letters"),
        (ros("-r", "image:=/a//b"), "-r 'image:=/a//b': ROS refuses the name '/a//b'; use letters"),
        (ros("-r", "osprey:image:=1a"), "-r 'osprey:image:=1a': ROS refuses the name '1a'; use letters"),
        (ros("-r", "__ns:=robot"), "-r '__ns:=robot': ROS refuses the name 'robot'; use letters"),
        (ros("-r", "__node:=a/b"), "-r '__node:=a/b': ROS refuses the name 'a/b'; use letters"),
        (ros("-p", "slop:=["), "-p slop:=[ is not YAML in line 1"),
        (
            ros("-p", "attributes:=[a, 1]"),
            "attributes is ['a', 1], a list of different types; write each item in quotes",
        ),
        (ros("-p", "slop:={a: 1}"), "-p 'slop:={a: 1}' has names in its value; write -p NAME:=VALUE"),
        (ros("-p", "use_sim_time:=1"), "use_sim_time is 1; set it to true or false"),
        (ros("-p", "style:="), "style is ''; it must be one of short, detailed, category"),
        (ros("--params-file", "none.yaml"), "the parameter file none.yaml cannot be read: No such file or directory"),
        (ros("--log-level", "loud"), "ROS 2 cannot be initialized; check the arguments after --ros-args"),
        (ros("--unheard-of"), "ROS 2 cannot be initialized; check the arguments after --ros-args"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(
    arguments: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["osprey_node", *arguments])
    assert node_module.main() == 2
    error = capfd.readouterr().err
    assert f"cannot start: {reason}" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "is not YAML in line 1; see config/osprey.yaml"),
        ("/**: {ros__parameters: {attributes: [a, 1]}}", "attributes is ['a', 1], a list of different types"),
        ("just a text", "has no section for a node; see config/osprey.yaml"),
        ("", "has no section for a node"),
    ],
)
def test_parameter_files_that_cannot_be_used_are_named(text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(reason)):
        check_arguments(ros("--params-file", str(file)))


def test_a_parameter_without_a_value_is_empty() -> None:
    assert completed(ros("-p", "attributes:=", "-r", "a:=", "-p", "slop:=1")) == ros(
        "-p", "attributes:=''", "-r", "a:=", "-p", "slop:=1"
    )


@pytest.mark.parametrize(
    ("section", "used"),
    [
        ("/**", True),
        ("/*", False),
        ("/**/osprey", True),
        ("osprey", False),
        ("robot/osprey", True),
        ("/robot/*", True),
        ("/robot", False),
        ("/ospry", False),
    ],
)
def test_parameter_files_for_other_nodes_are_named(section: str, used: bool, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"{section}:\n  ros__parameters:\n    slop: 1\n")
    found = unused_arguments(ros("--params-file", str(file)), "/robot/osprey", TOPICS)
    name = "/" + section.strip("/")
    expected = f"{file} has no parameters for /robot/osprey, only for {name}; name the section /robot/osprey or /**"
    assert found == ([] if used else [expected])


def test_nested_sections(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("robot:\n  osprey:\n    ros__parameters: {slop: 1}\n")
    assert unused_arguments(ros("--params-file", str(file)), "/robot/osprey", TOPICS) == []
    assert "only for /robot/osprey" in unused_arguments(ros("--params-file", str(file)), "/osprey", TOPICS)[0]


@pytest.mark.parametrize(
    "remap",
    ["image:=/a", "/image:=/a", "~/objects:=/a", "osprey:image:=/a", "__ns:=/a", "__node:=a", "image/compressed:=/a"],
)
def test_remapped_names_that_exist(remap: str) -> None:
    check_arguments(ros("-r", remap))
    assert unused_arguments(ros("-r", remap), "/osprey", TOPICS) == []


def test_remapped_names_that_do_not_exist() -> None:
    (found,) = unused_arguments(ros("-r", "imge:=/camera/image"), "/osprey", TOPICS)
    assert found == "remapping 'imge' has no effect: the node has no such topic; did you mean 'image'?"
    (found,) = unused_arguments(ros("--remap", "zzz:=/a"), "/osprey", ("image",))
    assert found == "remapping 'zzz' has no effect: the node has no such topic; it has image."
