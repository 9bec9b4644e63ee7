"""The parameters of the node: what they are called, what they mean, which values they take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.errors import InputError
from osprey_ros.pipeline import StepSettings
from osprey_ros.ros.inputs.frame_inputs import DEPTH_TRANSPORTS, REGION_SOURCES, TRANSPORTS, InputSettings
from osprey_ros.scene.attributes import attributes_from
from osprey_ros.vision.preprocess import MODES

RELIABILITIES = ("auto", "reliable", "best_effort")


@dataclass(frozen=True)
class Settings:
    """The values of all parameters; ``inputs`` and ``step`` hold those of the subscriptions and of the words.

    ``step.attributes`` stays empty: what ``attributes`` say counts when the node is configured.
    """

    bundle: str = "nano"
    threads: int = 0
    preprocessing: str = "fast"
    memory_reserve: int = 200  # MB
    autostart: bool = False
    overlay: bool = True
    rate_limit: float = 0.0  # frames a second; 0: none
    max_age: float = 5.0  # seconds
    scene_file: str = ""  # "": none
    scene_file_size: int = 64  # MB
    max_objects: int = 500
    attributes: tuple[str, ...] = ()  # as `osprey_ros.scene.attributes.attributes_from` takes them
    inputs: InputSettings = field(default_factory=InputSettings)
    step: StepSettings = field(default_factory=StepSettings)

    @property
    def interval(self) -> float:
        """Least seconds from one frame to the next."""
        return 1.0 / self.rate_limit if self.rate_limit else 0.0

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from a value for each parameter. Raises ValueError naming one whose value is not possible."""
        for option in OPTIONS:
            option.check(values[option.name])
        # ROS has no empty list of strings in a file of parameters: an empty string stands for nothing.
        attributes = tuple(line for line in values["attributes"] if line.strip())
        try:
            attributes_from(attributes)
        except InputError as error:
            raise ValueError(f"attributes: {error}") from error
        own = {f.name: values[f.name] for f in fields(cls) if f.name not in ("inputs", "step", "attributes")}
        inputs = InputSettings(**{f.name: values[f.name] for f in fields(InputSettings)})
        step = StepSettings(**{f.name: values[f.name] for f in fields(StepSettings) if f.name != "attributes"})
        return cls(**own, attributes=attributes, inputs=inputs, step=step)

    def values(self) -> dict[str, Any]:
        """The value of each parameter by its name."""
        flat = asdict(self)
        return {**flat.pop("step"), **flat.pop("inputs"), **flat, "attributes": list(self.attributes) or [""]}

    def changed(self, parameters: Iterable[Parameter]) -> Settings:
        """These settings with some parameters set anew; those of others (``use_sim_time``) are passed over.

        Raises ValueError.
        """
        values = self.values()
        values.update({p.name: p.value for p in parameters if p.name in values})
        return Settings.from_values(values)


@dataclass(frozen=True)
class Option:
    """One parameter: its meaning, from when a new value counts, and the values it takes."""

    name: str
    meaning: str
    takes_effect: str
    choices: tuple[str, ...] = ()
    limits: tuple[int, int] | tuple[float, float] | None = None

    def descriptor(self) -> ParameterDescriptor:
        """What `ros2 param describe` shows."""
        described = ParameterDescriptor(
            description=f"{self.meaning} A new value takes effect {self.takes_effect}.",
            additional_constraints=f"one of: {', '.join(self.choices)}" if self.choices else "",
            read_only=self.takes_effect == _START,
        )
        if self.limits and isinstance(self.limits[1], float):
            described.floating_point_range = [
                FloatingPointRange(from_value=float(self.limits[0]), to_value=self.limits[1])
            ]
        elif self.limits:
            described.integer_range = [IntegerRange(from_value=self.limits[0], to_value=self.limits[1], step=1)]
        return described

    def check(self, value: Any) -> None:
        """Raises ValueError for a value outside of the choices or limits."""
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} is {value!r}: it must be one of {', '.join(self.choices)}")
        if self.limits and not self.limits[0] <= value <= self.limits[1]:
            raise ValueError(f"{self.name} is {value}: it must be from {self.limits[0]} to {self.limits[1]}")


_CONFIGURE, _ACTIVATE = "when the node is configured", "when the node is activated"
_FRAME, _START = "with the next frame", "when the node is started"

OPTIONS = (
    Option("bundle", "Engine bundle: a folder, or the name of one that is installed (nano).", _CONFIGURE),
    Option("threads", "Threads of the inference engines; 0: one for each core.", _CONFIGURE, limits=(0, 256)),
    Option(
        "preprocessing",
        "How pictures are resized: fast, or exact, as the model was trained, in four times the time.",
        _CONFIGURE,
        choices=MODES,
    ),
    Option(
        "memory_reserve",
        "MB of memory that must stay free beside the bundle: else it is not loaded. Less is a warning later on.",
        _CONFIGURE,
        limits=(0, 1_000_000),
    ),
    Option(
        "attributes",
        "Properties asked of each object: NAME, NAME = RED | GREEN (one of these) or NAME = /REGULAR EXPRESSION/, and "
        "then ; QUESTION, where <mask><pos> names the object. Empty ones are passed over.",
        _CONFIGURE,
    ),
    Option(
        "max_objects", "Objects that are remembered; those seen longest ago go first.", _CONFIGURE, limits=(1, 100_000)
    ),
    Option(
        "scene_file",
        "File in which the scene is kept from one run of the node to the next; empty: none. One for each node.",
        _CONFIGURE,
    ),
    Option(
        "scene_file_size",
        "MB that the scene_file may have; the objects seen longest ago are left out of it.",
        _CONFIGURE,
        limits=(1, 1_000_000),
    ),
    Option("autostart", "Whether the node configures and activates itself.", _START),
    Option(
        "image_transport",
        "How images come: raw (sensor_msgs/Image) or compressed (JPEG or PNG, from the topic image/compressed).",
        _ACTIVATE,
        choices=TRANSPORTS,
    ),
    Option(
        "segmentation_transport",
        "How id images come: raw, or compressed (PNG, from the topic segmentation/compressed).",
        _ACTIVATE,
        choices=TRANSPORTS,
    ),
    Option(
        "regions_from",
        "What says where the regions are: the topic segmentation (ids), regions (RegionArray) or detections (boxes).",
        _ACTIVATE,
        choices=REGION_SOURCES,
    ),
    Option("use_depth", "Whether depth and camera_info are waited for, to say where objects are in space.", _ACTIVATE),
    Option(
        "depth_transport",
        "How depth comes: raw, or compressedDepth (PNG, from the topic depth/compressedDepth).",
        _ACTIVATE,
        choices=DEPTH_TRANSPORTS,
    ),
    Option(
        "slop",
        "Seconds that the stamps of the messages of one frame may differ; 0: they must be the same.",
        _ACTIVATE,
        limits=(0.0, 10.0),
    ),
    Option(
        "queue_size",
        "Messages of each topic that may wait for their partners: the delay of the segmentation in frames at least.",
        _ACTIVATE,
        limits=(1, 500),
    ),
    Option(
        "reliability",
        "QoS of all subscriptions. auto asks for reliable delivery, unless a publisher offers best effort only.",
        _ACTIVATE,
        choices=RELIABILITIES,
    ),
    Option("overlay", "Whether ~/overlay is drawn for those who listen to it.", _FRAME),
    Option("rate_limit", "Most frames described in a second; 0: as many as can be.", _FRAME, limits=(0.0, 1000.0)),
    Option(
        "time_budget",
        "Seconds for one frame: descriptions that would take longer wait for a later frame, the least important "
        "first; 0: no limit.",
        _FRAME,
        limits=(0.0, 3600.0),
    ),
    Option(
        "max_age",
        "Seconds from the stamp of an image to its result above which /diagnostics warns; 0: never.",
        _FRAME,
        limits=(0.0, 3600.0),
    ),
    Option("style", "What is asked about each region for its description.", _FRAME, choices=tuple(QUESTIONS)),
    Option("categories", "Whether the category of each region is asked for as well.", _FRAME),
    Option("min_area", "Regions with fewer pixels are left out.", _FRAME, limits=(1, 1_000_000_000)),
    Option("max_regions", "Objects described in one frame; the others wait for a later one.", _FRAME, limits=(1, 4096)),
    Option("max_new_tokens", "Longest answer in tokens; 0: as long as suits the style.", _FRAME, limits=(0, 1024)),
    Option(
        "min_confidence",
        "Answers that the model is less sure of become 'unknown'; 0: none.",
        _FRAME,
        limits=(0.0, 1.0),
    ),
    Option(
        "remember",
        "Whether objects keep their track id and their words from frame to frame, or each frame is described anew and "
        "what was remembered waits.",
        _FRAME,
    ),
    Option(
        "appearance_change",
        "How far the looks of an object that stays in its place may move before it is described again: cosine distance "
        "of its mask token. One that moves in the picture may change more.",
        _FRAME,
        limits=(0.0, 2.0),
    ),
    Option(
        "view_change",
        "An object is described again when it is seen with so many times as many pixels as when it was described.",
        _FRAME,
        limits=(1.0, 1000.0),
    ),
    Option(
        "still_difference",
        "A picture that differs by less from the one before is not encoded again: levels of 255, over patches of 3x3 "
        "pixels of a picture 256 pixels wide; 0: every picture is encoded.",
        _FRAME,
        limits=(0.0, 255.0),
    ),
)


def declare(node: Node) -> Settings:
    """Declares all parameters on a node and reads them. Raises ValueError or a ParameterException of rclpy."""
    defaults = Settings().values()
    for option in OPTIONS:
        node.declare_parameter(option.name, defaults[option.name], option.descriptor())
    return Settings.from_values({option.name: node.get_parameter(option.name).value for option in OPTIONS})


def waiting(changes: Iterable[Parameter]) -> list[str]:
    """What to say of changes that an active node does not follow yet: one sentence each."""
    later = {option.name: option.takes_effect for option in OPTIONS if option.takes_effect != _FRAME}
    return [f"{p.name}: the new value takes effect {later[p.name]} again" for p in changes if p.name in later]
