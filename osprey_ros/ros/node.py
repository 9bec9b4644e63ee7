"""The lifecycle node `osprey`: describe the objects of camera frames and answer requests about them.

While the node is active, it subscribes to images and regions (see `inputs`) and publishes the objects with the header
of the image (see `outputs`). One worker thread describes the latest complete frame; frames that arrive meanwhile are
dropped and counted. Between frames the same thread answers requests (see `services`). A frame that cannot be described
is reported, and the node continues with the next one. ``/diagnostics`` has the status once a second.
"""

from __future__ import annotations

import sys
import time

from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from osprey_ros.errors import OspreyError, StoppedError
from osprey_ros.messages.frames import (
    CAMERA_INFO,
    DEPTH,
    DETECTIONS,
    IMAGE,
    REGIONS,
    SEGMENTATION,
    RawFrame,
    frame_from_messages,
)
from osprey_ros.ros.diagnostics import status
from osprey_ros.ros.diagnostics.statistics import ObjectCounts
from osprey_ros.ros.diagnostics.updater import Diagnostics
from osprey_ros.ros.inputs.frame_inputs import FrameInputs
from osprey_ros.ros.outputs.publishers import Outputs
from osprey_ros.ros.parameters import Settings
from osprey_ros.ros.run import run_node
from osprey_ros.ros.runtime import Runtime
from osprey_ros.ros.services.bundle_loader import BundleChange
from osprey_ros.ros.services.server import Services
from osprey_ros.ros.settings_node import SettingsNode
from osprey_ros.ros.transitions import logged
from osprey_ros.ros.worker import LatestWorker
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.system.process_memory import MIB, available_memory, process_memory, release_memory
from osprey_ros.timing import STAGES, Timing

# Names that can be remapped.
TOPICS = (
    *(IMAGE, SEGMENTATION, REGIONS, DETECTIONS, DEPTH, CAMERA_INFO, "compressed", "compressedDepth"),
    *("objects", "overlay", "markers", "events"),
    *("query_scene", "describe_region", "get_scene", "look", "forget", "load_bundle"),
)
_UNCONFIGURED = "the node is unconfigured; configure and activate it, or start it with autostart:=true"
_INACTIVE = "the node is inactive; activate it"
_FINALIZED = "the node was shut down; restart its process"


class OspreyNode(SettingsNode):
    """The node. Transitions, subscriptions and services run in the executor's thread; the worker describes frames."""

    def __init__(self) -> None:
        # First of all: rclpy also destroys a node whose constructor failed.
        self._outputs: Outputs | None = None  # these two while configured
        self._runtime: Runtime | None = None
        self._server: Services | None = None  # always
        self._inputs: FrameInputs | None = None  # while active
        super().__init__("osprey", Settings)
        self._settings: Settings
        self._server = Services(self)
        self._server.refuse(_UNCONFIGURED)
        self._diagnostics = Diagnostics(self, self._collect_status)

    @logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the engines and the scene, and create the publishers.

        Returns:
            SUCCESS: The node becomes inactive.
            FAILURE: The bundle, the scene file or an attribute is invalid, or there is too little memory. The node
                stays unconfigured.
            ERROR: Anything else failed. `on_error` follows.
        """
        runtime = Runtime(lambda: self._settings)
        manifest = runtime.bundle.manifest
        if not manifest.verified:
            self.get_logger().warning(status.unverified(manifest))
        self._runtime = runtime
        self._outputs = Outputs(self)
        self._worker = LatestWorker(self._process, name="osprey-describe", interval=self._settings.interval)
        self._refuse(_INACTIVE)
        return super().on_configure(state)

    @logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the inputs and answer requests.

        Returns:
            SUCCESS: The node becomes active.
            FAILURE: A message package is missing, or a topic cannot be subscribed to. The node stays inactive.
            ERROR: Anything else failed. `on_error` follows.
        """
        self._statistics.start()
        self._inputs = FrameInputs(self, self._settings.inputs, self._on_frame)
        result = super().on_activate(state)
        if self._server is not None and self._runtime is not None and self._worker is not None:
            self._server.serve(self._runtime.requests, self._worker, self._runtime)
        self.get_logger().info(f"subscribed to {', '.join(self._inputs.topics.values())}")
        return result

    @logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, and stop the current frame or answer.

        Returns:
            SUCCESS: The node becomes inactive.
            ERROR: Something failed. `on_error` follows.
        """
        summary = self._summary()
        self._unsubscribe()
        self.get_logger().info(f"{summary.described} frames described, {summary.replaced} dropped for later frames")
        return super().on_deactivate(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Shut down as every node does, and refuse requests from now on."""
        result = super().on_shutdown(state)
        self._refuse(_FINALIZED)
        return result

    def destroy_node(self) -> None:
        """Stop the worker thread and remove the node from the graph."""
        self._release()
        if self._server is not None:
            self._server.close()
        super().destroy_node()

    def _unsubscribe(self) -> None:
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None
        if self._worker is not None:
            self._refuse(_INACTIVE)
            self._worker.cancel()
        if self._runtime is not None:
            self._runtime.flush()

    def _refuse(self, reason: str) -> None:
        if self._server is not None:
            self._server.refuse(reason)

    def _release(self) -> None:
        self._unsubscribe()
        self._close_worker()
        if self._outputs is not None:
            self._outputs.close()
            self._outputs = None
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = None
            release_memory()
        self._refuse(_UNCONFIGURED)

    def _on_frame(self, raw: RawFrame) -> None:
        if self._worker is not None:
            self._statistics.matched()
            self._worker.submit(raw)

    def _process(self, raw: RawFrame, cancel: CancellationToken) -> None:
        """Describe one frame and publish its objects. Runs in the worker's thread."""
        runtime, outputs, inputs = self._runtime, self._outputs, self._inputs
        if runtime is None or outputs is None or inputs is None:
            return
        try:
            started = time.perf_counter()
            frame = inputs.located(frame_from_messages(raw))
            converted = time.perf_counter()
            result = runtime.step(frame, cancel)
            if cancel.canceled:
                self._statistics.stopped()
                return
            described = time.perf_counter()
            outputs.publish(frame, result, runtime.events(), draw=self._settings.overlay)
            published = time.perf_counter()
            age = (self.get_clock().now().nanoseconds - frame.stamp) / 1e9
            seconds = _stages(result.timing, converted - started, described - converted, published - described)
            counts = ObjectCounts(result.described, result.reused, result.skipped, runtime.known)
            empty_reason = f"{raw.topics[raw.regions_from]}: {result.empty_reason}" if result.empty_reason else ""
            self._statistics.described(age, seconds, counts, empty_reason)
            if empty_reason:
                self._throttled.warning("empty", f"{empty_reason}; an empty array is published")
        except StoppedError:
            self._statistics.stopped()
        except OspreyError as error:
            topic, _, _ = str(error).partition(": ")
            if topic in raw.topics.values():  # the conversion of one message failed
                self._fail(topic, str(error))
            else:
                self._fail(type(error).__name__, f"{', '.join(raw.topics.values())}: {error}")
        except Exception as error:
            self._fail_unexpectedly(error, "a frame could not be described")

    def _collect_status(self) -> list[status.Status]:
        """Return all entries of /diagnostics. Runs in the executor's thread."""
        settings = self._settings
        found = [status.lifecycle_status(self._state(self._inputs is not None), self._problem)]
        if self._inputs is not None:
            summary = self._summary()
            found += [
                status.inputs_status(self._inputs.state(), summary.unmatched_for),
                status.frames_status(summary, settings.max_age, settings.interval, settings.step),
                status.stages_status(summary),
            ]
            transforms = self._inputs.transform_state()
            if transforms is not None:
                found.append(status.transforms_status(transforms))
            if self._runtime is not None:
                found.append(status.scene_status(summary, self._runtime.scene_file, self._runtime.problem))
        if self._runtime is not None:
            bundle = self._runtime.bundle
            change = self._server.bundles.change if self._server is not None else BundleChange()
            found.append(status.bundle_status(bundle.manifest, str(bundle.root), change.loading, change.problem))
        reserve = settings.memory_reserve * MIB
        return [*found, status.memory_status(process_memory(), available_memory(), reserve)]


def _stages(timing: Timing | None, conversion: float, step: float, publishing: float) -> dict[str, float]:
    """Return the seconds of each stage of a frame; empty if no image was encoded.

    "scene" is the part of ``step`` outside the describer: association, scene update, scheduling, saving. Conversion,
    the stages of the describer, scene and publishing add up to "frame", and so do "engines" and "overhead".

    Args:
        timing: seconds inside the describer.
        conversion, step, publishing: seconds of the three parts of a frame.
    """
    if timing is None:
        return {}
    frame = conversion + step + publishing
    return {
        "conversion": conversion,
        **{name: getattr(timing, name) for name in STAGES},
        "scene": step - timing.total,
        "publishing": publishing,
        "engines": timing.engine,
        "overhead": frame - timing.engine,
        "frame": frame,
    }


def _create() -> OspreyNode:
    node = OspreyNode()
    node.autostart()
    return node


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted. Return the exit status, 2 for an invalid parameter."""
    return run_node(_create, args, TOPICS)


if __name__ == "__main__":
    sys.exit(main())
