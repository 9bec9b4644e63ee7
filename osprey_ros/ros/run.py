"""Run one node as a process."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Collection

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from osprey_ros.errors import OspreyError, one_line
from osprey_ros.ros.arguments import check_arguments, completed, unused_arguments

_LOGGER = logging.getLogger(__name__)


def run_node(create: Callable[[], Node], args: list[str] | None = None, topics: Collection[str] = ()) -> int:
    """Create a node and spin it in one thread until SIGINT or SIGTERM.

    Args:
        create: creates the node.
        args: command-line arguments for rclpy; None: those of the process.
        topics: names that can be remapped, without namespaces, to warn of others; empty: no warning.

    Returns:
        The exit status: 0 after a signal; 2 if the arguments are invalid, or if ``create`` raises OspreyError,
        ValueError, RuntimeError or a ParameterException of rclpy. The reason is then printed to stderr.
    """
    arguments = sys.argv[1:] if args is None else args
    try:
        check_arguments(arguments)
        _initialize([*sys.argv[:1], *completed(arguments)] if args is None else completed(arguments))
    except ValueError as error:
        print(f"cannot start: {one_line(str(error))}", file=sys.stderr)
        return 2
    node = None
    try:
        try:
            node = create()
        except (ParameterException, OspreyError, ValueError, RuntimeError) as error:
            print(f"cannot start: {one_line(str(error))}", file=sys.stderr)
            return 2
        for sentence in unused_arguments(arguments, node.get_fully_qualified_name(), topics):
            node.get_logger().warning(sentence)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        # After a signal the context is invalid, and calls of rclpy fail: ignore these failures.
        if rclpy.ok():
            raise
    finally:
        # `ros2 launch` may send a second signal, which must not interrupt the cleanup.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _initialize(args: list[str]) -> None:
    """Initialize rclpy. Raise ValueError if that is impossible."""
    try:
        rclpy.init(args=args)
    except Exception as error:  # rclpy raises various errors, with texts of several libraries
        _LOGGER.debug("rclpy.init failed", exc_info=True)
        if "initialize logging" in str(error):
            folder = os.environ.get("ROS_LOG_DIR") or os.path.join(os.environ.get("HOME", "~"), ".ros", "log")
            raise ValueError(
                f"the log folder {folder} cannot be written; set ROS_LOG_DIR to a folder that can be written"
            ) from error
        raise ValueError(
            "ROS 2 cannot be initialized; check the arguments after --ros-args, the environment variables "
            "ROS_DOMAIN_ID and RMW_IMPLEMENTATION, and that the folder for logs (ROS_LOG_DIR) can be written"
        ) from error
