"""The parameters of the node: what they are called, what they mean, which values they take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from rcl_interfaces.msg import IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from osprey_ros.pipeline import StepSettings
from osprey_ros.prompt import QUESTIONS

RELIABILITIES = ("auto", "reliable", "best_effort")


@dataclass(frozen=True)
class Settings:
    """The values of all parameters of the node; ``step`` holds those that concern the words."""

    bundle: str = "nano"
    threads: int = 0
    reliability: str = "auto"
    queue_size: int = 15
    autostart: bool = False
    overlay: bool = True
    step: StepSettings = field(default_factory=StepSettings)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from a value for each parameter. Raises ValueError naming one whose value is not possible."""
        for option in OPTIONS:
            option.check(values[option.name])
        step = StepSettings(**{f.name: values[f.name] for f in fields(StepSettings)})
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name != "step"}, step=step)

    def values(self) -> dict[str, Any]:
        """The value of each parameter by its name."""
        flat = asdict(self)
        return {**flat.pop("step"), **flat}

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
    limits: tuple[int, int] | None = None

    def descriptor(self) -> ParameterDescriptor:
        """What `ros2 param describe` shows."""
        limits = [IntegerRange(from_value=self.limits[0], to_value=self.limits[1], step=1)] if self.limits else []
        return ParameterDescriptor(
            description=f"{self.meaning} A new value takes effect {self.takes_effect}.",
            additional_constraints=f"one of: {', '.join(self.choices)}" if self.choices else "",
            integer_range=limits,
        )

    def check(self, value: Any) -> None:
        """Raises ValueError for a value outside of the choices or limits."""
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} is {value!r}: it must be one of {', '.join(self.choices)}")
        if self.limits and not self.limits[0] <= value <= self.limits[1]:
            raise ValueError(f"{self.name} is {value}: it must be from {self.limits[0]} to {self.limits[1]}")


_CONFIGURE, _ACTIVATE, _FRAME = "when the node is configured", "when the node is activated", "with the next frame"

OPTIONS = (
    Option("bundle", "Engine bundle: a folder, or the name of one that is installed (nano).", _CONFIGURE),
    Option("threads", "Threads of the inference engines; 0: one for each core.", _CONFIGURE, limits=(0, 256)),
    Option(
        "reliability",
        "QoS of both subscriptions. auto asks for reliable delivery, unless a publisher offers best effort only.",
        _ACTIVATE,
        choices=RELIABILITIES,
    ),
    Option(
        "queue_size",
        "Images, and id images, that may wait for a partner of the same stamp.",
        _ACTIVATE,
        limits=(1, 500),
    ),
    Option("autostart", "Whether the node configures and activates itself.", "when the node is started"),
    Option("overlay", "Whether ~/overlay is drawn for those who listen to it.", _FRAME),
    Option("style", "What is asked about each region for its description.", _FRAME, choices=tuple(QUESTIONS)),
    Option("categories", "Whether the category of each region is asked for as well.", _FRAME),
    Option("min_area", "Regions with fewer pixels are left out.", _FRAME, limits=(1, 1_000_000_000)),
    Option("max_regions", "Regions described in one frame; the largest are taken.", _FRAME, limits=(1, 4096)),
    Option("max_new_tokens", "Longest answer in tokens; 0: as long as suits the style.", _FRAME, limits=(0, 1024)),
)


def declare(node: Node) -> Settings:
    """Declares all parameters on a node and reads them. Raises ValueError or a ParameterException of rclpy."""
    defaults = Settings().values()
    for option in OPTIONS:
        node.declare_parameter(option.name, defaults[option.name], option.descriptor())
    return Settings.from_values({option.name: node.get_parameter(option.name).value for option in OPTIONS})
