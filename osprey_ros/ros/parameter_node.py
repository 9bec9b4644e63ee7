"""Lifecycle node that can react to parameters after they were set, on all ROS distributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.parameter import Parameter

HAS_POST_SET_CALLBACKS = hasattr(Node, "add_post_set_parameters_callback")  # not in Humble


class ParameterNode(LifecycleNode):
    """A lifecycle node that calls back once all validation callbacks have accepted new parameters.

    Humble has no callback for this moment. There, the methods that set parameters call back before they return; the
    parameter services use these methods, too.
    """

    _after_set: Callable[[list[Parameter[Any]]], None] | None = None  # where rclpy has no callback of its own

    def call_after_parameters_set(self, callback: Callable[[list[Parameter[Any]]], None]) -> None:
        """Call ``callback`` with parameters after they were set, from now on."""
        if HAS_POST_SET_CALLBACKS:
            self.add_post_set_parameters_callback(callback)
        else:
            self._after_set = callback

    def set_parameters(self, parameter_list: list[Parameter[Any]]) -> list[SetParametersResult]:
        """Set parameters one after another; return one result for each."""
        results = super().set_parameters(parameter_list)
        accepted = [p for p, result in zip(parameter_list, results, strict=True) if result.successful]
        if self._after_set is not None and accepted:
            self._after_set(accepted)
        return results

    def set_parameters_atomically(self, parameter_list: list[Parameter[Any]]) -> SetParametersResult:
        """Set all parameters or none."""
        result = super().set_parameters_atomically(parameter_list)
        if self._after_set is not None and result.successful:
            self._after_set(parameter_list)
        return result
