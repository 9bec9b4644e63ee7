"""The lifecycle node `osprey`: an image and its regions in, the same objects in words out, and answers about them.

Subscribes (see `inputs`) while active, publishes (see `outputs`) what it found with the header of the image, and says
once a second on ``/diagnostics`` how it is. One worker thread describes the latest complete frame; frames that come
meanwhile are dropped and counted. A frame that cannot be described is reported, and the node goes on. Between frames
the same thread answers requests (see `services`).
"""

from __future__ import annotations

import functools
import sys
import time
import traceback
from collections.abc import Callable

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from osprey_ros.errors import OspreyError
from osprey_ros.messages.frames import RawFrame, frame_from_messages
from osprey_ros.ros import parameters
from osprey_ros.ros.complaints import Complaints
from osprey_ros.ros.diagnostics import status as health
from osprey_ros.ros.diagnostics.statistics import ObjectCounts, Statistics, Summary
from osprey_ros.ros.diagnostics.updater import Diagnostics
from osprey_ros.ros.inputs.frame_inputs import FrameInputs
from osprey_ros.ros.outputs.publishers import Outputs
from osprey_ros.ros.run import run_node
from osprey_ros.ros.runtime import Perception
from osprey_ros.ros.services.server import Services
from osprey_ros.ros.worker import LatestWorker
from osprey_ros.system import process_memory as memory
from osprey_ros.timing import Timing

_UNCONFIGURED = "the node is unconfigured: configure and activate it, or start it with autostart:=true"
_INACTIVE = "the node is inactive: activate it"
_FINALIZED = "the node was shut down: end its process and start it again"
_STAGES = ("preprocess", "vision", "regions", "prefix", "branches")  # of results.Timing

Transition = Callable[["OspreyNode", LifecycleState], TransitionCallbackReturn]


def _reported(transition: Transition) -> Transition:
    """rclpy swallows what a transition raises: say it in the log and in /diagnostics.

    An OspreyError has its remedy in it: the transition fails and the state stays as it was. After anything else
    on_error leads back to unconfigured.
    """

    @functools.wraps(transition)
    def wrapped(self: OspreyNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            result = transition(self, state)
        except OspreyError as error:
            self._problem = f"{transition.__name__.removeprefix('on_')} failed: {error}"
            self.get_logger().error(self._problem)
            result = TransitionCallbackReturn.FAILURE
        except Exception as error:
            self._problem = f"{transition.__name__.removeprefix('on_')} failed: {type(error).__name__}: {error}"
            self.get_logger().error(f"{transition.__name__} failed:\n{traceback.format_exc()}")
            result = TransitionCallbackReturn.ERROR
        else:
            if transition.__name__ != "on_error":  # which comes after a problem, and does not solve it
                self._problem = ""
            return result
        if self._perception is None:
            memory.give_back()  # engines that were loaded before it failed; the error held them until here
        return result

    return wrapped


class OspreyNode(LifecycleNode):
    """The node. Transitions and subscriptions run in the executor's thread, the worker describes and publishes."""

    def __init__(self) -> None:
        # Before all else: rclpy also destroys a node whose making failed.
        self._worker: LatestWorker[RawFrame] | None = None  # these three while configured
        self._outputs: Outputs | None = None
        self._perception: Perception | None = None
        self._answering: Services | None = None  # always
        self._inputs: FrameInputs | None = None  # while active
        super().__init__("osprey")
        self._settings = parameters.declare(self)
        self.add_on_set_parameters_callback(self._check_parameters)
        if hasattr(self, "add_post_set_parameters_callback"):  # not in Humble
            self.add_post_set_parameters_callback(self._apply_parameters)
        self._statistics = Statistics()
        self._problem = ""  # why the last transition failed
        self._finalized = False  # from where no transition leads
        self._complaints = Complaints(self.get_logger())
        self._answering = Services(self)
        self._answering.refuse(_UNCONFIGURED)
        self._diagnostics = Diagnostics(self, self._look)

    def autostart(self) -> None:
        """Configures and activates the node if its parameter ``autostart`` says so."""
        if self._settings.autostart and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    @_reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the engines and the scene, and makes the publishers.

        Fails for a bundle that is no good or too large, and for a scene_file that cannot be used.
        """
        log = self.get_logger()
        perception = Perception(lambda: self._settings, log.info, log.error)
        manifest = perception.bundle.manifest
        if not manifest.verified:
            log.warning(health.unverified(manifest))
        self._perception = perception
        self._outputs = Outputs(self)
        self._worker = LatestWorker(self._look_at, name="osprey-describe", interval=self._settings.interval)
        self._refuse(_INACTIVE)
        log.info(f"bundle {manifest.name} is ready")
        return super().on_configure(state)

    @_reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes. Fails where a message package is missing, or a topic cannot be subscribed to."""
        self._statistics.start()
        self._inputs = FrameInputs(self, self._settings.inputs, self._on_frame)
        result = super().on_activate(state)
        if self._answering is not None and self._perception is not None and self._worker is not None:
            self._answering.serve(self._perception.requests, self._worker)
        self.get_logger().info(f"listening to {', '.join(self._inputs.topics.values())}")
        return result

    @_reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribes, and stops what is being described or answered within one run of an engine."""
        summary = self._summary()
        self._unsubscribe()
        self.get_logger().info(f"{summary.described} frames described, {summary.replaced} dropped for later ones")
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
        self._finalized = True
        self._refuse(_FINALIZED)
        return super().on_shutdown(state)

    @_reported
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Returns to unconfigured, from where configure can be tried again."""
        self._release()
        super().on_error(state)
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Ends the worker thread and removes the node from the graph."""
        self._release()
        if self._answering is not None:
            self._answering.close()
        super().destroy_node()

    def _check_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            self._settings.changed(changes)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if not hasattr(self, "add_post_set_parameters_callback"):
            self._apply_parameters(changes)
        return SetParametersResult(successful=True)

    def _apply_parameters(self, changes: list[Parameter]) -> None:
        self._settings = self._settings.changed(changes)
        if self._worker is not None:
            self._worker.interval = self._settings.interval
            for sentence in parameters.waiting(changes):
                self.get_logger().info(sentence)

    def _unsubscribe(self) -> None:
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None
        if self._worker is not None:
            self._refuse(_INACTIVE)
            self._worker.cancel()
        if self._perception is not None:
            self._perception.flush()

    def _refuse(self, reason: str) -> None:
        if self._answering is not None:
            self._answering.refuse(reason)

    def _release(self) -> None:
        self._unsubscribe()
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        if self._outputs is not None:
            self._outputs.close()
            self._outputs = None
        if self._perception is not None:
            self._perception.close()
            self._perception = None
            memory.give_back()
        self._refuse(_UNCONFIGURED)

    def _on_frame(self, raw: RawFrame) -> None:
        if self._worker is not None:
            self._statistics.matched()
            self._worker.submit(raw)

    def _look_at(self, raw: RawFrame) -> None:
        """Looks at one frame and publishes what is known of its objects. Runs in the worker's thread."""
        perception, outputs, worker = self._perception, self._outputs, self._worker
        if perception is None or outputs is None or worker is None:
            return
        try:
            started = time.perf_counter()
            frame = frame_from_messages(raw)
            converted = time.perf_counter()
            result = perception.step(frame, should_stop=worker.stopping)
            if worker.stopping():
                self._statistics.stopped()
                return
            described = time.perf_counter()
            outputs.publish(frame, result, draw=self._settings.overlay)
            published = time.perf_counter()
            age = (self.get_clock().now().nanoseconds - frame.stamp) / 1e9
            seconds = _stages(result.timing, converted - started, described - converted, published - described)
            counts = ObjectCounts(result.described, result.reused, result.skipped, perception.known)
            nothing = f"{raw.topics[raw.regions_from]}: {result.empty_reason}" if result.empty_reason else ""
            self._statistics.described(age, seconds, counts, nothing)
            if nothing:
                self._complaints.say("nothing", f"{nothing}; an empty array is published", serious=False)
        except OspreyError as error:
            topic, _, _ = str(error).partition(": ")
            if topic in raw.topics.values():  # the conversion of one message failed
                self._fail(topic, str(error))
            else:
                self._fail(type(error).__name__, f"{', '.join(raw.topics.values())}: {error}")
        except Exception as error:
            # Whatever went wrong with this frame, the next one deserves its try. Nothing is wrong if the process ends.
            if self.context.ok():
                kind = type(error).__name__
                self._fail(kind, f"a frame could not be described: {kind}: {error}", traceback.format_exc())

    def _fail(self, kind: str, reason: str, details: str = "") -> None:
        self._statistics.failed(reason)
        self._complaints.say(kind, f"{reason}\n{details}".rstrip())

    def _summary(self) -> Summary:
        return self._statistics.summary(self._worker.replaced if self._worker is not None else 0)

    def _look(self) -> list[health.Status]:
        """All that /diagnostics says. Runs in the executor's thread."""
        settings = self._settings
        unloaded = "finalized" if self._finalized else "unconfigured"
        state = "active" if self._inputs else "inactive" if self._worker else unloaded
        found = [health.lifecycle_status(state, self._problem)]
        if self._inputs is not None:
            summary = self._summary()
            found += [
                health.inputs_status(self._inputs.state(), summary.unmatched_for),
                health.frames_status(summary, settings.max_age, settings.interval),
                health.stages_status(summary),
            ]
            if self._perception is not None:
                found.append(health.scene_status(summary, self._perception.scene_file, self._perception.problem))
        if self._perception is not None:
            bundle = self._perception.bundle
            found.append(health.bundle_status(bundle.manifest, str(bundle.root)))
        reserve = settings.memory_reserve * memory.MIB
        return [*found, health.memory_status(memory.resident(), memory.available(), reserve)]


def _stages(timing: Timing | None, conversion: float, step: float, publishing: float) -> dict[str, float]:
    """Seconds by stage, of a frame that took the sum of these three; empty where no picture was looked at.

    "scene" is what of the step is not the describer's: finding objects again, remembering, planning, saving. These and
    the describer's stages add up to "frame", of which "engines" were at work for a part and "overhead" is the rest.
    """
    if timing is None:
        return {}
    frame = conversion + step + publishing
    return {
        "conversion": conversion,
        **{name: getattr(timing, name) for name in _STAGES},
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
    """Runs the node until it is interrupted. Returns the exit status: 2 for a parameter that is no good."""
    return run_node(_create, args)


if __name__ == "__main__":
    sys.exit(main())
