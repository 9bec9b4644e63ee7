"""Reads the JSON files of a checkpoint folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from osprey_ros.errors import InputError
from osprey_ros.file_errors import read_text


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file of the folder. Raises InputError with the cause if there is none."""
    if not path.exists():
        raise InputError(f"{path.parent}: no {path.name} in this checkpoint folder")
    text = read_text(path, InputError, "download it again")
    try:
        data = json.loads(text)
    except ValueError as error:
        found = f"at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "a number is too long"
        raise InputError(f"{path} is not JSON ({found}); correct it or download it again") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} holds a {type(data).__name__}, not an object")
    return data
