"""Conversion of the messages of one frame into the `Frame` that the pipeline takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from osprey_ros.errors import InputError
from osprey_ros.frame import Frame, RegionLabel
from osprey_ros.messages import images
from osprey_ros.messages.regions import regions_from_detections, regions_from_message, regions_from_yolo
from osprey_ros.messages.stamps import stamp_of
from osprey_ros.regions.label_values import INSTANCE_IDS, LabelValues
from osprey_ros.regions.regions import Regions

if TYPE_CHECKING:
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image

IMAGE, SEGMENTATION, REGIONS, DETECTIONS, YOLO = "image", "segmentation", "regions", "detections", "yolo"
DEPTH, CAMERA_INFO = "depth", "camera_info"


@dataclass(frozen=True)
class RawFrame:
    """The unconverted messages of one frame.

    Attributes:
        image: sensor_msgs/Image or CompressedImage.
        regions: message with the regions, of the kind that ``regions_from`` names; None if only images are received.
        regions_from: "segmentation" (Image or CompressedImage), "regions" (RegionArray), "detections"
            (vision_msgs/Detection2DArray) or "yolo" (yolo_msgs/DetectionArray).
        topics: full topic name of each input by its relative name ("image", "segmentation" ...).
        values: What the values of a segmentation mean.
        depth: sensor_msgs/Image or CompressedImage, None without depth.
        camera_info: latest calibration, independent of its stamp; None without depth.
    """

    image: Image | CompressedImage
    regions: Any
    regions_from: str
    topics: Mapping[str, str]
    values: LabelValues = INSTANCE_IDS
    depth: Image | CompressedImage | None = None
    camera_info: CameraInfo | None = None

    @property
    def stamp(self) -> int:
        """Stamp of the image, which is the stamp of the frame, in nanoseconds."""
        return stamp_of(self.image)


def frame_from_messages(raw: RawFrame) -> Frame:
    """Convert the messages of one frame. Compressed images take milliseconds.

    Raises:
        InputError: A message is invalid. The text begins with its topic.
    """

    def read(topic: str, convert: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return convert(*arguments)
        except InputError as error:
            raise InputError(f"{raw.topics[topic]}: {error}") from error

    rgb = read(IMAGE, rgb_of, raw.image)
    regions, labels = read(raw.regions_from, _regions, raw, rgb.shape[:2])
    depth = None if raw.depth is None else read(DEPTH, _depth, raw.depth)
    matrix = None if raw.camera_info is None else read(CAMERA_INFO, camera_matrix_of, raw.camera_info, rgb.shape[:2])
    return Frame(
        stamp=raw.stamp,
        frame_id=raw.image.header.frame_id,
        rgb=rgb,
        regions=regions,
        labels=labels,
        depth=depth,
        camera_matrix=matrix,
    )


def camera_matrix_of(message: CameraInfo, shape: tuple[int, int]) -> np.ndarray:
    """Return the camera matrix for an image, with its binning and region of interest taken into account.

    The matrix is the left part of P, which belongs to the rectified image, or K (raw image) if P is not filled.
    Distortion is ignored.

    Args:
        message: calibration.
        shape: height and width of the image in pixels.

    Returns:
        float64 [3, 3], in pixels.

    Raises:
        InputError: The camera is not calibrated, or its images have another size.
    """
    matrix = np.array(message.p, np.float64).reshape(3, 4)[:, :3]
    if not (matrix[0, 0] > 0 and matrix[1, 1] > 0):
        matrix = np.array(message.k, np.float64).reshape(3, 3)
    if not np.isfinite(matrix).all():
        raise InputError(f"the camera matrix is not finite ({matrix.ravel().tolist()}); calibrate the camera again")
    if not (matrix[0, 0] > 0 and matrix[1, 1] > 0):
        raise InputError(
            f"the focal lengths are {matrix[0, 0]:g} and {matrix[1, 1]:g}; calibrate the camera, or set use_depth to "
            "false"
        )
    across, down = max(1, message.binning_x), max(1, message.binning_y)
    # A roi of 0 by 0 pixels means the whole image.
    wide, tall = message.roi.width or message.width, message.roi.height or message.height
    height, width = shape
    if (wide // across, tall // down) != (width, height):
        raise InputError(
            f"the calibration is for images of {wide // across}x{tall // down} pixels, the image is {width}x{height}; "
            "scale camera_info together with the image"
        )
    matrix[0, 2] -= message.roi.x_offset
    matrix[1, 2] -= message.roi.y_offset
    # The center of the first pixel is at 0: with binning, that is the middle of the first `across` columns.
    matrix[0, 2] = (matrix[0, 2] + 0.5) / across - 0.5
    matrix[1, 2] = (matrix[1, 2] + 0.5) / down - 0.5
    matrix[0, :2] /= across
    matrix[1, :2] /= down
    return matrix


def is_compressed(message: Image | CompressedImage) -> bool:
    """Return whether an image message is compressed: only that kind has the field ``format``."""
    return hasattr(message, "format")


def rgb_of(message: Any) -> np.ndarray:
    """Return the image of a message, uint8 [H, W, 3]. Raises InputError for an invalid message."""
    return images.rgb_from_compressed(message) if is_compressed(message) else images.rgb_from_message(message)


def _depth(message: Any) -> np.ndarray:
    return images.depth_from_compressed(message) if is_compressed(message) else images.depth_from_message(message)


def _regions(raw: RawFrame, shape: tuple[int, int]) -> tuple[np.ndarray | Regions, dict[int, RegionLabel]]:
    if raw.regions_from == REGIONS:
        return regions_from_message(raw.regions)
    if raw.regions_from == DETECTIONS:
        return regions_from_detections(raw.regions, *shape)
    if raw.regions_from == YOLO:
        return regions_from_yolo(raw.regions, *shape)
    read = images.ids_from_compressed if is_compressed(raw.regions) else images.ids_from_message
    ids, names = raw.values.read(read(raw.regions))
    return ids, {region: RegionLabel(name, 0.0) for region, name in names.items()}
