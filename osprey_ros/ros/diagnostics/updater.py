"""Publishes how the node is on ``/diagnostics``, once a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from osprey_ros.ros.diagnostics.status import Status

PERIOD = 1.0  # seconds


class Diagnostics:
    """Asks ``look`` for the state of the node once a second, whatever the lifecycle state, and publishes it.

    Each status is named after the node: "osprey: inputs". ``hardware_id`` is the name of the node with its namespace.
    """

    def __init__(self, node: Node, look: Callable[[], Sequence[Status]]) -> None:
        self._node, self._look = node, look
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Simulated time may stand still, and that is when one wants to know.
        node.create_timer(PERIOD, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _publish(self) -> None:
        array = DiagnosticArray(status=[self._message(status) for status in self._look()])
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
