"""Generated parameters: the node at its start, from the command line and from files, and while it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fuzz.commands import ERROR_CLASS, new_folder, run
from hypothesis import given
from hypothesis import strategies as st
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_harness import ros_environment

from osprey_ros.ros.node import main
from osprey_ros.ros.parameters import PARAMETERS

NAMES = st.one_of(
    st.sampled_from(sorted(PARAMETERS)),
    st.sampled_from(["slpo", "Slop", "max_region", "use_sim_time"]),
    st.text(st.characters(categories=["Ll", "Nd"], include_characters="_."), min_size=1, max_size=9),
)
VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-2, 40),
    st.floats(allow_subnormal=False),  # a library of ROS may switch subnormal numbers off
    st.text(max_size=8),
    st.sampled_from(["short", "nano", "fast", "auto", "raw", "color = red | blue"]),
    st.lists(st.text(max_size=8), max_size=3),
    st.lists(st.integers(-5, 5), max_size=3),
)


class _OneLook:
    """In the place of an executor: instead of running the node, look at it once."""

    look: Any = None

    def add_node(self, node: Node) -> None:
        self._node = node

    def spin(self) -> None:
        if _OneLook.look is not None:
            _OneLook.look(self._node)


@contextmanager
def _looked_at(look: Any) -> Iterator[None]:
    _OneLook.look = look
    try:
        yield
    finally:
        _OneLook.look = None


@pytest.fixture(scope="module", autouse=True)
def node_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the node end after one look; signals stay as they are."""
    folder = tmp_path_factory.mktemp("ros")
    with ros_environment(folder) as env, pytest.MonkeyPatch.context() as patch:
        for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOG_DIR"):
            patch.setenv(name, env[name])
        patch.setattr("osprey_ros.ros.run.SingleThreadedExecutor", _OneLook)
        patch.setattr("signal.signal", lambda *arguments: None)
        yield


def _yaml(value: Any) -> str:
    """Return a value as YAML, which JSON is but for numbers that are not finite."""
    if isinstance(value, float):
        return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}.get(repr(value), repr(value))
    return json.dumps(value, ensure_ascii=False)


@given(name=NAMES, value=VALUES, in_file=st.booleans())
def test_parameters_at_the_start(name: str, value: Any, in_file: bool, tmp_path: Path) -> None:
    if in_file:
        file = new_folder(tmp_path) / "parameters.yaml"
        file.write_text(f"/**:\n  ros__parameters:\n    {json.dumps(name, ensure_ascii=False)}: {_yaml(value)}\n")
        arguments = ["--ros-args", "--params-file", str(file)]
    else:
        arguments = ["--ros-args", "-p", f"{name}:={_yaml(value)}"]
    outcome = run(main, arguments, speaks=False)
    if outcome.status == 2:
        assert name in outcome.err or "parameter" in outcome.err or "--ros-args" in outcome.err, outcome.err
    else:
        assert outcome.status == 0


@given(changes=st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_parameters_while_the_node_runs(changes: list[tuple[str, Any]]) -> None:
    results: list[tuple[str, Any, Any]] = []

    def look(node: Node) -> None:
        for name, value in changes:
            try:
                parameter = Parameter(name, value=value)
            except (TypeError, ValueError):  # rclpy has no type for it
                continue
            if node.has_parameter(name):
                results.append((name, value, node.set_parameters([parameter])[0]))

    with _looked_at(look):
        assert run(main, [], speaks=False).status == 0
    for name, value, result in results:
        if not result.successful:
            assert result.reason, (name, value)
            assert not ERROR_CLASS.search(result.reason), result.reason
