"""Values of parameters as users write them, and names of parameters that do not exist."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from rclpy.node import Node

from osprey_ros.errors import InputError

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_WANTED = {**_KINDS, list: "a list of texts"}
_OTHERS = ("qos_overrides.",)  # beginnings of parameters that rclpy declares itself, perhaps later


def given_values(node: Node) -> dict[str, Any]:
    """Return the values of parameters that the command line and parameter files give a node, by name."""
    return {name: parameter.value for name, parameter in node._parameter_overrides.items()}


def converted(name: str, value: Any, default: Any) -> Any:
    """Return a value in the type of a parameter, if the value means the same in this type.

    Whole numbers are accepted for numbers and the reverse (5 and 5.0), "true" and "false" for true and false, one text
    for a list, and empty lists of any type.

    Args:
        name: Name of the parameter.
        value: Value of any type; None or an empty list for no value.
        default: Default of the parameter, which has its type. A list holds texts; an empty one is [""], because a
            parameter file of ROS cannot contain an empty list of texts.

    Raises:
        InputError: The value is of another type or not finite.
    """
    kind = type(default)
    result: Any = None
    if kind is list:
        result = _texts(value)
    elif kind is bool and isinstance(value, str):
        result = {"true": True, "false": False}.get(value.strip().lower())
    elif kind in (bool, str):
        result = value if isinstance(value, kind) else None
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise InputError(f"{name} is {value}; set it to a finite number")
        result = kind(value) if kind is float or value == int(value) else None
    if result is None:
        quoted = f""", in two kinds of quotes: "{name}:='{value}'\"""" if kind is str and value is not None else ""
        raise InputError(f"{name} is {_shown(value)}; set it to {_WANTED[kind]}{quoted}")
    return result


def unknown(name: str, known: Iterable[str]) -> str:
    """Return a sentence about a parameter that does not exist, with the most similar name if one is similar."""
    close = get_close_matches(name, list(known), 1)
    remedy = f"did you mean {close[0]!r}?" if close else "docs/parameters.md lists the parameters"
    return f"there is no parameter {name!r}; {remedy}"


def warn_of_unknown(node: Node, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Log each given parameter that the node does not have, so that its value has no effect.

    Args:
        node: The node with all its parameters.
        given: Values by name, as of `given_values`.
        known: Names to suggest.
    """
    names = list(known)
    for name in given:
        if not node.has_parameter(name) and not name.startswith(_OTHERS):
            node.get_logger().warning(f"{unknown(name, names)} (its value has no effect)")


def _texts(value: Any) -> list[str] | None:
    if isinstance(value, str):
        return [value]
    if value is None:
        return [""]
    if not isinstance(value, (Sequence, Iterable)):
        return None
    items = list(value)
    return items or [""] if all(isinstance(item, str) for item in items) else None


def _shown(value: Any) -> str:
    """Return a value and its type in words."""
    if value is None:
        return "without a value"
    if isinstance(value, bool):
        return str(value).lower()
    if type(value) in _KINDS:
        return f"{value!r}, {_KINDS[type(value)]}"
    return f"{list(value)!r}, a list" if isinstance(value, Iterable) else repr(value)
