"""What the lifecycle nodes of this package share: settings as parameters, a worker, logs, and errors of transitions."""

from __future__ import annotations

import traceback
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from osprey_ros.errors import InputError
from osprey_ros.ros import parameters
from osprey_ros.ros.diagnostics.statistics import Statistics, Summary
from osprey_ros.ros.logs import RosLogHandler, ThrottledLog
from osprey_ros.ros.parameter_node import ParameterNode
from osprey_ros.ros.transitions import logged
from osprey_ros.ros.worker import LatestWorker
from osprey_ros.system.process_memory import release_memory
from osprey_ros.system.settings import ParameterGroup


class SettingsNode(ParameterNode):
    """A lifecycle node whose worker processes the latest frame. A subclass creates the worker and says what it does.

    Args:
        name: Name of the node.
        kind: Settings of the node: with ``autostart``, and ``interval``, the least time from one frame to the next.
    """

    # A subclass may fail before the constructor below begins, and rclpy also destroys such a node.
    _worker: LatestWorker[Any] | None = None  # while configured
    _log_handler: RosLogHandler | None = None  # always

    def __init__(self, name: str, kind: type[ParameterGroup]) -> None:
        super().__init__(name)
        self._log_handler = RosLogHandler(self.get_logger())
        self._log_handler.install()
        self._settings: Any = parameters.declare(self, kind)
        self.convert_parameters(lambda change: parameters.converted_change(self, change, kind))
        self.add_on_set_parameters_callback(self._check_parameters)
        self.call_after_parameters_set(self._apply_parameters)
        self._statistics = Statistics()
        self._problem = ""  # why the last transition failed
        self._finalized = False  # no transition leads out of this state
        self._throttled = ThrottledLog(self.get_logger().name)

    def autostart(self) -> None:
        """Configure and activate the node if its parameter ``autostart`` is true."""
        if self._settings.autostart and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    @logged
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the engines and what belongs to them.

        Returns:
            SUCCESS: The node becomes unconfigured.
            ERROR: Something failed. `on_error` follows.
        """
        self._release()
        return super().on_cleanup(state)

    @logged
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, and free the engines and what belongs to them.

        Returns:
            SUCCESS: The node becomes finalized.
            ERROR: Something failed. `on_error` follows.
        """
        self._release()
        self._finalized = True
        return super().on_shutdown(state)

    @logged
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything after a transition returned ERROR.

        Returns:
            SUCCESS: The node becomes unconfigured and can be configured again.
            ERROR: Something failed. The node becomes finalized.
        """
        self._release()
        super().on_error(state)
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Stop the worker thread and remove the node from the graph."""
        self._release()
        if self._log_handler is not None:
            self._log_handler.close()
        super().destroy_node()

    def note_transition(self, problem: str) -> None:
        """Note why a transition failed, for /diagnostics; "" if it succeeded."""
        self._problem = problem
        if problem and self._worker is None:
            release_memory()  # of engines that were loaded before the failure

    def _release(self) -> None:
        """Free everything, in any state."""
        raise NotImplementedError

    def _close_worker(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _check_parameters(self, changes: list[Parameter[Any]]) -> SetParametersResult:
        try:
            parameters.changed(self._settings, changes)
        except InputError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply_parameters(self, changes: list[Parameter[Any]]) -> None:
        self._settings = parameters.changed(self._settings, changes)
        if self._worker is not None:
            self._worker.interval = self._settings.interval
            for sentence in parameters.pending(changes, type(self._settings)):
                self.get_logger().info(sentence)

    def _summary(self) -> Summary:
        return self._statistics.summary(self._worker.replaced if self._worker is not None else 0)

    def _fail(self, cause: str, reason: str, details: str = "") -> None:
        self._statistics.failed(reason)
        self._throttled.error(cause, f"{reason}\n{details}".rstrip())

    def _fail_unexpectedly(self, error: Exception, what: str) -> None:
        """Report an error of this package itself, and continue with the next frame."""
        if self.context.ok():  # exceptions during the shutdown of the process are ignored
            self._fail(type(error).__name__, f"{what}: internal error; see the node's log", traceback.format_exc())

    def _state(self, active: bool) -> str:
        """Return the label of the lifecycle state."""
        unloaded = "finalized" if self._finalized else "unconfigured"
        return "active" if active else "inactive" if self._worker else unloaded
