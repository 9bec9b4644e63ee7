"""Values of parameters as users write them, and names that do not exist."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from ros_harness import ros_environment

from osprey_ros.errors import InputError
from osprey_ros.ros import node as node_module
from osprey_ros.ros.node import OspreyNode
from osprey_ros.ros.parameter_values import converted, unknown
from osprey_ros.ros.parameters import PARAMETERS


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        (1, 0.0, 1.0),
        (0.5, 0.0, 0.5),
        (15.0, 3, 15),
        ("TRUE", False, True),
        (False, True, False),
        ("7", "nano", "7"),
        (None, [""], [""]),
        ([], [""], [""]),
        (array("q"), [""], [""]),
        ("material", [""], ["material"]),
        (("a", "b"), [""], ["a", "b"]),
    ],
)
def test_what_is_meant_is_taken(value: Any, default: Any, expected: Any) -> None:
    found = converted("it", value, default)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("value", "default", "reason"),
    [
        ("fast", 0.0, "it is 'fast', a text; set it to a number"),
        (True, 0.0, "it is true; set it to a number"),
        (float("nan"), 0.0, "it is nan; set it to a finite number"),
        (float("inf"), 3, "it is inf; set it to a finite number"),
        (1.5, 3, "it is 1.5, a number; set it to a whole number"),
        (1, True, "it is 1, a whole number; set it to true or false"),
        ("yes", True, "it is 'yes', a text; set it to true or false"),
        (7, "nano", """it is 7, a whole number; set it to a text, in two kinds of quotes: "it:='7'\""""),
        (None, 0.0, "it is without a value; set it to a number"),
        ([1, 2], [""], r"it is [1, 2], a list; set it to a list of texts"),
        (array("d", [1.0]), "", r"it is [1.0], a list; set it to a text"),
        (5, [""], "it is 5, a whole number; set it to a list of texts"),
    ],
)
def test_other_values_are_refused_in_words(value: Any, default: Any, reason: str) -> None:
    with pytest.raises(InputError) as error:
        converted("it", value, default)
    assert str(error.value).startswith(reason)


def test_unknown_names() -> None:
    assert unknown("slpo", PARAMETERS) == "there is no parameter 'slpo'; did you mean 'slop'?"
    assert unknown("robot", PARAMETERS) == "there is no parameter 'robot'; docs/parameters.md lists the parameters"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ros_environment(tmp_path) as env:
        for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOG_DIR"):
            monkeypatch.setenv(name, env[name])
        yield


def started(arguments: list[str], check: Any) -> None:
    """Create the node with ROS arguments in this process, and call ``check`` with it."""
    rclpy.init(args=["--ros-args", *arguments])
    try:
        node = OspreyNode()
        try:
            check(node)
        finally:
            node.destroy_node()
    finally:
        rclpy.shutdown()


YAML = """\
/**:
  ros__parameters:
    rate_limit: 5
    attributes: []
    queue_size: 20.0
    slpo: 0.1
"""


@pytest.mark.parametrize("way", ["line", "file"])
def test_the_node_starts_with_whole_numbers_empty_lists_and_misspelled_names(
    way: str, environment: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.yaml").write_text(YAML)
    line = ["-p", "rate_limit:=5", "-p", "attributes:=[]", "-p", "queue_size:=20.0", "-p", "slpo:=0.1"]

    def check(node: OspreyNode) -> None:
        values = [node.get_parameter(name).value for name in ("rate_limit", "attributes", "queue_size")]
        assert values == [5.0, [""], 20]
        assert [type(value) for value in values] == [float, list, int]

    started(line if way == "line" else ["--params-file", str(tmp_path / "p.yaml")], check)
    said = capfd.readouterr().err
    assert said.count("there is no parameter") == 1
    assert "there is no parameter 'slpo'; did you mean 'slop'? (its value has no effect)" in said


def test_no_name_is_reported_where_all_exist(environment: None, capfd: pytest.CaptureFixture[str]) -> None:
    started(
        ["-p", "use_sim_time:=true", "-p", "slop:=1", "-p", "qos_overrides./a.publisher.depth:=3"], lambda node: None
    )
    assert "there is no parameter" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("slop:=abc", "cannot start: slop is 'abc', a text; set it to a number"),
        ("slop:=.nan", "cannot start: slop is nan; set it to a finite number"),
        ("slop:=11", "cannot start: slop is 11.0; it must be from 0.0 to 10.0"),
        ("attributes:=[1, 2]", "cannot start: attributes is [1, 2], a list; set it to a list of texts"),
        ("style:=1", "cannot start: style is 1, a whole number; set it to a text"),
    ],
)
def test_an_invalid_value_ends_the_start(
    argument: str, reason: str, environment: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert node_module.main(["--ros-args", "-p", argument]) == 2
    assert reason in capfd.readouterr().err


def test_values_at_run_time(environment: None) -> None:
    def check(node: OspreyNode) -> None:
        def attempt(name: str, value: Any, kind: Parameter.Type | None = None) -> str:
            result = node.set_parameters([Parameter(name, kind, value)])[0]
            assert result.successful == (result.reason == "")
            return str(result.reason)

        assert attempt("time_budget", 1) == ""
        assert node.get_parameter("time_budget").value == 1.0
        assert attempt("attributes", ["material"]) == ""
        assert attempt("attributes", [], Parameter.Type.BOOL_ARRAY) == ""
        assert node.get_parameter("attributes").value == [""]
        assert attempt("time_budget", "x") == "time_budget is 'x', a text; set it to a number"
        assert attempt("max_regions", 0) == "max_regions is 0; it must be from 1 to 4096"
        assert attempt("slpo", 0.1) == "there is no parameter 'slpo'; did you mean 'slop'?"
        assert attempt("autostart", True).startswith("autostart takes effect only when the node starts")
        assert attempt("use_sim_time", False) == ""

    started([], check)


def test_the_service_converts_too(environment: None) -> None:
    def check(node: OspreyNode) -> None:
        context = Context()
        rclpy.init(context=context, args=[])
        other = rclpy.create_node("other", context=context)
        executors = [SingleThreadedExecutor(context=found.context) for found in (node, other)]
        for executor, found in zip(executors, (node, other), strict=True):
            executor.add_node(found)
        client = other.create_client(SetParameters, "/osprey/set_parameters")
        assert client.wait_for_service(30)
        parameters = [Parameter("time_budget", value=1), Parameter("slpo", value=1)]
        future = client.call_async(SetParameters.Request(parameters=[p.to_parameter_msg() for p in parameters]))
        while not future.done():
            for executor in executors:
                executor.spin_once(timeout_sec=0.02)
        found = [(result.successful, result.reason) for result in future.result().results]  # type: ignore[union-attr]
        assert found == [(True, ""), (False, "there is no parameter 'slpo'; did you mean 'slop'?")]
        for executor in executors:
            executor.shutdown()
        other.destroy_node()
        rclpy.shutdown(context=context)

    started([], check)
