"""Publisher of the node's status on ``/diagnostics``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.node import Node

from osprey_ros.ros.diagnostics.status import Status

PERIOD = 1.0  # seconds


class Diagnostics:
    """Publish the status of a node once a second, in every lifecycle state.

    The name of each status begins with the node's name: "osprey: inputs". ``hardware_id`` is the full name of the node.

    Args:
        node: owner of publisher and timer.
        collect: returns the current status entries; called in the executor's thread.
    """

    def __init__(self, node: Node, collect: Callable[[], Sequence[Status]]) -> None:
        self._node, self._collect = node, collect
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # A steady clock: diagnostics are needed most when simulated time stands still.
        node.create_timer(PERIOD, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _publish(self) -> None:
        array = DiagnosticArray(status=[self._message(status) for status in self._collect()])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def _message(self, status: Status) -> DiagnosticStatus:
        name = self._node.get_fully_qualified_name()
        return DiagnosticStatus(
            level=bytes([status.level]),
            name=f"{name.lstrip('/')}: {status.name}",
            hardware_id=name,
            message=status.message,
            values=[KeyValue(key=key, value=value) for key, value in status.values.items()],
        )
