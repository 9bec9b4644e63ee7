"""Clicks on camera images, and words for them from the describing node, in one exchange."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import PointStamped
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, RegionOfInterest

from osprey_ros.errors import InputError
from osprey_ros.messages.frames import camera_matrix_of
from osprey_ros.messages.stamps import stamp_of
from osprey_ros.regions.masks import MaskCrop, rle_from_mask
from osprey_ros.ros import interfaces
from osprey_ros.ros.outputs.messages import time_message
from osprey_ros.ros.segmenter.images import KeptImage, LatestImages

PATIENCE = 15.0  # seconds until an image counts as not described, or a request as lost
DISCOVERY = 5.0  # seconds that a node which has just started may take to be found
_ATTEMPTS = 4  # requests for one answer: a service that has not found its new client yet sends an answer nowhere
_PERIOD = 0.02  # seconds between two looks at what is waited for
_STAMPS = 64  # latest described images that are remembered


def pixel_of(
    click: PointStamped, frame_id: str, camera_info: CameraInfo | None, shape: tuple[int, int]
) -> tuple[float, float]:
    """Return x and y in pixels of a clicked point.

    A point with z = 0 is in pixels of the image, as from a click on an image. A point in front of the camera, with
    z > 0, is in meters along the axes of the camera's optical frame, and is projected.

    Args:
        click: The point.
        frame_id: Frame of the image.
        camera_info: Calibration of the rectified image, for points in meters.
        shape: (height, width) of the image in pixels.

    Raises InputError for a point in another frame, behind the camera, or without a calibration.
    """
    point = click.point
    if point.z == 0:
        return point.x, point.y
    if click.header.frame_id != frame_id:
        raise InputError(
            f"the clicked point is in the frame {click.header.frame_id!r} and the image in {frame_id!r}; click on the "
            "image (x and y in pixels, z = 0), or send the point in the frame of the image"
        )
    if not point.z > 0:
        raise InputError(f"the clicked point is behind the camera (z is {point.z:g}); send a point in front of it")
    if camera_info is None:
        raise InputError("the clicked point is in meters and no camera_info arrived; remap camera_info")
    u, v, w = camera_matrix_of(camera_info, shape) @ (point.x, point.y, point.z)
    return float(u / w), float(v / w)


def region_message(crop: MaskCrop) -> Any:
    """Return a mask as a Region message."""
    height, width = crop.mask.shape
    roi = RegionOfInterest(x_offset=crop.left, y_offset=crop.top, width=width, height=height)
    return interfaces.Region(encoding=interfaces.Region.RLE, roi=roi, rle=rle_from_mask(crop.mask))


def answer_message(number: int, crop: MaskCrop, response: Any) -> Any:
    """Return the answer about one object, as a message with one object.

    Args:
        number: Id of the object in the id images.
        crop: Its mask.
        response: Successful response of DescribeRegion.
    """
    thing = interfaces.ObjectDescription(
        instance_id=number,
        track_id=next(iter(response.track_ids), 0),
        visible=True,
        roi=region_message(crop).roi,
        area=int(np.count_nonzero(crop.mask)),
        state=interfaces.ObjectDescription.FRESH,
        reason=response.message,
        description=response.text,
        confidence=response.confidence,
        raw_confidence=response.confidence,
        described_at=response.header.stamp,
        first_seen=response.header.stamp,
        last_seen=response.header.stamp,
        kinds=response.kinds,
        kind_probabilities=response.kind_probabilities,
    )
    return interfaces.ObjectDescriptionArray(header=response.header, objects=[thing])


class Describing:
    """The node that describes: the images that it has described, and its answers. Runs in the executor's thread.

    Args:
        node: Owner of subscription and client.
        name: Relative or full name of the describing node.
    """

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self._stamps: deque[int] = deque(maxlen=_STAMPS)
        self._closed, self._name = False, name
        self._objects = node.create_subscription(interfaces.ObjectDescriptionArray, f"{name}/objects", self._note, 5)
        self._service = node.resolve_service_name(f"{name}/describe_region")
        self._client: Any = node.create_client(interfaces.DescribeRegion, f"{name}/describe_region")

    def close(self) -> None:
        """Remove subscription and client, and end all waiting."""
        self._closed = True
        self._node.destroy_subscription(self._objects)
        self._node.destroy_client(self._client)

    @property
    def stamps(self) -> tuple[int, ...]:
        """Stamps of the images that were described, the latest last."""
        return tuple(self._stamps)

    async def until(self, ready: Callable[[], bool], patience: float = PATIENCE) -> bool:
        """Wait until ``ready`` is true. Return False after ``patience`` seconds, and when this is closed."""
        if ready():
            return True
        future: Future[bool] = Future(executor=self._node.executor)
        future.add_done_callback(lambda _: None)  # otherwise a result does not wake the executor
        deadline = time.monotonic() + patience

        def look() -> None:
            if not future.done() and (ready() or self._closed or time.monotonic() > deadline):
                future.set_result(not self._closed and ready())

        # A steady clock: simulated time may stand still.
        timer = self._node.create_timer(_PERIOD, look, clock=Clock(clock_type=ClockType.STEADY_TIME))
        found = await future
        self._node.destroy_timer(timer)
        return bool(found)

    async def check(self) -> None:
        """Raise InputError if no node offers the service that describes within DISCOVERY seconds."""
        if not await self.until(self._client.service_is_ready, DISCOVERY):
            raise InputError(
                f"no node offers {self._service}; start the node that describes, or set the parameter describer"
            )

    async def image_to_click(self, images: LatestImages) -> KeptImage:
        """Return the latest image that was described, or else the latest one for which no ids were published yet.

        Raises InputError if there is none within PATIENCE seconds.
        """

        def found() -> KeptImage | None:
            return images.described(self.stamps) or images.unpublished()

        await self.until(lambda: found() is not None)
        image = found()
        if image is None:
            raise InputError(self._not_described("no image was"))
        return image

    async def until_described(self, image: KeptImage) -> None:
        """Wait until an image is described. Raises InputError if it is not within PATIENCE seconds."""
        if not await self.until(lambda: image.stamp in self.stamps):
            raise InputError(self._not_described("the clicked image was not"))

    async def words(self, image: KeptImage, request: Any, masks: Sequence[MaskCrop]) -> Any:
        """Return the response to a request, with its question or style, about masks in an image.

        Raises InputError if there is none after several requests.
        """
        forwarded = interfaces.DescribeRegion.Request(
            stamp=time_message(image.stamp),
            regions=[region_message(mask) for mask in masks],
            question=request.question,
            style=request.style,
            max_new_tokens=request.max_new_tokens,
        )
        futures: list[Any] = []

        def answer() -> Any:
            return next((future for future in futures if future.done()), None)

        try:
            for _ in range(_ATTEMPTS):
                futures.append(self._client.call_async(forwarded))
                if await self.until(lambda: answer() is not None):
                    return answer().result()
                if self._closed:
                    raise InputError("the node was deactivated before the answer came")
        finally:
            for future in futures:
                self._client.remove_pending_request(future)
        raise InputError(f"{self._name} did not answer within {_ATTEMPTS * PATIENCE:g} s; check that it is active")

    def _not_described(self, what: str) -> str:
        return (
            f"{what} described by {self._name} within {PATIENCE:g} s; check that it is active and that its topic "
            "segmentation is remapped to the ids of this node"
        )

    def _note(self, message: Any) -> None:
        self._stamps.append(stamp_of(message))
