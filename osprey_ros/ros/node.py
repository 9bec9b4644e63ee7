"""The lifecycle node `osprey`: an image and its instance ids in, the same objects in words out.

Subscribes to ``image`` and ``segmentation`` (sensor_msgs/Image, matched by stamp) while active; publishes ``~/objects``
(osprey_interfaces/ObjectDescriptionArray) and, where someone listens, ``~/overlay`` (sensor_msgs/Image), both with the
header of the image. One worker thread describes the latest complete frame; frames that come meanwhile are dropped and
counted. A frame that cannot be described is reported in the log, and the node goes on.
"""

from __future__ import annotations

import functools
import sys
import time
import traceback
from collections.abc import Callable

import numpy as np
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from osprey_ros.bundle import Bundle
from osprey_ros.describer import Describer
from osprey_ros.draw import overlay
from osprey_ros.errors import OspreyError
from osprey_ros.pipeline import StepResult, describe_frame
from osprey_ros.ros import messages, parameters
from osprey_ros.ros.inputs import QOS_DEPTH, FrameInputs
from osprey_ros.ros.run import run_node
from osprey_ros.ros.worker import LatestWorker

_REPEAT = 5.0  # seconds before the same complaint is logged again

Transition = Callable[["OspreyNode", LifecycleState], TransitionCallbackReturn]


def _reported(transition: Transition) -> Transition:
    """rclpy swallows what a transition raises: put it into the log; on_error then leads back to unconfigured."""

    @functools.wraps(transition)
    def wrapped(self: OspreyNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(self, state)
        except Exception:
            self.get_logger().error(f"{transition.__name__} failed:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR

    return wrapped


class OspreyNode(LifecycleNode):
    """The node. Transitions and subscriptions run in the executor's thread, the worker describes and publishes."""

    def __init__(self) -> None:
        # Before all else: rclpy also destroys a node whose making failed.
        self._worker: LatestWorker[tuple[Image, Image]] | None = None  # while configured
        self._inputs: FrameInputs | None = None  # while active
        super().__init__("osprey")
        self._settings = parameters.declare(self)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._last_complaint = ("", 0.0)

    def autostart(self) -> None:
        """Configures and activates the node if its parameter ``autostart`` says so."""
        if self._settings.autostart and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    @_reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the engines and makes the publishers. FAILURE for a bundle that is no good; the log says why."""
        started = time.monotonic()
        try:
            bundle = Bundle.open(self._settings.bundle)
            describer = Describer(bundle, threads=self._settings.threads or None)
        except OspreyError as error:
            self.get_logger().error(f"parameter bundle: {error}; then configure again")
            return TransitionCallbackReturn.FAILURE
        self._objects = self.create_lifecycle_publisher(messages.ObjectDescriptionArray, "~/objects", QOS_DEPTH)
        self._overlay = self.create_lifecycle_publisher(Image, "~/overlay", QOS_DEPTH)
        self._worker = LatestWorker(functools.partial(self._describe, describer), name="osprey-describe")
        seconds = time.monotonic() - started
        checked = "verified" if bundle.manifest.verified else "not verified against its PyTorch model"
        self.get_logger().info(
            f"bundle {bundle.manifest.name} ({checked}) loaded from {bundle.root} in {seconds:.1f} s"
        )
        return super().on_configure(state)

    @_reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes."""
        result = super().on_activate(state)
        self._inputs = FrameInputs(self, self._settings.reliability, self._settings.queue_size, self._on_pair)
        self.get_logger().info("describing {} with the ids of {}".format(*self._inputs.topics))
        return result

    @_reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribes. What is still being described is not published."""
        self._unsubscribe()
        if self._worker is not None:
            self.get_logger().info(
                f"{self._worker.done} frames described, {self._worker.dropped} dropped for later ones"
            )
        return super().on_deactivate(state)

    @_reported
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees the engines."""
        self._release()
        return super().on_cleanup(state)

    @_reported
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribes and frees the engines."""
        self._release()
        return super().on_shutdown(state)

    @_reported
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Returns to unconfigured, from where configure can be tried again."""
        self._release()
        return super().on_error(state)

    def destroy_node(self) -> None:
        """Ends the worker thread and removes the node from the graph."""
        self._release()
        super().destroy_node()

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            self._settings = self._settings.changed(changes)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _unsubscribe(self) -> None:
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None
        if self._worker is not None:
            self._worker.discard()

    def _release(self) -> None:
        self._unsubscribe()
        if self._worker is not None:
            self._worker.close()
            self._worker = None  # and with it the describer
            self.destroy_lifecycle_publisher(self._objects)
            self.destroy_lifecycle_publisher(self._overlay)

    def _on_pair(self, image: Image, segmentation: Image) -> None:
        if self._worker is not None:
            self._worker.submit((image, segmentation))

    def _describe(self, describer: Describer, pair: tuple[Image, Image]) -> None:
        """Describes one frame and publishes it. Runs in the worker's thread."""
        topics = self.resolve_topic_name("image"), self.resolve_topic_name("segmentation")
        settings = self._settings
        try:
            frame = messages.frame_from_messages(*pair, topics=topics)
            result = describe_frame(describer, frame, settings.step)
            if result.nothing:
                self._complain(f"{topics[1]}: {result.nothing}; an empty array is published", serious=False)
            header = messages.header_message(frame.stamp, frame.frame_id)
            self._objects.publish(messages.objects_message(result.objects, header))
            if settings.overlay and self._overlay.get_subscription_count():
                self._overlay.publish(messages.image_message(_drawn(frame.rgb, result), "rgb8", header))
        except messages.MessageError as error:
            self._complain(str(error))
        except OspreyError as error:
            self._complain(f"{topics[0]}, {topics[1]}: {error}")
        except Exception:
            # Whatever went wrong with this frame, the next one deserves its try. Nothing is wrong if the process ends.
            if self.context.ok():
                self._complain(f"a frame could not be described:\n{traceback.format_exc()}")

    def _complain(self, message: str, serious: bool = True) -> None:
        """Logs an error, or a warning, at once if it is a new one, else not more than every few seconds."""
        last, when = self._last_complaint
        now = time.monotonic()
        if message != last or now - when >= _REPEAT:
            self._last_complaint = (message, now)
            if serious:
                self.get_logger().error(message)
            else:
                self.get_logger().warning(message)


def _drawn(rgb: np.ndarray, result: StepResult) -> np.ndarray:
    if result.regions is None:
        return rgb
    return overlay(rgb, result.regions, [described.description for described in result.objects])


def _create() -> OspreyNode:
    node = OspreyNode()
    node.autostart()
    return node


def main(args: list[str] | None = None) -> int:
    """Runs the node until it is interrupted. Returns the exit status: 2 for a parameter that is no good."""
    return run_node(_create, args)


if __name__ == "__main__":
    sys.exit(main())
