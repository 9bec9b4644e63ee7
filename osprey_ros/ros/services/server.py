"""The services and the action of the node: requests go to the worker's thread, and its answers back.

The executor's thread never waits for one: handlers are coroutines that go on when the answer is there.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future
from std_msgs.msg import Header

from osprey_ros.errors import OspreyError
from osprey_ros.ros import messages
from osprey_ros.ros.services.handlers import Requests
from osprey_ros.ros.worker import MOST_JOBS, LatestWorker

_CANCELLED = "cancelled"
_DEACTIVATED = "the node was deactivated before the answer was there"


class _Job:
    """A request on its way through the worker's thread."""

    def __init__(self, node: Node, response: Any, answer: Callable[[], Any]) -> None:
        self._node, self._response, self._answer = node, response, answer
        self.future: Future[Any] = Future(executor=node.executor)
        # With something to call, the future wakes the executor, which else would not look at the coroutine again.
        self.future.add_done_callback(lambda future: None)

    def run(self) -> None:
        """Answers, or says why not."""
        response = self._response
        try:
            response = self._answer()
        except OspreyError as error:
            response.success, response.message = False, str(error)
        except Exception as error:
            # What went wrong with this request must not end the thread. Nothing is wrong if the process ends.
            response.success, response.message = False, f"{type(error).__name__}: {error}"
            if self._node.context.ok():
                self._node.get_logger().error(f"a request could not be answered:\n{traceback.format_exc()}")
        self._finish(response)

    def abandon(self) -> None:
        """Says that there will be no answer."""
        self._response.success, self._response.message = False, _DEACTIVATED
        self._finish(self._response)

    def _finish(self, response: Any) -> None:
        if self._node.context.ok():  # else there is no executor any more
            self.future.set_result(response)


class Services:
    """``~/query_scene``, ``~/describe_region`` (service and action), ``~/get_scene`` and ``~/forget``.

    They are there in all states of the node, and refuse with the reason what cannot be answered.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._requests: Requests | None = None
        self._worker: LatestWorker[Any] | None = None
        self._refusal = ""
        # One request may wait while others come: the node's own group takes turns.
        group = ReentrantCallbackGroup()
        self._services = [
            node.create_service(messages.QueryScene, "~/query_scene", self._query_scene, callback_group=group),
            node.create_service(messages.GetScene, "~/get_scene", self._get_scene, callback_group=group),
            node.create_service(messages.Forget, "~/forget", self._forget, callback_group=group),
            node.create_service(
                messages.DescribeRegion, "~/describe_region", self._describe_region, callback_group=group
            ),
        ]
        self._action = ActionServer(
            node,
            messages.DescribeRegionAction,
            "~/describe_region",
            self._execute,
            callback_group=group,
            cancel_callback=lambda request: CancelResponse.ACCEPT,
        )

    def serve(self, requests: Requests, worker: LatestWorker[Any]) -> None:
        """From now on requests are answered in the worker's thread."""
        self._requests, self._worker, self._refusal = requests, worker, ""

    def refuse(self, reason: str) -> None:
        """From now on requests are refused, with this reason; those in the worker's thread are left to it."""
        self._requests, self._worker, self._refusal = None, None, reason

    def close(self) -> None:
        """Takes all of them out of the graph."""
        self._action.destroy()
        for service in self._services:
            self._node.destroy_service(service)

    async def _query_scene(self, request: Any, response: Any) -> Any:
        return await self._answered(response, lambda requests: requests.query_scene(request, response, self._why_stop))

    async def _get_scene(self, request: Any, response: Any) -> Any:
        return await self._answered(response, lambda requests: requests.get_scene(request, response))

    async def _forget(self, request: Any, response: Any) -> Any:
        return await self._answered(response, lambda requests: requests.forget(request, response))

    async def _describe_region(self, request: Any, response: Any) -> Any:
        def answer(requests: Requests) -> Any:
            return requests.describe_region(request, response, self._why_stop, lambda header, text: None)

        return await self._answered(response, answer)

    async def _execute(self, goal: ServerGoalHandle) -> Any:
        result = messages.DescribeRegionAction.Result()

        def why_stop() -> str:
            return _CANCELLED if goal.is_cancel_requested else self._why_stop()

        def publish(header: Header, text: str) -> None:
            goal.publish_feedback(messages.DescribeRegionAction.Feedback(header=header, text=text))

        def answer(requests: Requests) -> Any:
            if goal.is_cancel_requested:  # while it waited for its turn
                result.message = _CANCELLED
                return result
            return requests.describe_region(goal.request, result, why_stop, publish)

        result = await self._answered(result, answer)
        if result.success:
            goal.succeed()
        elif goal.is_cancel_requested:
            goal.canceled()
        else:
            goal.abort()
        return result

    async def _answered(self, response: Any, answer: Callable[[Requests], Any]) -> Any:
        """What the worker's thread answers; at once, if no answer is possible."""
        requests, worker = self._requests, self._worker
        if requests is None or worker is None:
            response.success, response.message = False, self._refusal
            return response
        job = _Job(self._node, response, lambda: answer(requests))
        if not worker.ask(job):
            response.success, response.message = False, f"{MOST_JOBS} requests are waiting already: ask again later"
            return response
        return await job.future

    def _why_stop(self) -> str:
        worker = self._worker
        return _DEACTIVATED if worker is None or worker.stopping() else ""
