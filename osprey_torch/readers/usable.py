"""Records whose image can be read and whose masks have pixels; what is left out is counted with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from osprey_ros.errors import ImageError, RegionError
from osprey_ros.regions.resize import check_resizable, resized
from osprey_ros.vision.image_content import exif_orientation
from osprey_ros.vision.image_io import image_size, read_file
from osprey_torch.readers.records import Record, Skipped


def usable_records(records: Iterable[Record], skipped: Skipped) -> Iterator[Record]:
    """Yield the records that can be used, without dialogues about masks that have no pixel.

    The image must be a whole file. Its masks are for the upright image, as EXIF says, and may have another resolution.
    """
    sizes: dict[Path, tuple[int, int]] = {}  # many records share an image
    for record in records:
        try:
            if record.image not in sizes:
                sizes[record.image] = image_size(record.image)
            _check_sizes(record, sizes[record.image])
        except (ImageError, RegionError) as error:
            skipped.add(record.origin, str(error))
            continue
        empty = {number for number, mask in enumerate(record.masks) if not mask.area}
        if empty:
            for number in sorted(empty):
                skipped.add(f"{record.origin}, mask {number}", "it has no pixel inside the image")
            record = without_masks(record, empty)
        if record.dialogues:
            yield record


def without_masks(record: Record, masks: set[int]) -> Record:
    """Return a record without the dialogues that name one of these masks."""
    kept = tuple(
        turns for turns in record.dialogues if not any(region in masks for turn in turns for region in turn.regions)
    )
    return replace(record, dialogues=kept)


def decoded_masks(record: Record, masks: Iterable[int], shape: tuple[int, int]) -> np.ndarray:
    """Return masks of a record, bool [N, height, width], resized by nearest neighbor to the shape of its image.

    Raises RegionError if width and height have another ratio.
    """
    decoded = np.stack([record.masks[number].decode() for number in masks])
    size = (decoded.shape[1], decoded.shape[2])
    if size == shape:
        return decoded
    check_resizable(size, shape, f"the masks of {record.image}", "records")
    return resized(decoded, shape)


def _check_sizes(record: Record, size: tuple[int, int]) -> None:
    """Raise RegionError if the masks cannot be of an image of this (width, height)."""
    width, height = size
    for across, down in {(mask.width, mask.height) for mask in record.masks} - {size}:
        if (across, down) == (height, width) and exif_orientation(read_file(record.image)) >= 5:
            raise RegionError(
                f"{record.image} is {width}x{height} pixels, turned upright as EXIF says, its masks are for "
                f"{across}x{down}; make the masks on the upright image, or remove the EXIF orientation"
            )
        check_resizable((down, across), (height, width), f"the masks of {record.image}", "records")
