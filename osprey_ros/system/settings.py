"""Settings as dataclass fields that carry the documentation of their ROS parameter.

`parameter` is the only place where a parameter has its text, unit, limits and default. Descriptors, launch arguments,
``config/osprey.yaml`` and ``docs/parameters.md`` are made from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

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
        """Raise ValueError for a value outside the choices or limits."""
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} is {value!r}; it must be one of {', '.join(self.choices)}")
        if self.limits and not self.limits[0] <= value <= self.limits[1]:
            raise ValueError(f"{self.name} is {value}; it must be from {self.limits[0]} to {self.limits[1]}")


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


def parameters_of(settings: type) -> dict[str, ParameterInfo]:
    """Return the parameters of a dataclass and of the dataclasses in its fields, by name.

    Raises:
        ValueError: Two of these dataclasses have a parameter of the same name.
    """
    found: dict[str, ParameterInfo] = {}
    owners: dict[str, str] = {}
    for owner, infos in _groups(settings):
        for info in infos:
            if info.name in found:
                raise ValueError(f"parameter {info.name} is defined in both {owners[info.name]} and {owner}")
            found[info.name], owners[info.name] = info, owner
    return found


def _groups(settings: type) -> list[tuple[str, list[ParameterInfo]]]:
    own: list[ParameterInfo] = []
    below: list[tuple[str, list[ParameterInfo]]] = []
    for entry in fields(settings):
        if _KEY in entry.metadata:
            own.append(ParameterInfo(name=entry.name, default=entry.default, **entry.metadata[_KEY]))
        elif isinstance(entry.default_factory, type) and hasattr(entry.default_factory, "__dataclass_fields__"):
            below += _groups(entry.default_factory)
    return [(settings.__name__, own), *below]
