"""Run one node as a process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node


def run_node(create: Callable[[], Node], args: list[str] | None = None) -> int:
    """Create a node and spin it in one thread until SIGINT or SIGTERM.

    Args:
        create: creates the node.
        args: command-line arguments for rclpy; None: those of the process.

    Returns:
        The exit status: 0 after a signal; 2 if ``create`` raises ValueError, RuntimeError or a ParameterException of
        rclpy, whose message is then printed to stderr.
    """
    rclpy.init(args=args)
    node = None
    try:
        try:
            node = create()
        except (ParameterException, ValueError, RuntimeError) as error:
            print(f"cannot start: {error}", file=sys.stderr)
            return 2
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
