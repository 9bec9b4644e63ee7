"""Regions as an id image, as COCO annotations and as run lengths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from osprey_ros.errors import RegionError
from osprey_ros.file_errors import os_reason
from osprey_ros.files import completed_file
from osprey_ros.regions.masks import rle_from_mask
from osprey_ros.regions.regions import Regions

MAX_PNG_ID = 65535


def id_image(regions: Regions) -> np.ndarray:
    """Return the regions as one image of their ids, int32 [H, W]; 0 is background.

    Where regions overlap, the smallest one is on top. A region can be hidden by smaller ones.
    """
    image = np.zeros(regions.shape, np.int32)
    for row in np.argsort(-regions.areas, kind="stable"):
        x, y, width, height = regions.boxes[row]
        np.copyto(image[y : y + height, x : x + width], regions.ids[row], where=regions.crop(row))
    return image


def save_id_image(path: str | os.PathLike[str], regions: Regions) -> int:
    """Write the regions as a gray PNG of 16 bits whose values are their ids, and return how many are hidden by others.

    Raises RegionError if an id does not fit 16 bits, or if the file cannot be written.
    """
    highest = int(regions.ids.max(initial=0))
    if highest > MAX_PNG_ID:
        raise RegionError(f"id {highest} does not fit the 16 bits of a PNG; write COCO annotations (.json)")
    image = id_image(regions)
    try:
        with completed_file(path) as partial:
            Image.fromarray(image.astype(np.uint16)).save(partial, format="PNG")
    except OSError as error:
        raise RegionError(f"{os.fspath(path)} cannot be written: {os_reason(error)}") from error
    return len(set(regions.ids.tolist()) - set(np.unique(image).tolist()))


def run_lengths(regions: Regions, scores: Sequence[float] | np.ndarray) -> list[dict[str, Any]]:
    """Return one dictionary for each region, as SAM's mask generator does with run lengths: `as_regions` reads them.

    Args:
        regions: N regions.
        scores: Predicted IoU of each, [N].
    """
    return [
        {
            "id": int(regions.ids[row]),
            "segmentation": {"size": list(regions.shape), "counts": _counts(regions, row)},
            "area": int(regions.areas[row]),
            "bbox": [int(value) for value in regions.boxes[row]],
            "predicted_iou": round(float(scores[row]), 4),
        }
        for row in range(len(regions))
    ]


def coco_annotations(regions: Regions, scores: Sequence[float] | np.ndarray, file_name: str) -> dict[str, Any]:
    """Return COCO's annotations of one image: run lengths as plain numbers, and the single category "object".

    Args:
        regions: N regions of the image.
        scores: Of each, [N].
        file_name: Name of the image's file.
    """
    height, width = regions.shape
    annotations = []
    for found in run_lengths(regions, scores):
        score = found.pop("predicted_iou")
        annotations.append({**found, "image_id": 1, "category_id": 1, "iscrowd": 0, "score": score})
    return {
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }


def _counts(regions: Regions, row: int) -> list[int]:
    counts: list[int] = rle_from_mask(regions.mask(row)).tolist()
    return counts
