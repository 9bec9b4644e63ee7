"""Tools of the ROS tests: separate DDS domains, nodes as child processes, and a client."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from osprey_ros.messages.stamps import stamp_of
from osprey_ros.ros import interfaces
from osprey_ros.ros.outputs import messages
from osprey_sim.node_process import NodeProcess

BUNDLE = os.environ.get("OSPREY_TEST_BUNDLE") or str(Path(__file__).resolve().parents[1] / "engines" / "nano")
DEADLINE = 30.0  # seconds; generous, because a loaded machine is slow
PATIENCE = DEADLINE / 4  # until an answer is taken for lost
REACHED = {"configure": "inactive", "activate": "active", "deactivate": "inactive", "cleanup": "unconfigured"}


@contextmanager
def ros_environment(folder: Path) -> Iterator[dict[str, str]]:
    """Yield environment variables with a DDS domain that no other test run on this machine uses at the same time."""
    for domain in range(1, 102):
        lock = open(f"/tmp/osprey-test-domain-{domain}.lock", "w")  # noqa: SIM115 - held open for the whole block
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        with lock:
            yield {
                **os.environ,
                "ROS_DOMAIN_ID": str(domain),
                "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
                "ROS_LOG_DIR": str(folder),
            }
        return
    raise RuntimeError("101 test runs at once: no DDS domain is left")


def osprey_node(
    env: dict[str, str], folder: Path, *parameters: str, bundle: str = BUNDLE, remapped: Mapping[str, str] = {}
) -> NodeProcess:
    """Start the node as a process with inputs /image and /segmentation; ``parameters`` are ``name:=value``.

    ``remapped`` has other topics of inputs.
    """
    arguments = ["--ros-args"]
    for parameter in (f"bundle:={bundle}", *parameters):
        arguments += ["-p", parameter]
    for topic, name in remapped.items():
        arguments += ["-r", f"{topic}:={name}"]
    return NodeProcess("osprey", "osprey_ros.ros.node", arguments, folder / "osprey.log", env)


class Client:
    """A node in this process that publishes frames, keeps the results, and calls services of the osprey node."""

    def __init__(
        self, env: dict[str, str], reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE, publish: bool = True
    ) -> None:
        for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOG_DIR"):
            os.environ[name] = env[name]
        self.context = Context()
        rclpy.init(context=self.context, args=[])
        self.node = rclpy.create_node("client", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.results: dict[int, Any] = {}  # ObjectDescriptionArray by stamp, in order of arrival
        self.overlays: dict[int, Image] = {}
        self.clients: dict[str, Any] = {}  # by the name of the service
        self.actions: dict[str, ActionClient] = {}  # by the name of the action
        self.statuses: dict[str, DiagnosticStatus] = {}  # the latest of each name: "osprey: inputs"
        self.node.create_subscription(
            interfaces.ObjectDescriptionArray,
            "/osprey/objects",
            lambda message: self.results.update({stamp_of(message): message}),
            10,
        )
        if publish:
            qos = QoSProfile(depth=5, reliability=reliability)
            self.image = self.node.create_publisher(Image, "image", qos)
            self.segmentation = self.node.create_publisher(Image, "segmentation", qos)

    def listen_to_overlay(self) -> None:
        """Subscribe to the overlay, so that the node draws it."""
        self.node.create_subscription(
            Image, "/osprey/overlay", lambda message: self.overlays.update({stamp_of(message): message}), 5
        )

    def listen_to_diagnostics(self) -> None:
        """Subscribe to /diagnostics and keep the latest entries."""
        self.node.create_subscription(
            DiagnosticArray,
            "/diagnostics",
            lambda message: self.statuses.update({status.name: status for status in message.status}),
            10,
        )

    def status(
        self,
        name: str,
        level: bytes,
        text: str,
        meanwhile: Callable[[], Any] = lambda: None,
        counted: str | None = None,
    ) -> dict[str, str]:
        """Wait until a status of the node has this level and text; return its values.

        ``meanwhile`` is called about fifty times a second. ``counted`` is a value that must be above 0 as well: what
        the text speaks of may be counted only later.
        """

        def said() -> dict[str, str] | None:
            meanwhile()
            status = self.statuses.get(f"osprey: {name}")
            if status is None or status.level != level or text not in status.message:
                return None
            values = {value.key: value.value for value in status.values}
            return values if counted is None or int(values[counted]) > 0 else None

        try:
            return self.wait_for(said, f"the status {name!r}")
        except AssertionError as error:
            raise AssertionError(f"{text!r} was not said; last: {self.statuses.get(f'osprey: {name}')}") from error

    def close(self) -> None:
        """Leave the graph."""
        self.executor.shutdown()
        for action in self.actions.values():
            action.destroy()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
        """Run callbacks until the condition returns a true value, and return it. Fails after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
            self.executor.spin_once(timeout_sec=0.02)
        return value

    def wait_until_heard(self) -> None:
        """Wait until the node is subscribed to both inputs, and this client to its output."""
        publishers = (self.image, self.segmentation)
        self.wait_for(lambda: all(p.get_subscription_count() for p in publishers), "the node subscribes")
        self.wait_for(lambda: self.node.count_publishers("/osprey/objects"), "the node publishes")

    def send(
        self, stamp: int, image: np.ndarray, ids: np.ndarray, encodings: tuple[str, str] = ("rgb8", "mono16")
    ) -> None:
        """Publish one frame."""
        header = messages.header_message(stamp, "camera_optical_frame")
        self.image.publish(messages.image_message(image, encodings[0], header))
        self.segmentation.publish(messages.image_message(ids, encodings[1], header))

    def described(self, stamp: int) -> Any:
        """Wait for the result of the frame with this stamp, and return it."""
        return self.wait_for(lambda: self.results.get(stamp), f"the frame {stamp} is described")

    def service(self, kind: type, name: str) -> Any:
        """Return the client of a service once the service exists."""
        client = self.clients.get(name)
        if client is None:
            client = self.clients[name] = self.node.create_client(kind, name)
        self.wait_for(client.service_is_ready, f"{name} is there")
        return client

    def action(self, kind: type, name: str) -> ActionClient:
        """Return the client of an action once the action exists."""
        client = self.actions.get(name)
        if client is None:
            client = self.actions[name] = ActionClient(self.node, kind, name)
        self.wait_for(client.server_is_ready, f"{name} is there")
        return client

    def call(self, kind: type, name: str, request: Any, again: bool = True) -> Any:
        """Call a service of the node and return its response.

        ``again``: whether to ask again where no answer comes: a service that has not yet discovered the reader of a new
        client sends its first answer nowhere. Not for requests that do something else the second time.
        """
        client = self.service(kind, name)
        futures = [client.call_async(request)]
        asked = time.monotonic()

        def answered() -> Any:
            nonlocal asked
            if again and time.monotonic() - asked > PATIENCE:
                futures.append(client.call_async(request))
                asked = time.monotonic()
            return next((future for future in futures if future.done()), None)

        return self.wait_for(answered, f"{name} answers").result()

    def change_state(self, transition: str) -> bool:
        """Request a lifecycle transition by its label; return whether it succeeded."""
        request = ChangeState.Request(transition=Transition(label=transition))
        answer = self.service(ChangeState, "/osprey/change_state").call_async(request)
        asked = time.monotonic()
        self.wait_for(lambda: answer.done() or time.monotonic() - asked > PATIENCE, f"{transition} is answered")
        if answer.done():
            return answer.result().success
        # The response is lost (see `call`) or takes long. The node answers the next request after the transition.
        if self.state() == REACHED.get(transition):
            return True
        return self.call(ChangeState, "/osprey/change_state", request, again=False).success

    def deactivate(self) -> None:
        """Deactivate the node, and wait until the publishers of this client have no subscriber any more."""
        assert self.change_state("deactivate")
        publishers = (self.image, self.segmentation)
        self.wait_for(lambda: not any(p.get_subscription_count() for p in publishers), "the node unsubscribes")

    def state(self) -> str:
        """Return the label of the lifecycle state."""
        return self.call(GetState, "/osprey/get_state", GetState.Request()).current_state.label

    def set_parameter(self, name: str, value: Any) -> Any:
        """Set a parameter; return the SetParametersResult."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(SetParameters, "/osprey/set_parameters", request).results[0]


def tabletop(width: int = 160, height: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, uint8 [H, W, 3], with three colored patches, and their ids 1, 2 and 7, uint16 [H, W]."""
    image = np.full((height, width, 3), 150, np.uint8)
    ids = np.zeros((height, width), np.uint16)
    patches = (
        (1, (200, 30, 30), (10, 10, 50, 40)),
        (2, (20, 160, 40), (60, 90, 30, 50)),
        (7, (30, 40, 190), (70, 20, 40, 30)),
    )
    for number, color, (top, left, tall, wide) in patches:
        image[top : top + tall, left : left + wide] = color
        ids[top : top + tall, left : left + wide] = number
    return image, ids


def process_group_is_gone(pid: int) -> bool:
    """Return whether a child process and all its children have ended."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return True
    return False
