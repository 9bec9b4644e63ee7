"""Masks from JSON files in COCO's layouts, as Detectron2, MMDetection, SAM and labeling tools write them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osprey_ros.errors import RegionError
from osprey_ros.file_errors import read_text
from osprey_ros.regions.masks import MaskCrop, counts_from_text, mask_from_polygon, mask_from_rle
from osprey_ros.regions.regions import MAX_ID, Regions, regions_from_crops

_LAYOUTS = "give a data set (images and annotations), a list of results, or the annotations of one image"


def regions_from_coco(path: Path, image: str, shape: tuple[int, int] | None = None) -> tuple[Regions, tuple[str, ...]]:
    """Read the masks of one image.

    Three layouts are read: a data set, with lists "images" and "annotations"; a list of results, each with
    "segmentation" and perhaps "image_id", such as Detectron2's coco_instances_results.json; and the annotations of one
    image, with "image" and "annotations", as SA-1B has them. Masks are polygons, or run lengths, plain or compressed.

    Ids of regions are those of the annotations if all are distinct positive numbers, otherwise 1, 2, 3 ... A polygon
    covers the pixels that its outline touches, which is up to a pixel more than COCO's own tools give.

    Args:
        path: The file.
        image: Name of the image file, which selects the image of a data set; of a list of results, the number in the
            name is the image_id, as COCO names its images.
        shape: Height and width of the image in pixels, for polygons of a file that does not say them.

    Returns:
        The regions, and why each annotation that is left out cannot be used.

    Raises:
        RegionError: The file is not in one of the layouts, does not say which masks are of the image, or has none.
    """
    try:
        data = json.loads(read_text(path, RegionError, "correct the path"))
    except (ValueError, RecursionError) as error:
        raise RegionError(f"it is not JSON; {_LAYOUTS}") from error
    return regions_of_data(data, image, shape)


def regions_of_data(data: Any, image: str, shape: tuple[int, int] | None = None) -> tuple[Regions, tuple[str, ...]]:
    """Return the masks of one image from the parsed content of a file; see `regions_from_coco`. Raises RegionError."""
    annotations, size = _annotations(data, Path(image))
    shape = size or shape
    parts: list[MaskCrop] = []
    sizes: list[tuple[int, int]] = []
    used: list[Mapping[str, Any]] = []
    problems = []
    for number, annotation in enumerate(annotations):
        try:
            part, own = _mask(annotation, shape)
            if not part.mask.any():
                raise RegionError("its mask has no pixel inside the image")
        except RegionError as error:
            problems.append(f"annotation {_id_of(annotation) or number}: {error}")
            continue
        parts.append(part)
        sizes.append(own)
        used.append(annotation)
    if not parts:
        raise RegionError(f"none of its {len(annotations)} masks can be used; {problems[0]}" if problems else "no mask")
    if len(set(sizes)) > 1:
        given = ", ".join(f"{width}x{height}" for height, width in sorted(set(sizes)))
        raise RegionError(f"its masks have several sizes ({given}); give the masks of one image")
    return regions_from_crops(parts, _ids(used), *sizes[0]), tuple(problems)


def _annotations(data: Any, image: Path) -> tuple[list[Any], tuple[int, int] | None]:
    """Return the annotations of an image, and the height and width that the file gives for it."""
    if isinstance(data, list):
        return _results_of(data, image), None
    if not isinstance(data, dict) or not isinstance(data.get("annotations"), list):
        raise RegionError(f"it has no list of annotations; {_LAYOUTS}")
    if isinstance(data.get("images"), list):
        entry = _entry_of([one for one in data["images"] if isinstance(one, dict)], image)
        own = [one for one in data["annotations"] if isinstance(one, dict) and one.get("image_id") == entry.get("id")]
        if not own:
            raise RegionError(f"it has no annotation of the image {entry.get('file_name')}")
        return own, _size(entry)
    entry = data["image"] if isinstance(data.get("image"), dict) else {}
    return data["annotations"], _size(entry)


def _entry_of(entries: Sequence[dict[str, Any]], image: Path) -> dict[str, Any]:
    """Return the entry of an image by the name of its file; the only one, whatever its name."""
    named = [one for one in entries if Path(str(one.get("file_name"))).name == image.name]
    if len(named) == 1 or len(entries) == 1:
        return (named or list(entries))[0]
    if not entries:
        raise RegionError(f"it has no images; {_LAYOUTS}")
    found = f"{len(named)} of its {len(entries)} images are" if named else f"none of its {len(entries)} images is"
    raise RegionError(f"{found} named {image.name}; name the image as the file does")


def _results_of(results: list[Any], image: Path) -> list[Any]:
    """Return the results of an image by the number in its name; all if they are of one image."""
    numbers = Counter(str(one.get("image_id")) for one in results if isinstance(one, dict))
    if len(numbers) <= 1:
        return results
    digits = re.findall(r"\d+", image.stem)
    wanted = {image.stem, image.name, *(str(int(text)) for text in digits)}
    own = [one for one in results if isinstance(one, dict) and str(one.get("image_id")) in wanted]
    if len({str(one["image_id"]) for one in own}) == 1:
        return own
    raise RegionError(
        f"its results are of {len(numbers)} images and none of them is clearly {image.name}; give the results of one "
        "image, or name the image by its image_id"
    )


def _size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = entry.get("height"), entry.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0 else None


def _mask(annotation: Any, shape: tuple[int, int] | None) -> tuple[MaskCrop, tuple[int, int]]:
    """Return the mask of an annotation with the height and width of its image. Raises RegionError."""
    found = annotation.get("segmentation") if isinstance(annotation, dict) else None
    if isinstance(found, dict):
        return _run_lengths(found)
    outlines: list[list[float]] = found if _is_polygons(found) else []  # type: ignore[assignment]
    polygons = [one for one in outlines if len(one) >= 6]
    if not polygons:
        raise RegionError("it has neither polygons nor run lengths under 'segmentation'")
    if shape is None:
        raise RegionError("the size of its image is not known; give 'height' and 'width' of the image")
    # In COCO the first pixel reaches from 0 to 1, here its center is at 0.
    drawn = [mask_from_polygon(np.asarray(one, np.float64) - 0.5, *shape) for one in polygons]
    return _union(drawn), shape


def _is_polygons(found: Any) -> bool:
    return isinstance(found, list) and all(
        isinstance(one, list) and all(isinstance(value, int | float) for value in one) for one in found
    )


def _run_lengths(found: Mapping[str, Any]) -> tuple[MaskCrop, tuple[int, int]]:
    size, counts = found.get("size"), found.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)):
        raise RegionError(f"the size of its run lengths is {size!r:.40}; give [height, width]")
    if isinstance(counts, list) and all(isinstance(n, int) and 0 <= n <= size[0] * size[1] for n in counts):
        numbers = np.array(counts, np.int64)
    elif isinstance(counts, str):
        numbers = counts_from_text(counts)
    else:
        raise RegionError("its run lengths must be a text or a list of whole numbers of 0 or more")
    return mask_from_rle(numbers, *size), (size[0], size[1])


def _union(parts: Sequence[MaskCrop]) -> MaskCrop:
    """Return the pixels of all masks as one."""
    if len(parts) == 1:
        return parts[0]
    left, top = min(part.left for part in parts), min(part.top for part in parts)
    right = max(part.left + part.mask.shape[1] for part in parts)
    bottom = max(part.top + part.mask.shape[0] for part in parts)
    whole = np.zeros((bottom - top, right - left), np.bool_)
    for part in parts:
        height, width = part.mask.shape
        whole[part.top - top : part.top - top + height, part.left - left : part.left - left + width] |= part.mask
    return MaskCrop(left, top, whole)


def _id_of(annotation: Any) -> int:
    """Return the id of an annotation, 0 for none that a region can have."""
    number = annotation.get("id") if isinstance(annotation, dict) else None
    return number if isinstance(number, int) and 1 <= number <= MAX_ID else 0


def _ids(annotations: Sequence[Mapping[str, Any]]) -> list[int]:
    numbers = [_id_of(one) for one in annotations]
    return numbers if all(numbers) and len(set(numbers)) == len(numbers) else list(range(1, len(annotations) + 1))
