"""JSON that every program can read: numbers that are not finite are an error with their place."""

from __future__ import annotations

import json

import numpy as np
import pytest

from osprey_ros.errors import EngineError
from osprey_ros.strict_json import to_json


def test_finite_data_is_written_as_json_does() -> None:
    data = {"a": [1, 2.5, None, "NaN"], "b": {"c": (True, np.float64(3.0))}}
    assert to_json(data, indent=1, sort_keys=True) == json.dumps(data, indent=1, sort_keys=True)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"regions": [{"confidence": 1.0}, {"confidence": float("nan")}]}, r"regions\[1\]\.confidence is nan"),
        ([0.0, np.float64("-inf")], r"\[1\] is -inf"),
        (float("inf"), "the value is inf"),
    ],
)
def test_numbers_that_are_not_finite_are_named(data: object, words: str) -> None:
    with pytest.raises(EngineError, match=rf"{words}, and numbers in JSON must be finite; check the input"):
        to_json(data)
