"""Client for the services of a running node, used by the command line and by agents."""

from __future__ import annotations

import time
from typing import Any

import rclpy
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from osprey_ros.errors import InputError
from osprey_ros.messages.names import full_node_name
from osprey_ros.ros.interfaces import QueryScene
from osprey_ros.system.cancellation import CancellationToken

_ATTEMPTS = 3


def query_node(name: str, text: str, limit: int, timeout: float) -> Any:
    """Send a query to a node and return its QueryScene response.

    Args:
        name: full name of the node, such as "/osprey".
        text: phrase or question.
        limit: maximum number of matches; 0: all.
        timeout: seconds to wait for the node, and again for its answer.

    Raises:
        InputError: The name is invalid, or the node or its answer is missing.
    """
    client = NodeClient(name, "osprey_ask")
    try:
        return client.call(QueryScene, "query_scene", QueryScene.Request(text=text, limit=limit), timeout)
    except ExternalShutdownException as error:
        raise KeyboardInterrupt from error
    finally:
        client.close()


class NodeClient:
    """Calls services of a node. Use it from one thread at a time; callbacks run during the calls.

    Args:
        name: Full name of the node that answers, such as "/osprey".
        own_name: Name of the node that asks.

    Attributes:
        node: The node that asks, for subscriptions.

    Raises InputError if a name is invalid.
    """

    def __init__(self, name: str, own_name: str) -> None:
        self.name = full_node_name(name)
        self._context = Context()
        rclpy.init(context=self._context, args=[])
        self.node = rclpy.create_node(own_name, context=self._context, start_parameter_services=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._clients: dict[str, Client[Any, Any]] = {}

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def receive(self, most: int = 1000) -> None:
        """Run the callbacks of messages that have arrived, ``most`` at most."""
        for _ in range(most):
            before = time.monotonic()
            self._executor.spin_once(timeout_sec=0.002)
            if time.monotonic() - before >= 0.002:  # nothing was there
                return

    def call(
        self, kind: type, service: str, request: Any, timeout: float, cancel: CancellationToken | None = None
    ) -> Any:
        """Call a service of the node and return its response.

        Args:
            kind: Type of the service.
            service: Its name in the namespace of the node, such as "query_scene".
            request: The request. It may be sent more than once.
            timeout: Seconds to wait for the node, and again for its answer.
            cancel: Ends the call; StoppedError is raised.

        Raises:
            InputError: The node or its answer is missing.
        """
        cancel = cancel or CancellationToken()
        client = self._ready(kind, f"{self.name}/{service}", timeout, cancel)
        # A response is lost if the node has not discovered the new client's reader yet: send the request again, and
        # accept the response to any of the requests.
        futures = []
        for _ in range(_ATTEMPTS):
            futures.append(client.call_async(request))
            end = time.monotonic() + timeout / _ATTEMPTS
            while time.monotonic() < end:
                cancel.check("the answer of the node")
                self._executor.spin_once(timeout_sec=0.05)
                if done := [future for future in futures if future.done()]:
                    return done[0].result()
        raise InputError(
            f"{self.name}/{service} did not answer within {timeout:g} s; the node may be busy, raise --timeout"
        )

    def _ready(self, kind: type, service: str, timeout: float, cancel: CancellationToken) -> Client[Any, Any]:
        """Return the client of a service once the service exists."""
        client = self._clients.get(service)
        if client is None:
            client = self._clients[service] = self.node.create_client(kind, service)
        end = time.monotonic() + timeout
        while not client.service_is_ready():
            cancel.check("the answer of the node")
            if time.monotonic() > end:
                raise InputError(f"no node offers {service} after {timeout:g} s; {self._remedy(service)}")
            self._executor.spin_once(timeout_sec=0.05)
        return client

    def _remedy(self, service: str) -> str:
        kind = "osprey_interfaces/srv/QueryScene"
        mine = f"{self.name}/query_scene"
        found = self.node.get_service_names_and_types()
        others = sorted(name for name, types in found if kind in types and name not in (service, mine))
        if others:
            return f"found {', '.join(others)}; set --node accordingly"
        return "start the node, with the same ROS_DOMAIN_ID"
