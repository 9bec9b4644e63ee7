"""Parameters of the node `segmenter`. Their texts, units, limits and defaults lie here only. No ROS."""

from __future__ import annotations

from dataclasses import dataclass

from osprey_ros.messages.frames import DETECTIONS
from osprey_ros.messages.synchronizer import MAX_QUEUE_SIZE, MAX_SLOP
from osprey_ros.ros.inputs.settings import RELIABILITIES, TRANSPORTS, InputSettings
from osprey_ros.segmenter.segmenter import DEFAULT_BUNDLE
from osprey_ros.system.settings import Effect, ParameterGroup, parameter

EVERYTHING, CLICKS = "everything", "clicks"


@dataclass(frozen=True)
class SegmenterSettings(ParameterGroup):
    """Values of all parameters.

    Raises InputError for an invalid value.
    """

    autostart: bool = parameter(
        False, "Configure and activate the node when it starts. The launch files set it to true.", Effect.START
    )
    bundle: str = parameter(
        DEFAULT_BUNDLE, "Bundle of the segmenter: a folder, or the name of an installed bundle.", Effect.CONFIGURE
    )
    threads: int = parameter(0, "Threads of the engines. 0: one for each core.", Effect.CONFIGURE, limits=(0, 256))
    source: str = parameter(
        EVERYTHING,
        "What is segmented: everything in the image; detections (the boxes of vision_msgs/Detection2DArray on the "
        "topic detections, whose ids are kept); or clicks, only what was clicked. Clicked objects are segmented in "
        "every case.",
        Effect.ACTIVATE,
        choices=(EVERYTHING, DETECTIONS, CLICKS),
    )
    describer: str = parameter(
        "osprey",
        "Name of the node that describes clicked objects, in the same namespace or with its namespace.",
        Effect.ACTIVATE,
    )
    image_transport: str = parameter(
        "raw",
        "Transport of the image: raw, or compressed (on the topic image/compressed).",
        Effect.ACTIVATE,
        choices=TRANSPORTS,
    )
    slop: float = parameter(
        0.0,
        "Maximum difference between the stamps of an image and its detections. 0: the stamps must be equal.",
        Effect.ACTIVATE,
        unit="s",
        limits=(0.0, MAX_SLOP),
    )
    queue_size: int = parameter(
        15, "Images and detections that wait for a match.", Effect.ACTIVATE, limits=(1, MAX_QUEUE_SIZE)
    )
    reliability: str = parameter(
        "auto",
        "QoS reliability of the subscriptions: reliable, best_effort, or auto (reliable, or best effort while a "
        "publisher offers best effort only).",
        Effect.ACTIVATE,
        choices=RELIABILITIES,
    )
    rate_limit: float = parameter(
        5.0,
        "Maximum number of images segmented per second. 0: no limit.",
        Effect.FRAME,
        unit="Hz",
        limits=(0.0, 1000.0),
    )
    max_age: float = parameter(
        5.0,
        "Age of the ids, from the stamp of their image, above which /diagnostics warns. 0: never.",
        Effect.FRAME,
        unit="s",
        limits=(0.0, 3600.0),
    )

    @property
    def interval(self) -> float:
        """Minimum time in seconds from one image to the next."""
        return 1.0 / self.rate_limit if self.rate_limit else 0.0

    @property
    def inputs(self) -> InputSettings:
        """Settings of the subscriptions to the image and, for detections, their boxes."""
        return InputSettings(
            image_transport=self.image_transport,
            regions_from=DETECTIONS,
            slop=self.slop,
            queue_size=self.queue_size,
            reliability=self.reliability,
        )
