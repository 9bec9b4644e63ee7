"""Lifecycle node that converts parameters before and reacts after they are set, on all ROS distributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.parameter import Parameter

from osprey_ros.errors import InputError

HAS_POST_SET_CALLBACKS = hasattr(Node, "add_post_set_parameters_callback")  # not in Humble


class ParameterNode(LifecycleNode):
    """A lifecycle node that converts new parameters, and calls back once all validation callbacks have accepted them.

    Humble has no callback for this moment. There, the methods that set parameters call back before they return; the
    parameter services use these methods, too.
    """

    _before_set: Callable[[Parameter[Any]], Parameter[Any]] | None = None
    _after_set: Callable[[list[Parameter[Any]]], None] | None = None  # where rclpy has no callback of its own

    def call_after_parameters_set(self, callback: Callable[[list[Parameter[Any]]], None]) -> None:
        """Call ``callback`` with parameters after they were set, from now on."""
        if HAS_POST_SET_CALLBACKS:
            self.add_post_set_parameters_callback(callback)
        else:
            self._after_set = callback

    def convert_parameters(self, callback: Callable[[Parameter[Any]], Parameter[Any]]) -> None:
        """Set what ``callback`` returns for each parameter, from now on. If it raises InputError, refuse the value."""
        self._before_set = callback

    def set_parameters(self, parameter_list: list[Parameter[Any]]) -> list[SetParametersResult]:
        """Set parameters one after another; return one result for each."""
        return [self.set_parameters_atomically([parameter]) for parameter in parameter_list]

    def set_parameters_atomically(self, parameter_list: list[Parameter[Any]]) -> SetParametersResult:
        """Set all parameters or none."""
        if self._before_set is not None:
            try:
                parameter_list = [self._before_set(parameter) for parameter in parameter_list]
            except InputError as error:
                return SetParametersResult(successful=False, reason=str(error))
        result = super().set_parameters_atomically(parameter_list)
        if self._after_set is not None and result.successful:
            self._after_set(parameter_list)
        return result
