"""Parameters are applied after all validation callbacks have accepted them, with and without rclpy's own callback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import rclpy
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from ros_harness import DEADLINE, ros_environment

from osprey_ros.ros import parameter_node
from osprey_ros.ros.parameter_node import ParameterNode


class Counted(ParameterNode):
    """A node that keeps what was set; a validation callback that comes later refuses odd numbers."""

    def __init__(self) -> None:
        super().__init__("counted")
        self.applied: list[tuple[str, int]] = []
        self.declare_parameters("", [("first", 0), ("second", 0)])
        self.call_after_parameters_set(self._keep)
        self.add_on_set_parameters_callback(
            lambda parameters: SetParametersResult(successful=all(p.value % 2 == 0 for p in parameters))
        )

    def _keep(self, parameters: list[Parameter]) -> None:
        self.applied += [(p.name, self.get_parameter(p.name).value) for p in parameters]


@pytest.fixture(params=[True, False], ids=["post-set callback", "as in Humble"])
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Counted]:
    monkeypatch.setattr(parameter_node, "HAS_POST_SET_CALLBACKS", request.param)
    with ros_environment(tmp_path_factory.mktemp("ros")) as env:
        for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOG_DIR"):
            monkeypatch.setenv(name, env[name])
        rclpy.init(args=[])
        node = Counted()
        yield node
        node.destroy_node()
        rclpy.shutdown()


def numbers(**values: int) -> list[Parameter]:
    return [Parameter(name, value=value) for name, value in values.items()]


def test_only_accepted_values_are_applied(node: Counted) -> None:
    results = node.set_parameters(numbers(first=2, second=3))
    assert [result.successful for result in results] == [True, False]
    assert node.applied == [("first", 2)]
    assert not node.set_parameters_atomically(numbers(first=4, second=3)).successful
    assert node.applied == [("first", 2)]
    assert node.set_parameters_atomically(numbers(first=4, second=6)).successful
    assert node.applied[1:] == [("first", 4), ("second", 6)]


def test_the_services_apply_values_too(node: Counted) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    messages = [p.to_parameter_msg() for p in numbers(first=8, second=5)]
    each = node.create_client(SetParameters, "/counted/set_parameters")
    together = node.create_client(SetParametersAtomically, "/counted/set_parameters_atomically")
    for client, request in (
        (each, SetParameters.Request(parameters=messages)),
        (together, SetParametersAtomically.Request(parameters=messages)),
    ):
        assert client.wait_for_service(DEADLINE)
        future = client.call_async(request)
        executor.spin_until_future_complete(future, DEADLINE)
        assert future.done()
    assert node.applied == [("first", 8)]
    executor.shutdown()
