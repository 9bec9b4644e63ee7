"""The files that a run can write."""

from __future__ import annotations

from collections.abc import Sequence

from osprey_ros.errors import InputError

COCO, PARQUET, WEBDATASET = "coco", "parquet", "webdataset"
FORMATS = (COCO, PARQUET, WEBDATASET)


def check_formats(formats: Sequence[str]) -> None:
    """Raise InputError if the library of a format is not installed."""
    if PARQUET in formats:
        try:
            import pyarrow.parquet  # noqa: F401
        except ModuleNotFoundError as error:
            raise InputError(
                "--format parquet needs the library pyarrow, which is not installed; pip install pyarrow"
            ) from error
