"""Parameters of the node: declare them, read them and check changes. Their texts lie in the dataclasses of settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from osprey_ros.errors import InputError, PromptError
from osprey_ros.query.watch import Watch
from osprey_ros.ros.inputs.settings import InputSettings
from osprey_ros.ros.parameter_values import converted, given_values, unknown, warn_of_unknown
from osprey_ros.scene.attributes import attributes_from
from osprey_ros.scene.events import EventSettings
from osprey_ros.scene.settings import StepSettings
from osprey_ros.system.settings import Effect, Group, ParameterGroup, ParameterInfo, parameter, parameters_of
from osprey_ros.vision.preprocess import MODES


@dataclass(frozen=True)
class Settings(ParameterGroup):
    """Values of all parameters: those of the node, of its inputs and of the pipeline's steps.

    ``attributes`` has one line for each attribute, as `osprey_ros.scene.attributes.attributes_from` takes them; they
    are parsed when the node is configured, so ``step.attributes`` is empty. Empty lines are left out.

    Raises InputError for an invalid value.
    """

    autostart: bool = parameter(
        False,
        "Configure and activate the node when it starts. Set it to false under a lifecycle manager. The launch files "
        "set it to true.",
        Effect.START,
    )
    bundle: str = parameter(
        "",
        "Engine bundle: a folder, or the name of an installed bundle. Empty: the one that the environment variable "
        "OSPREY_BUNDLE names, otherwise home.",
        Effect.CONFIGURE,
    )
    threads: int = parameter(
        0, "Threads of the inference engines. 0: one for each core.", Effect.CONFIGURE, limits=(0, 256)
    )
    preprocessing: str = parameter(
        "fast",
        "How images are resized: fast, or exact, which reproduces the resizing of the training and takes longer.",
        Effect.CONFIGURE,
        choices=MODES,
    )
    memory_reserve: int = parameter(
        200,
        "Memory that must stay free. A bundle that would leave less is not loaded. If less is free later, /diagnostics "
        "warns.",
        Effect.CONFIGURE,
        unit="MB",
        limits=(0, 1_000_000),
    )
    attributes: tuple[str, ...] = parameter(
        (),
        'Attributes to ask for, in addition to the description: "material" (any answer), "color = red | green | '
        'blue" (one of these) or "size = /(small|large)/" (a regular expression). Your own question may follow a '
        'semicolon: "open = yes | no; Is <mask><pos> open?", where <mask><pos> stands for the object. Each attribute '
        "costs as much time as the category. Empty strings are ignored.",
        Effect.CONFIGURE,
    )
    max_objects: int = parameter(
        500,
        "Maximum number of objects in the scene. The objects seen longest ago are forgotten first.",
        Effect.CONFIGURE,
        limits=(1, 100_000),
    )
    scene_file: str = parameter(
        "",
        "File that keeps the scene from one run of the node to the next, written once a second. ~ is the home folder. "
        "Use one file for each node. Empty: the scene is not saved.",
        Effect.CONFIGURE,
    )
    scene_file_size: int = parameter(
        64,
        "Maximum size of the scene file. The objects seen longest ago are left out first.",
        Effect.CONFIGURE,
        unit="MB",
        limits=(1, 1_000_000),
    )
    inputs: InputSettings = field(default_factory=InputSettings)
    step: StepSettings = field(default_factory=StepSettings)
    events: EventSettings = field(default_factory=EventSettings)
    event_filter: str = parameter(
        "",
        'Publish only the events that a sentence asks for, such as "tell me when a mug appears" or "when the red vase '
        'is moved". The words of an object are those of its caption. Empty: all events.',
        Effect.FRAME,
    )
    rate_limit: float = parameter(
        0.0,
        "Maximum number of frames described per second. 0: no limit.",
        Effect.FRAME,
        unit="Hz",
        limits=(0.0, 1000.0),
    )
    max_age: float = parameter(
        5.0,
        "Age of a result, from the stamp of its image, above which /diagnostics warns. 0: never.",
        Effect.FRAME,
        unit="s",
        limits=(0.0, 3600.0),
    )
    overlay: bool = parameter(True, "Publish ~/overlay while it has subscribers.", Effect.FRAME)

    @property
    def interval(self) -> float:
        """Minimum time in seconds from one frame to the next."""
        return 1.0 / self.rate_limit if self.rate_limit else 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        # A YAML file for ROS cannot contain an empty list of strings: empty strings are ignored instead.
        object.__setattr__(self, "attributes", tuple(line for line in self.attributes if line.strip()))
        try:
            attributes_from(self.attributes)
        except InputError as error:
            raise InputError(f"attributes: {error}") from error
        try:
            Watch.parse(self.event_filter)
        except PromptError as error:
            raise InputError(f"event_filter: {error}") from error

    def values(self) -> dict[str, Any]:
        """Return the value of each parameter by its name, as ROS takes it."""
        return {**super().values(), "attributes": list(self.attributes) or [""]}

    def changed(self, parameters: Iterable[Parameter[Any]]) -> Settings:
        """Return these settings with new values as `changed` does."""
        return changed(self, parameters)


def changed(settings: Group, parameters: Iterable[Parameter[Any]]) -> Group:
    """Return settings with new values; parameters of others (``use_sim_time``) are ignored.

    Raises InputError for an invalid value.
    """
    return type(settings).from_values(settings.values() | {p.name: p.value for p in parameters})


def in_order(settings: type[ParameterGroup]) -> dict[str, ParameterInfo]:
    """Return the parameters of settings by name, in the order of their effect, then of their definition."""
    return dict(sorted(parameters_of(settings).items(), key=lambda item: list(Effect).index(item[1].effect)))


PARAMETERS = in_order(Settings)


def describe(info: ParameterInfo) -> str:
    """Return the text of a parameter with its unit and the time when a new value takes effect."""
    unit = f" Unit: {info.unit}." if info.unit else ""
    return f"{info.text}{unit} A new value takes effect {info.effect.value}."


def descriptor(info: ParameterInfo) -> ParameterDescriptor:
    """Return the description that `ros2 param describe` shows."""
    described = ParameterDescriptor(
        description=describe(info),
        additional_constraints=f"one of: {', '.join(info.choices)}" if info.choices else "",
        read_only=info.effect is Effect.START,
    )
    if info.limits and isinstance(info.default, float):
        described.floating_point_range = [
            FloatingPointRange(from_value=float(info.limits[0]), to_value=float(info.limits[1]))
        ]
    elif info.limits:
        described.integer_range = [IntegerRange(from_value=int(info.limits[0]), to_value=int(info.limits[1]), step=1)]
    return described


def declare(node: Node, kind: type[Group]) -> Group:
    """Declare the parameters of settings on a node, with the values that it was given, and log names that do not exist.

    Raises:
        InputError: A value is invalid.
    """
    given, defaults, parameters = given_values(node), kind().values(), in_order(kind)
    chosen = {name: converted(name, given[name], defaults[name]) for name in parameters if name in given}
    settings = kind.from_values({**defaults, **chosen})
    values = settings.values()
    for name, info in parameters.items():
        node.declare_parameter(name, values[name], descriptor(info), ignore_override=True)
    warn_of_unknown(node, given, parameters)
    return settings


def converted_change(node: Node, change: Parameter[Any], kind: type[ParameterGroup]) -> Parameter[Any]:
    """Return a new value of a parameter at run time, in the type of the parameter.

    Raises:
        InputError: The node has no such parameter, its value cannot change any more, or the new one is invalid.
    """
    parameters = parameters_of(kind)
    info = parameters.get(change.name)
    if info is None:
        if not node.has_parameter(change.name):
            raise InputError(unknown(change.name, parameters))
        return change  # of rclpy, such as use_sim_time
    if info.effect is Effect.START:
        raise InputError(f"{change.name} takes effect only when the node starts; restart the node with the new value")
    default = kind().values()[change.name]
    value = converted(change.name, change.value, default)
    info.check(value)
    return Parameter(change.name, Parameter.Type.from_parameter_value(default), value)


def pending(changes: Iterable[Parameter[Any]], kind: type[ParameterGroup]) -> list[str]:
    """Return one sentence for each change of settings that does not take effect with the next frame."""
    later = {name: info.effect.value for name, info in parameters_of(kind).items() if info.effect is not Effect.FRAME}
    return [f"{p.name}: the new value takes effect {later[p.name]} again" for p in changes if p.name in later]
