"""Services and action of the node: pass requests to the worker's thread and return its answers.

The executor's thread never blocks: handlers are coroutines that continue when the answer is there.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionServer, CancelResponse  # type: ignore[attr-defined]
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future
from std_msgs.msg import Header

from osprey_ros.errors import OspreyError, StoppedError
from osprey_ros.ros import interfaces
from osprey_ros.ros.runtime import LoadedBundle, Runtime
from osprey_ros.ros.services.bundle_loader import BundleLoader
from osprey_ros.ros.services.handlers import Requests
from osprey_ros.ros.worker import MAX_JOBS, LatestWorker
from osprey_ros.system.cancellation import CancellationToken

SERVICE_SECONDS = 30.0  # longest answer of the service ~/describe_region, which cannot be canceled

_CANCELED = "canceled"
_DEACTIVATED = "the node was deactivated before the answer was complete"


class AnswerJob:
    """A request in the worker's queue.

    Args:
        node: logs unexpected errors.
        response: response that is returned if ``answer`` fails.
        answer: returns the filled response, in the worker's thread.
        why_stopped: returns why ``answer`` raised StoppedError although the worker was not canceled.
    """

    def __init__(
        self,
        node: Node,
        response: Any,
        answer: Callable[[CancellationToken], Any],
        why_stopped: Callable[[], str],
    ) -> None:
        self._node, self._response, self._answer, self._why_stopped = node, response, answer, why_stopped
        self.future: Future[Any] = Future(executor=node.executor)
        # Without a callback, a result that is set in another thread does not wake the executor.
        self.future.add_done_callback(lambda future: None)

    def run(self, cancel: CancellationToken) -> None:
        """Answer the request, or fill in the reason why that is impossible."""
        response = self._response
        try:
            response = self._answer(cancel)
        except StoppedError:
            response.success, response.message = False, _DEACTIVATED if cancel.canceled else self._why_stopped()
        except OspreyError as error:
            response.success, response.message = False, str(error)
        except Exception:
            # Continue with the next request. Exceptions during the shutdown of the process are not logged.
            response.success, response.message = False, "internal error; see the node's log"
            if self._node.context.ok():
                self._node.get_logger().error(f"a request could not be answered:\n{traceback.format_exc()}")
        self._finish(response)

    def abandon(self) -> None:
        """Answer that the node was deactivated."""
        self._response.success, self._response.message = False, _DEACTIVATED
        self._finish(self._response)

    def _finish(self, response: Any) -> None:
        if self._node.context.ok():  # otherwise the executor is gone
            self.future.set_result(response)


class Services:
    """``~/query_scene``, ``~/describe_region`` (service and action), ``~/get_scene``, ``~/look``, ``~/forget`` and
    ``~/load_bundle``.

    They exist in every lifecycle state, and refuse requests with the reason while the node is not active.

    Attributes:
        bundles: Loads bundles for ``~/load_bundle``.

    Args:
        node: owner of the services.
        service_seconds: longest answer of the service ``~/describe_region`` in seconds. The action has no limit.
    """

    def __init__(self, node: Node, service_seconds: float = SERVICE_SECONDS) -> None:
        self._node = node
        self._service_seconds = service_seconds
        self._requests: Requests | None = None
        self._worker: LatestWorker[Any] | None = None
        self._runtime: Runtime | None = None
        self._refusal = ""
        self.bundles = BundleLoader(node)
        # Reentrant: several requests may wait for the worker at once.
        group = ReentrantCallbackGroup()
        self._services = [
            node.create_service(interfaces.QueryScene, "~/query_scene", self._query_scene, callback_group=group),
            node.create_service(interfaces.GetScene, "~/get_scene", self._get_scene, callback_group=group),
            node.create_service(interfaces.Look, "~/look", self._look, callback_group=group),
            node.create_service(interfaces.Forget, "~/forget", self._forget, callback_group=group),
            node.create_service(interfaces.LoadBundle, "~/load_bundle", self._load_bundle, callback_group=group),
            node.create_service(
                interfaces.DescribeRegion, "~/describe_region", self._describe_region, callback_group=group
            ),
        ]
        self._action = ActionServer(
            node,
            interfaces.DescribeRegionAction,
            "~/describe_region",
            self._execute,
            callback_group=group,
            cancel_callback=self._cancel_goal,
        )
        self._goals: dict[bytes, CancellationToken] = {}  # by id, while they are executed

    def serve(self, requests: Requests, worker: LatestWorker[Any], runtime: Runtime | None = None) -> None:
        """Answer requests in the worker's thread from now on. ``runtime`` is the one whose bundle can be replaced."""
        self._requests, self._worker, self._runtime, self._refusal = requests, worker, runtime, ""

    def refuse(self, reason: str) -> None:
        """Refuse requests with this reason from now on. Requests in the worker's queue stay there."""
        self._requests, self._worker, self._runtime, self._refusal = None, None, None, reason

    def close(self) -> None:
        """Remove services and action from the graph."""
        self._action.destroy()
        for service in self._services:
            self._node.destroy_service(service)

    async def _query_scene(self, request: Any, response: Any) -> Any:
        return await self._answered(response, lambda requests, cancel: requests.query_scene(request, response, cancel))

    async def _get_scene(self, request: Any, response: Any) -> Any:
        return await self._answered(response, lambda requests, cancel: requests.get_scene(request, response))

    async def _look(self, request: Any, response: Any) -> Any:
        return await self._answered(response, lambda requests, cancel: requests.look(request, response))

    async def _forget(self, request: Any, response: Any) -> Any:
        return await self._answered(response, lambda requests, cancel: requests.forget(request, response))

    async def _load_bundle(self, request: Any, response: Any) -> Any:
        runtime = self._runtime
        if runtime is None:
            response.success, response.message = False, self._refusal
            return response
        busy = bool(self.bundles.change.loading)
        loaded = await self.bundles.load(runtime, request.bundle)
        if isinstance(loaded, str):
            response.success, response.message = False, loaded
        elif runtime is not self._runtime:
            response.success, response.message = False, self._refusal or _DEACTIVATED
        else:
            response = await self._answered(response, lambda requests, cancel: _replace(runtime, loaded, response))
        if not isinstance(loaded, str) and not response.success:
            loaded.describer.close()
        if not busy:
            self.bundles.done("" if response.success else response.message)
        if response.success and request.bundle and self._node.has_parameter("bundle"):
            # For the next time that the node is configured.
            self._node.set_parameters([Parameter("bundle", value=request.bundle)])
        return response

    async def _describe_region(self, request: Any, response: Any) -> Any:
        def answer(requests: Requests, cancel: CancellationToken) -> Any:
            limited = CancellationToken(time.monotonic() + self._service_seconds, parent=cancel)
            return requests.describe_region(request, response, limited)

        def why_stopped() -> str:
            return (
                f"the answer was not complete after {self._service_seconds:g} s; use the action of the same name for "
                "long answers, or lower max_new_tokens"
            )

        return await self._answered(response, answer, why_stopped)

    async def _execute(self, goal: ServerGoalHandle[Any, Any, Any]) -> Any:
        result = interfaces.DescribeRegionAction.Result()
        key = bytes(goal.goal_id.uuid)
        canceled = self._goals[key] = CancellationToken()
        if goal.is_cancel_requested:  # before this coroutine began
            canceled.cancel()

        def publish(header: Header, text: str) -> None:
            goal.publish_feedback(interfaces.DescribeRegionAction.Feedback(header=header, text=text))

        def answer(requests: Requests, cancel: CancellationToken) -> Any:
            either = CancellationToken(parent=cancel)
            remove = canceled.add_callback(either.cancel)
            try:
                either.check("the answer")  # while it waited in the queue
                return requests.describe_region(goal.request, result, either, publish)
            finally:
                remove()

        try:
            result = await self._answered(result, answer, lambda: _CANCELED)
        finally:
            del self._goals[key]
        if result.success:
            goal.succeed()
        elif goal.is_cancel_requested:
            goal.canceled()
        else:
            goal.abort()
        return result

    def _cancel_goal(self, goal: ServerGoalHandle[Any, Any, Any]) -> CancelResponse:
        token = self._goals.get(bytes(goal.goal_id.uuid))
        if token is not None:
            token.cancel()
        return CancelResponse.ACCEPT

    async def _answered(
        self,
        response: Any,
        answer: Callable[[Requests, CancellationToken], Any],
        why_stopped: Callable[[], str] = lambda: _DEACTIVATED,
    ) -> Any:
        """Return the answer of the worker's thread, or at once a refusal."""
        requests, worker = self._requests, self._worker
        if requests is None or worker is None:
            response.success, response.message = False, self._refusal
            return response
        job = AnswerJob(self._node, response, lambda cancel: answer(requests, cancel), why_stopped)
        if not worker.ask(job):
            response.success, response.message = False, f"{MAX_JOBS} requests are waiting already; try again later"
            return response
        return await job.future


def _replace(runtime: Runtime, loaded: LoadedBundle, response: Any) -> Any:
    """Change the bundle of a runtime, in the worker's thread."""
    before = runtime.bundle.manifest.name
    runtime.replace(loaded)
    bundle = runtime.bundle
    response.success, response.message = (
        True,
        f"{bundle.manifest.name} in {bundle.root} is in use, in place of {before}",
    )
    return response
