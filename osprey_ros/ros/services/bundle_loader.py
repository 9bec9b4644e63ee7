"""Load another bundle while the node describes frames: in a thread, one at a time."""

from __future__ import annotations

import threading
import traceback
from dataclasses import dataclass
from typing import Any, cast

from rclpy.node import Node
from rclpy.task import Future

from osprey_ros.errors import OspreyError
from osprey_ros.ros.runtime import LoadedBundle, Runtime
from osprey_ros.system.process_memory import release_memory

_INTERNAL = "internal error; see the node's log"


@dataclass(frozen=True)
class BundleChange:
    """What is known of changes of the bundle, for /diagnostics.

    Attributes:
        loading: Name of the bundle that is being loaded, "" if none is.
        problem: Why the latest change failed, "" if it did not.
    """

    loading: str = ""
    problem: str = ""


class BundleLoader:
    """Loads bundles in a thread, one at a time. Its methods belong to the executor's thread.

    Args:
        node: Logs what happens, and has the executor that is woken when a bundle is loaded.

    Attributes:
        change: What is known of the latest change.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.change = BundleChange()

    async def load(self, runtime: Runtime, name: str) -> LoadedBundle | str:
        """Return a bundle that was loaded beside the one of a runtime, or why that is impossible."""
        label = name or str(runtime.bundle.root)
        if self.change.loading:
            return f"the bundle {self.change.loading} is being loaded; try again when it is in use"
        self.change = BundleChange(loading=label)
        self._node.get_logger().info(f"loading the bundle {label} beside {runtime.bundle.manifest.name}")
        future: Future[Any] = Future(executor=self._node.executor)
        future.add_done_callback(lambda done: None)  # wakes the executor, see AnswerJob
        # A daemon: the end of the process does not wait for a large bundle.
        threading.Thread(target=self._run, args=(runtime, name, future), name="osprey-load", daemon=True).start()
        found = await future
        return cast("LoadedBundle | str", found)

    def done(self, problem: str) -> None:
        """Note how the change ended: "" or the reason for which the bundle before stays in use."""
        label, self.change = self.change.loading, BundleChange(problem=problem)
        if problem:
            self._node.get_logger().error(f"the bundle {label} was not loaded: {problem}")

    def _run(self, runtime: Runtime, name: str, future: Future[Any]) -> None:
        try:
            found: LoadedBundle | str = runtime.load(name)
        except OspreyError as error:
            found = str(error)
        except Exception:
            found = _INTERNAL
            if self._node.context.ok():
                self._node.get_logger().error(f"a bundle could not be loaded:\n{traceback.format_exc()}")
        if isinstance(found, str):
            release_memory()  # of engines that were loaded before the failure
        if self._node.context.ok():  # otherwise the executor is gone
            future.set_result(found)
