"""The lifecycle node `segmenter`: ids of the objects in camera images, and words for what is clicked.

While the node is active, it segments the latest image and publishes ``~/ids``, an image of instance ids with the
header of the camera image. The ids of an object stay the same from image to image. A click on the topic
``clicked_point`` is answered on ``~/clicked``, a request to the service ``~/describe_region`` in its response: the
object is segmented in an image that the describing node knows, and this node is asked about the mask. Clicked objects
are followed, and are among the ids from then on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import PointStamped
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo, Image

from osprey_ros.errors import InputError, OspreyError, StoppedError
from osprey_ros.messages.frames import CAMERA_INFO, DETECTIONS, IMAGE, RawFrame, frame_from_messages, rgb_of
from osprey_ros.messages.regions import part_of
from osprey_ros.messages.stamps import NANOSECONDS
from osprey_ros.regions.masks import MaskCrop
from osprey_ros.regions.regions import Regions, as_regions, regions_from_crops
from osprey_ros.regions.writing import MAX_PNG_ID, id_image
from osprey_ros.ros import interfaces
from osprey_ros.ros.diagnostics import status
from osprey_ros.ros.diagnostics.updater import Diagnostics
from osprey_ros.ros.inputs.frame_inputs import FrameInputs
from osprey_ros.ros.outputs import messages
from osprey_ros.ros.run import run_node
from osprey_ros.ros.segmenter.clicks import Describing, answer_message, pixel_of
from osprey_ros.ros.segmenter.images import KeptImage, LatestImages
from osprey_ros.ros.segmenter.settings import CLICKS, EVERYTHING, SegmenterSettings
from osprey_ros.ros.services.server import AnswerJob
from osprey_ros.ros.settings_node import SettingsNode
from osprey_ros.ros.transitions import logged
from osprey_ros.ros.worker import MAX_JOBS, LatestWorker
from osprey_ros.segmenter.bundle import SegmenterBundle
from osprey_ros.segmenter.live import LiveSegmenter
from osprey_ros.segmenter.segmenter import Segmenter
from osprey_ros.system.cancellation import CancellationToken

CLICKED_POINT = "clicked_point"
TOPICS = (IMAGE, DETECTIONS, CAMERA_INFO, CLICKED_POINT, "compressed", "ids", "clicked", "describe_region")
FIRST_BESIDE_DETECTIONS = 30_001  # first id of clicked objects where detections have ids of their own
_QOS_DEPTH = 5
_Found = list[tuple[int, MaskCrop]]  # clicked objects with their ids


class SegmenterNode(SettingsNode):
    """The node. Transitions, subscriptions and services run in the executor's thread, engines in the worker's."""

    def __init__(self) -> None:
        # First of all: rclpy also destroys a node whose constructor failed.
        self._live: LiveSegmenter | None = None  # these three while configured
        self._publisher: LifecyclePublisher[Image] | None = None
        self._answers: LifecyclePublisher[Any] | None = None
        self._inputs: FrameInputs | None = None  # these four while active
        self._describing: Describing | None = None
        self._clicks: list[Any] = []  # subscriptions
        self._service: Any = None
        self._images = LatestImages()
        self._awaited: set[int] = set()  # stamps of images that must be described before others are published
        self._camera_info: CameraInfo | None = None
        super().__init__("segmenter", SegmenterSettings)
        self._settings: SegmenterSettings
        self._diagnostics = Diagnostics(self, self._collect_status)

    @logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the engines, and create the publishers.

        Returns:
            SUCCESS: The node becomes inactive.
            FAILURE: The bundle is missing or invalid. The node stays unconfigured.
            ERROR: Anything else failed. `on_error` follows.
        """
        bundle = SegmenterBundle.open(self._settings.bundle)
        if not bundle.manifest.verified:
            self.get_logger().warning(status.unverified(bundle.manifest))
        self._live = LiveSegmenter(Segmenter(bundle, threads=self._settings.threads or None))
        self._publisher = self.create_lifecycle_publisher(Image, "~/ids", _QOS_DEPTH)
        self._answers = self.create_lifecycle_publisher(interfaces.ObjectDescriptionArray, "~/clicked", _QOS_DEPTH)
        self._worker = LatestWorker(self._process, name="segment", interval=self._settings.interval)
        return super().on_configure(state)

    @logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the image and to clicks.

        Returns:
            SUCCESS: The node becomes active.
            FAILURE: A message package is missing, or a topic cannot be subscribed to. The node stays inactive.
            ERROR: Anything else failed. `on_error` follows.
        """
        settings = self._settings
        self._statistics.start()
        self._loaded().restart(FIRST_BESIDE_DETECTIONS if settings.source == DETECTIONS else 1)
        self._inputs = FrameInputs(self, settings.inputs, self._on_frame, regions=settings.source == DETECTIONS)
        self._describing = Describing(self, settings.describer)
        self._clicks = [
            self.create_subscription(PointStamped, CLICKED_POINT, self._on_click, _QOS_DEPTH),
            self.create_subscription(CameraInfo, CAMERA_INFO, self._keep_camera_info, _QOS_DEPTH),
        ]
        # Reentrant: what answers a request arrives in other callbacks.
        self._service = self.create_service(
            interfaces.DescribeRegion, "~/describe_region", self._on_request, callback_group=ReentrantCallbackGroup()
        )
        result = super().on_activate(state)
        self.get_logger().info(f"subscribed to {', '.join(self._inputs.topics.values())} and {CLICKED_POINT}")
        return result

    @logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, and stop the current image.

        Returns:
            SUCCESS: The node becomes inactive.
            ERROR: Something failed. `on_error` follows.
        """
        summary = self._summary()
        self._unsubscribe()
        self.get_logger().info(f"{summary.described} images segmented, {summary.replaced} dropped for later ones")
        return super().on_deactivate(state)

    def _unsubscribe(self) -> None:
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None
        if self._worker is not None:
            self._worker.cancel()
        if self._describing is not None:
            self._describing.close()
            self._describing = None
        while self._clicks:
            self.destroy_subscription(self._clicks.pop())
        if self._service is not None:
            self.destroy_service(self._service)
            self._service = None
        self._images.clear()
        self._awaited.clear()

    def _release(self) -> None:
        self._unsubscribe()
        self._close_worker()
        for publisher in (self._publisher, self._answers):
            if publisher is not None:
                self.destroy_lifecycle_publisher(publisher)
        self._publisher = self._answers = None
        if self._live is not None:
            self._live.segmenter.close()
            self._live = None

    def _on_frame(self, raw: RawFrame) -> None:
        if self._worker is not None:
            self._statistics.matched()
            self._worker.submit(raw)

    def _keep_camera_info(self, message: CameraInfo) -> None:
        self._camera_info = message

    def _process(self, raw: RawFrame, cancel: CancellationToken) -> None:
        """Segment one image and publish its ids. Runs in the worker's thread."""
        try:
            started = time.perf_counter()
            rgb, boxes = self._read(raw)
            image = KeptImage(raw.stamp, raw.image.header.frame_id, rgb)
            live = self._loaded()
            live.set_image(image.stamp, rgb, cancel)
            regions = self._segmented(live, boxes, cancel)
            self._images.add(image)
            segmented = time.perf_counter()
            if not self._awaited and (len(regions) or self._settings.source != CLICKS):
                self._publish(image, regions)
            seconds = {"segmenter": segmented - started, "publishing": time.perf_counter() - segmented}
            age = (self.get_clock().now().nanoseconds - image.stamp) / 1e9
            self._statistics.described(age, {**seconds, "frame": sum(seconds.values())})
        except StoppedError:
            self._statistics.stopped()
        except OspreyError as error:
            self._fail(type(error).__name__, str(error))
        except Exception as error:
            self._fail_unexpectedly(error, "an image could not be segmented")

    def _read(self, raw: RawFrame) -> tuple[np.ndarray, Regions | None]:
        """Return the image, uint8 [H, W, 3], and the boxes of its detections if these are segmented."""
        if raw.regions is not None:
            frame = frame_from_messages(raw)
            return frame.rgb, as_regions(frame.regions)
        try:
            return rgb_of(raw.image), None
        except InputError as error:
            raise InputError(f"{raw.topics[IMAGE]}: {error}") from error

    def _segmented(self, live: LiveSegmenter, boxes: Regions | None, cancel: CancellationToken) -> Regions:
        """Return the regions of the image that is set. ``boxes``: those of detections, if these are segmented."""
        if boxes is not None:
            return live.detections(boxes, cancel)
        return live.everything(cancel) if self._settings.source == EVERYTHING else live.clicked(cancel)

    def _publish(self, image: KeptImage, regions: Regions) -> None:
        ids = id_image(regions)
        wide = ids.max(initial=0) > MAX_PNG_ID
        pixels, encoding = (ids, "32SC1") if wide else (ids.astype(np.uint16), "mono16")
        header = messages.header_message(image.stamp, image.frame_id)
        if self._publisher is not None:
            self._publisher.publish(messages.image_message(pixels, encoding, header))
        image.published = True

    def _on_click(self, message: PointStamped) -> None:
        if self.executor is not None:
            self.executor.create_task(self._answer_click, message)

    async def _answer_click(self, message: PointStamped) -> None:
        """Publish words for a clicked point."""

        def request_of(image: KeptImage) -> Any:
            x, y = pixel_of(message, image.frame_id, self._camera_info, (image.rgb.shape[0], image.rgb.shape[1]))
            return interfaces.DescribeRegion.Request(points=[messages.point_message((x, y, 0.0))])

        response, found = await self._described(interfaces.DescribeRegion.Response(), 0, request_of)
        if not response.success:
            self._throttled.warning("click", f"a click could not be answered: {response.message}")
        elif self._answers is not None:
            ((number, crop),) = found
            self._answers.publish(answer_message(number, crop, response))

    async def _on_request(self, request: Any, response: Any) -> Any:
        """Answer the service ``~/describe_region``."""
        stamp = request.stamp.sec * NANOSECONDS + request.stamp.nanosec
        return (await self._described(response, stamp, lambda image: request))[0]

    async def _described(self, response: Any, stamp: int, request_of: Callable[[KeptImage], Any]) -> tuple[Any, _Found]:
        """Segment what was clicked in one image, and have it described.

        Args:
            response: Is returned if that is impossible, with the reason.
            stamp: Of the image; 0 for the latest image that was described.
            request_of: Returns the request about an image, with points and boxes.

        Returns:
            The response, and the objects with their ids.
        """
        describing, worker = self._describing, self._worker
        if describing is None or worker is None:
            response.success, response.message = False, "the node is inactive; activate it"
            return response, []
        try:
            await describing.check()
            image = self._images.of(stamp) if stamp else await describing.image_to_click(self._images)
            request = request_of(image)
            job = AnswerJob(
                self, response, lambda cancel: self._clicked_in(image, request, cancel), lambda: "the click was stopped"
            )
            if not worker.ask(job):
                raise InputError(f"{MAX_JOBS} clicks are waiting already; try again later")
            found: Any = await job.future
            if found is response:  # has the reason
                return response, []
            try:
                await describing.until_described(image)
            finally:
                self._awaited.discard(image.stamp)
            return await describing.words(image, request, [crop for _, crop in found]), found
        except InputError as error:
            response.success, response.message = False, str(error)
            return response, []

    def _clicked_in(self, image: KeptImage, request: Any, cancel: CancellationToken) -> _Found:
        """Segment the points and boxes of a request in an image, and follow the objects. In the worker's thread."""
        if request.track_ids:
            raise InputError(f"the segmenter knows no track ids; send them to {self._settings.describer}")
        live, (height, width) = self._loaded(), image.rgb.shape[:2]
        live.set_image(image.stamp, image.rgb, cancel)
        parts = [part_of(region, height, width) for region in request.regions]
        boxes = [(part.left, part.top, part.mask.shape[1], part.mask.shape[0]) for part in parts]
        found = live.click([(point.x, point.y) for point in request.points], boxes, cancel)
        if not image.published:  # the describing node waits for its ids
            self._awaited.add(image.stamp)
            unique = dict(found)
            self._publish(image, regions_from_crops(list(unique.values()), list(unique), height, width))
        return found

    def _loaded(self) -> LiveSegmenter:
        if self._live is None:
            raise StoppedError("the node was cleaned up")
        return self._live

    def _collect_status(self) -> Sequence[status.Status]:
        """Return all entries of /diagnostics. Runs in the executor's thread."""
        found = [status.lifecycle_status(self._state(self._inputs is not None), self._problem)]
        if self._inputs is not None:
            summary = self._summary()
            found += [
                status.inputs_status(self._inputs.state(), summary.unmatched_for),
                status.frames_status(summary, self._settings.max_age, self._settings.interval),
                status.stages_status(summary),
            ]
        if self._live is not None:
            bundle = self._live.segmenter.bundle
            found.append(status.bundle_status(bundle.manifest, str(bundle.root)))
        return found


def _create() -> SegmenterNode:
    node = SegmenterNode()
    node.autostart()
    return node


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted. Return the exit status, 2 for an invalid parameter."""
    return run_node(_create, args, TOPICS)


if __name__ == "__main__":
    sys.exit(main())
