"""JSON without NaN and infinity, which the format does not have and other programs refuse."""

from __future__ import annotations

import json
import math
from typing import Any

from osprey_ros.errors import EngineError


def to_json(data: Any, **options: Any) -> str:
    """Return the JSON text of plain data. ``options``: as for ``json.dumps``.

    Raises EngineError with the place of the first number that is not finite.
    """
    try:
        return json.dumps(data, allow_nan=False, **options)
    except ValueError as error:
        found = _not_finite(data, "")
        if found is None:
            raise
        place, value = found
        raise EngineError(
            f"no JSON is written: {place or 'the value'} is {value}, and numbers in JSON must be finite; "
            "check the input and the bundle that it was computed with"
        ) from error


def _not_finite(data: Any, place: str) -> tuple[str, float] | None:
    """Return the place and the value of the first number that is not finite: ("regions[0].confidence", nan)."""
    if isinstance(data, float):
        return None if math.isfinite(data) else (place, data)
    if isinstance(data, dict):
        parts = [(f"{place}.{key}" if place else str(key), value) for key, value in data.items()]
    elif isinstance(data, list | tuple):
        parts = [(f"{place}[{index}]", value) for index, value in enumerate(data)]
    else:
        return None
    return next((found for own, value in parts if (found := _not_finite(value, own)) is not None), None)
