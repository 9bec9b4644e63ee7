"""Files of data sets: where they lie, and their records with a count of the broken ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from osprey_ros.errors import InputError, OspreyError
from osprey_ros.file_errors import read_text
from osprey_torch.readers.files import read_json
from osprey_torch.readers.records import Skipped

_IMAGE_FOLDERS = ("images", "val2014", "val2017", "train2014", "train2017", "coco")


def find_file(data: Path, pattern: str, option: str) -> Path:
    """Return the one file below a folder, at most three levels deep, that a pattern fits.

    Raises InputError, with the option that names the file, if there is none or more than one.
    """
    if not data.is_dir():
        raise InputError(f"{data} is not a folder; give the folder of the data set")
    for depth in ("", "*/", "*/*/"):
        found = sorted(data.glob(depth + pattern))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(str(path.relative_to(data)) for path in found[:4])
            raise InputError(f"{data} has several files {pattern}: {names}; choose one with {option}")
    raise InputError(f"{data} has no file {pattern}; give the folder of the data set, or the file with {option}")


def image_folder(data: Path, images: Path | None) -> Path:
    """Return the folder of the images: ``images``, else one of the usual names below ``data``, else ``data``."""
    if images is not None:
        if not images.is_dir():
            raise InputError(f"{images} is not a folder; give the folder of the images")
        return images
    return next((data / name for name in _IMAGE_FOLDERS if (data / name).is_dir()), data)


def find_image(folder: Path, name: str) -> Path:
    """Return the path of an image: by its name, else by what stands behind the last "_" of it, as COCO 2017 has it."""
    path = folder / name
    short = folder / name.rpartition("_")[2]
    return short if not path.exists() and short.exists() else path


@contextmanager
def counted(origin: str, skipped: Skipped) -> Iterator[None]:
    """Count what is missing or malformed inside the block in ``skipped``, with its origin."""
    try:
        yield
    except KeyError as error:
        skipped.add(origin, f"the key {error} is missing")
    except (TypeError, ValueError, IndexError, AttributeError, OspreyError) as error:
        skipped.add(origin, str(error))


def read_records(file: Path, skipped: Skipped) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield the records of `numbered_records` without their places."""
    for _, origin, record in numbered_records(file, skipped):
        yield origin, record


def numbered_records(file: Path, skipped: Skipped) -> Iterator[tuple[int, Any, dict[str, Any]]]:
    """Yield place and record of a JSON list or of JSON lines, each with a `counted` block of its own.

    Raises InputError for a file that cannot be read or holds something else. Broken lines and records that are not
    objects are counted.
    """
    text = read_text(file, InputError, "give the file of the data set")
    try:
        entries = json.loads(text)
    except ValueError:
        entries = None
    if isinstance(entries, dict) and len(text.splitlines()) == 1:
        entries = [entries]  # one JSON line
    if entries is not None and not isinstance(entries, list):
        raise InputError(f"{file} holds a {type(entries).__name__}; give a list of records or JSON lines")
    lines = [line for line in text.splitlines() if line.strip()] if entries is None else entries
    for place, line in enumerate(lines):
        origin = f"{file}, line {place + 1}" if entries is None else f"{file}, record {place}"
        record = line
        if entries is None:
            try:
                record = json.loads(line)
            except ValueError as error:
                skipped.add(origin, f"it is not JSON: {error}")
                continue
        if not isinstance(record, dict):
            skipped.add(origin, f"it is a {type(record).__name__}; a record is an object")
            continue
        yield place, counted(origin, skipped), record


def read_object(file: Path, *keys: str) -> dict[str, Any]:
    """Return a JSON object with lists under these keys, such as "images". Raises InputError for other files."""
    data = read_json(file)
    if not isinstance(data, dict):
        raise InputError(f"{file} holds a {type(data).__name__}; give an object")
    for key in keys:
        if not isinstance(data.get(key), list):
            raise InputError(f"{file} has no list {key!r}; give the file of the data set")
    return data
