"""Client for the services of a running node, used by the command line."""

from __future__ import annotations

import time
from typing import Any

import rclpy
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from osprey_ros.errors import InputError
from osprey_ros.messages.names import full_node_name
from osprey_ros.ros.interfaces import QueryScene

_TYPE = "osprey_interfaces/srv/QueryScene"
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
    name = full_node_name(name)
    context = Context()
    rclpy.init(context=context, args=[])
    try:
        node = rclpy.create_node("osprey_ask", context=context, start_parameter_services=False)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        try:
            return _call(node, executor, f"{name}/query_scene", text, limit, timeout)
        except ExternalShutdownException as error:
            raise KeyboardInterrupt from error
        finally:
            executor.shutdown()
            node.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)


def _call(node: Node, executor: SingleThreadedExecutor, service: str, text: str, limit: int, timeout: float) -> Any:
    client: Client[Any, Any] = node.create_client(QueryScene, service)
    end = time.monotonic() + timeout
    while not client.service_is_ready():
        if time.monotonic() > end:
            found = node.get_service_names_and_types()
            others = [name for name, types in found if _TYPE in types and name != service]
            found_instead = f"found {', '.join(sorted(others))}; set --node accordingly"
            remedy = found_instead if others else "start the node, with the same ROS_DOMAIN_ID"
            raise InputError(f"no node offers {service} after {timeout:g} s; {remedy}")
        executor.spin_once(timeout_sec=0.05)
    # A response is lost if the node has not discovered the new client's reader yet: send the request again, and accept
    # the response to any of the requests.
    futures = []
    for _ in range(_ATTEMPTS):
        futures.append(client.call_async(QueryScene.Request(text=text, limit=limit)))
        end = time.monotonic() + timeout / _ATTEMPTS
        while time.monotonic() < end:
            executor.spin_once(timeout_sec=0.05)
            if done := [future for future in futures if future.done()]:
                return done[0].result()
    raise InputError(f"{service} did not answer within {timeout:g} s; the node may be busy, raise --timeout")
