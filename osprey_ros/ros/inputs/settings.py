"""Settings of the node's inputs: topics, transports and matching. No ROS."""

from __future__ import annotations

from dataclasses import dataclass

from osprey_ros.errors import InputError
from osprey_ros.messages.frames import DETECTIONS, REGIONS, SEGMENTATION, YOLO
from osprey_ros.messages.synchronizer import MAX_QUEUE_SIZE, MAX_SLOP
from osprey_ros.regions.label_values import INSTANCES, MEANINGS, LabelValues
from osprey_ros.system.settings import Effect, ParameterGroup, parameter

TRANSPORTS = ("raw", "compressed")
DEPTH_TRANSPORTS = ("raw", "compressedDepth")
REGION_SOURCES = (SEGMENTATION, REGIONS, DETECTIONS, YOLO)
RELIABILITIES = ("auto", "reliable", "best_effort")


@dataclass(frozen=True)
class InputSettings(ParameterGroup):
    """Settings of the subscriptions. Each field says what it means.

    Raises InputError for a value outside the choices or limits of its field.
    """

    image_transport: str = parameter(
        "raw",
        "Transport of the image: raw (sensor_msgs/Image), or compressed (JPEG or PNG on the topic image/compressed, or "
        "on the topic image if it is remapped to a name that ends in /compressed).",
        Effect.ACTIVATE,
        choices=TRANSPORTS,
    )
    regions_from: str = parameter(
        SEGMENTATION,
        "Topic that provides the regions: segmentation (image of instance ids), regions "
        "(osprey_interfaces/RegionArray, masks that may overlap), detections (vision_msgs/Detection2DArray, boxes) or "
        "yolo (yolo_msgs/DetectionArray of yolo_ros, masks or boxes, with the ids of its tracker).",
        Effect.ACTIVATE,
        choices=REGION_SOURCES,
    )
    segmentation_transport: str = parameter(
        "raw",
        "Transport of the segmentation: raw, or compressed (PNG with 8 or 16 bits on the topic "
        "segmentation/compressed).",
        Effect.ACTIVATE,
        choices=TRANSPORTS,
    )
    segmentation_values: str = parameter(
        INSTANCES,
        "Meaning of the values of the segmentation: instances (ids), classes (each connected piece of a class is a "
        "region), or panoptic (class << 16 | instance).",
        Effect.ACTIVATE,
        choices=MEANINGS,
    )
    class_names: str = parameter(
        "",
        "Names of the classes 0, 1, 2 ... of a segmentation of classes or panoptic values, separated by commas. They "
        "become the labels of the regions.",
        Effect.ACTIVATE,
    )
    background_classes: str = parameter(
        "",
        "Names or numbers of classes that are background, such as wall, floor, separated by commas.",
        Effect.ACTIVATE,
    )
    use_depth: bool = parameter(
        False,
        "Subscribe to depth and camera_info, and add the position of each object. Frames then wait for their depth.",
        Effect.ACTIVATE,
    )
    depth_transport: str = parameter(
        "raw",
        "Transport of the depth: raw (16UC1 or 32FC1), or compressedDepth (PNG on the topic depth/compressedDepth).",
        Effect.ACTIVATE,
        choices=DEPTH_TRANSPORTS,
    )
    fixed_frame: str = parameter(
        "",
        "Frame of the robot in which objects have poses, such as map or odom, by the transforms on /tf and /tf_static; "
        "its z axis points up. Needs use_depth. Empty: positions are those in the camera's optical frame only.",
        Effect.ACTIVATE,
    )
    transform_timeout: float = parameter(
        0.2,
        "Maximum time for which a frame waits for its transform to fixed_frame. Without one its objects keep the poses "
        "of earlier frames.",
        Effect.ACTIVATE,
        unit="s",
        limits=(0.0, 5.0),
    )
    slop: float = parameter(
        0.0,
        "Maximum difference between the stamps of the messages of one frame. 0: the stamps must be equal.",
        Effect.ACTIVATE,
        unit="s",
        limits=(0.0, MAX_SLOP),
    )
    queue_size: int = parameter(
        15,
        "Messages of each topic that wait for a match. Set it to at least the delay of the segmentation in frames.",
        Effect.ACTIVATE,
        limits=(1, MAX_QUEUE_SIZE),
    )
    reliability: str = parameter(
        "auto",
        "QoS reliability of all subscriptions: reliable, best_effort, or auto (reliable, or best effort while a "
        "publisher offers best effort only). With best_effort, Fast DDS loses large images unless it gets more shared "
        "memory.",
        Effect.ACTIVATE,
        choices=RELIABILITIES,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fixed_frame and not self.use_depth:
            raise InputError(f"fixed_frame is {self.fixed_frame!r} and use_depth is false: poses need depth; set both")
        try:
            self.label_values()
        except InputError as error:
            raise InputError(f"background_classes: {error}") from error

    def label_values(self) -> LabelValues:
        """Return how the segmentation is read."""
        return LabelValues.of_texts(self.segmentation_values, self.class_names, self.background_classes)
