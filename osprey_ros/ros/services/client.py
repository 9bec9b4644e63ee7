"""Asks a running node from the command line."""

from __future__ import annotations

import time
from typing import Any

import rclpy
from rclpy.client import Client
from rclpy.context import Context
from rclpy.exceptions import InvalidServiceNameException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from osprey_ros.errors import InputError
from osprey_ros.ros.messages import QueryScene

_TYPE = "osprey_interfaces/srv/QueryScene"
_ATTEMPTS = 3


def query_node(name: str, text: str, limit: int, timeout: float) -> Any:
    """The QueryScene response of the node of this full name.

    ``timeout`` is in seconds, for finding the node and for its answer. Raises InputError.
    """
    context = Context()
    rclpy.init(context=context, args=[])
    try:
        node = rclpy.create_node("osprey_ask", context=context, start_parameter_services=False)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        try:
            return _asked(node, executor, f"{name.rstrip('/')}/query_scene", text, limit, timeout)
        except ExternalShutdownException as error:
            raise KeyboardInterrupt from error
        finally:
            executor.shutdown()
            node.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)


def _asked(node: Node, executor: SingleThreadedExecutor, service: str, text: str, limit: int, timeout: float) -> Any:
    try:
        client: Client[Any, Any] = node.create_client(QueryScene, service)
    except InvalidServiceNameException as error:
        raise InputError(
            f"{service!r} is no name of a service: give --node the full name of a node, as /osprey"
        ) from error
    end = time.monotonic() + timeout
    while not client.service_is_ready():
        if time.monotonic() > end:
            found = node.get_service_names_and_types()
            others = [name for name, types in found if _TYPE in types and name != service]
            there = (
                f"there is {', '.join(sorted(others))} (--node)" if others else "start it, in the same ROS_DOMAIN_ID"
            )
            raise InputError(f"no node offers {service} ({timeout:g} s waited): {there}")
        executor.spin_once(timeout_sec=0.05)
    # An answer is lost where the node has not yet discovered the reader of a client that it just met: asked again. Any
    # answer counts, that of a busy node to the first request, too.
    futures = []
    for _ in range(_ATTEMPTS):
        futures.append(client.call_async(QueryScene.Request(text=text, limit=limit)))
        end = time.monotonic() + timeout / _ATTEMPTS
        while time.monotonic() < end:
            executor.spin_once(timeout_sec=0.05)
            if done := [future for future in futures if future.done()]:
                return done[0].result()
    raise InputError(f"{service} did not answer within {timeout:g} s: is the node busy? (--timeout)")
