"""Runs one node as a process: from the command line to the exit status."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node


def run_node(create: Callable[[], Node], args: list[str] | None = None) -> int:
    """Makes a node and spins it in one thread until SIGINT or SIGTERM. Returns the exit status.

    The status is 0 after a signal, and 2 where ``create`` raises ValueError, RuntimeError or a ParameterException of
    rclpy: its message then goes to stderr.
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
        # A signal pulls the context away from under whatever goes on: what fails then is no error.
        if rclpy.ok():
            raise
    finally:
        # `ros2 launch` may ask twice: the second time must not break the end.
        for asked in (signal.SIGINT, signal.SIGTERM):
            signal.signal(asked, signal.SIG_IGN)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
