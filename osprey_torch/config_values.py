"""Checked reading of values from configuration files that other programs have written. Errors name the key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def whole_number(data: Mapping[str, Any], key: str, default: int | None = None, least: int = 1) -> int:
    """Return an integer; 4096.0 counts as one. Null counts as missing.

    Raises KeyError if it is missing without a default, ValueError for another value.
    """
    value = _value(data, key, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{key} is {data[key]!r}: it must be a whole number of at least {least}")
    return value


def positive_number(data: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """Return a finite number above 0. Null counts as missing. Raises as `whole_number` does."""
    value = _value(data, key, default)
    if not _is_real(value) or value <= 0:
        raise ValueError(f"{key} is {data[key]!r}: it must be a number above 0")
    return float(value)


def numbers(data: Mapping[str, Any], key: str, count: int) -> tuple[float, ...] | None:
    """Return a list of this many finite numbers, or None if it is missing or null. Raises ValueError."""
    value = data.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != count or not all(_is_real(part) for part in value):
        raise ValueError(f"{key} is {value!r}: it must be a list of {count} numbers")
    return tuple(float(part) for part in value)


def token_ids(data: Mapping[str, Any], key: str, default: Sequence[int]) -> tuple[int, ...]:
    """Return the token ids of a key that holds one or a list of them. Null counts as missing. Raises ValueError."""
    value = data.get(key)
    if value is None:
        return tuple(default)
    ids = value if isinstance(value, list) else [value]
    if not ids or not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in ids):
        raise ValueError(f"{key} is {value!r}: it must be a token id, or a list of token ids")
    return tuple(dict.fromkeys(ids))


def part(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return an object inside, empty if it is missing or null. Raises ValueError for another value."""
    value = data.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{key} is {value!r}: it must be an object, or be left out")
    return value


def _value(data: Mapping[str, Any], key: str, default: Any) -> Any:
    value = data.get(key)
    if value is None:
        if default is None:
            raise KeyError(key)
        return default
    return value


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
