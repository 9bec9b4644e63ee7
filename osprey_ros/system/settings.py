"""Settings as dataclass fields that carry the documentation of their ROS parameter.

`parameter` is the only place where a parameter has its text, unit, limits and default. Descriptors, launch arguments,
``config/osprey.yaml`` and ``docs/parameters.md`` are made from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar

from osprey_ros.errors import InputError

_KEY = "parameter"  # in the metadata of a field


class Effect(Enum):
    """When a new value takes effect."""

    START = "when the node starts"
    CONFIGURE = "when the node is configured"
    ACTIVATE = "when the node is activated"
    FRAME = "with the next frame"


@dataclass(frozen=True)
class ParameterInfo:
    """Documentation and limits of one parameter.

    Attributes:
        name: name of the field and the parameter.
        text: meaning, in one or more sentences.
        default: default value.
        effect: when a new value takes effect.
        unit: unit of the value, "" if it has none.
        choices: accepted values, () for any.
        limits: minimum and maximum, None for any. The type of both is the type of the parameter.
    """

    name: str
    text: str
    default: Any
    effect: Effect
    unit: str = ""
    choices: tuple[str, ...] = ()
    limits: tuple[int, int] | tuple[float, float] | None = None

    def check(self, value: Any) -> None:
        """Raise InputError for a value outside the choices or limits."""
        if self.choices and value not in self.choices:
            raise InputError(f"{self.name} is {value!r}; it must be one of {', '.join(self.choices)}")
        if self.limits and not self.limits[0] <= value <= self.limits[1]:
            raise InputError(f"{self.name} is {value}; it must be from {self.limits[0]} to {self.limits[1]}")


def parameter(
    default: Any,
    text: str,
    effect: Effect,
    *,
    unit: str = "",
    choices: Sequence[str] = (),
    limits: tuple[int, int] | tuple[float, float] | None = None,
) -> Any:
    """Return a dataclass field for a ROS parameter; see `ParameterInfo`."""
    details = {"text": text, "effect": effect, "unit": unit, "choices": tuple(choices), "limits": limits}
    return field(default=default, metadata={_KEY: details})


class ParameterGroup:
    """Base of dataclasses whose fields are parameters or, by ``default_factory``, further groups of parameters.

    Raises InputError for a value outside the choices or limits of its field.
    """

    def __post_init__(self) -> None:
        for info in _own_parameters(type(self)):
            info.check(getattr(self, info.name))

    @classmethod
    def from_values(cls: type[Group], values: Mapping[str, Any]) -> Group:
        """Return settings from the value of each parameter by its name; other values are ignored."""
        own = {info.name: values[info.name] for info in _own_parameters(cls)}
        return cls(**own, **{name: group.from_values(values) for name, group in _groups(cls).items()})

    def values(self) -> dict[str, Any]:
        """Return the value of each parameter by its name."""
        values = {info.name: getattr(self, info.name) for info in _own_parameters(type(self))}
        for name in _groups(type(self)):
            values |= getattr(self, name).values()
        return values


Group = TypeVar("Group", bound=ParameterGroup)


def parameters_of(settings: type) -> dict[str, ParameterInfo]:
    """Return the parameters of a dataclass and of the dataclasses in its fields, by name.

    Raises:
        ValueError: Two of these dataclasses have a parameter of the same name.
    """
    found: dict[str, ParameterInfo] = {}
    owners: dict[str, str] = {}
    for owner in (settings, *_groups(settings).values()):
        for info in _own_parameters(owner):
            if info.name in found:
                raise ValueError(f"parameter {info.name} is defined in both {owners[info.name]} and {owner.__name__}")
            found[info.name], owners[info.name] = info, owner.__name__
    return found


def _own_parameters(settings: type) -> tuple[ParameterInfo, ...]:
    return tuple(
        ParameterInfo(name=entry.name, default=entry.default, **entry.metadata[_KEY])
        for entry in fields(settings)
        if _KEY in entry.metadata
    )


def _groups(settings: type) -> dict[str, Any]:
    """Return the dataclasses of parameters in the fields of a dataclass, by the name of the field."""
    factories = {entry.name: entry.default_factory for entry in fields(settings)}
    return {name: one for name, one in factories.items() if isinstance(one, type) and is_dataclass(one)}
