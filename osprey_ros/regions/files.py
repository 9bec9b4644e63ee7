"""Regions from files: an id image, a folder with a binary mask for each region, or JSON in COCO's layouts."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from osprey_ros.errors import RegionError
from osprey_ros.regions.coco import regions_from_coco
from osprey_ros.regions.id_image import background_doubt, check_speckles, stored_ids, stored_mask
from osprey_ros.regions.regions import MAX_ID, Regions, regions_from_id_image, regions_from_masks
from osprey_ros.regions.resize import fitted
from osprey_ros.vision.image_content import exif_orientation
from osprey_ros.vision.image_io import load_image, read_file

_LOGGER = logging.getLogger(__name__)
_MASK_NAMES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".pbm", ".jpg", ".jpeg", ".jp2", ".heic")
_NOT_THE_USERS = ("._", ".DS_Store", "Thumbs.db", "desktop.ini")  # beginnings of names that systems add to folders


@dataclass(frozen=True)
class MaskFiles:
    """Regions and the files that they are from.

    Attributes:
        regions: The regions.
        files: Name of the file of each region, N of them: that of the id image, or those in the folder.
        turned: EXIF orientation by which the masks were turned, 1 for none.
    """

    regions: Regions
    files: tuple[str, ...]
    turned: int = 1


def load_regions(path: str | os.PathLike[str], masks_anyway: bool = False) -> Regions:
    """Read regions from an id image or from a folder of binary masks; see `load_mask_files`."""
    return load_mask_files(path, masks_anyway).regions


def load_mask_files(
    path: str | os.PathLike[str],
    masks_anyway: bool = False,
    shape: tuple[int, int] | None = None,
    image: str | os.PathLike[str] = "",
) -> MaskFiles:
    """Read regions from an id image, a folder of binary masks or a JSON file, with the names of their files.

    An id image is gray with up to 16 bits, or a palette image, whose indices are the ids; 0 is background. In a folder,
    each image is non-zero inside its region. The ids are the numbers in the file names if every name is a number from
    1 up, otherwise 1, 2, 3 ... in the order of the numbers in the names. A mask that is empty, has not
    the size of most or cannot be read is left out with a warning. Files that systems add (``._*``, ``.DS_Store``) are
    passed over. JSON files, whose names end in .json, are read as `regions_from_coco` does.

    Args:
        path: The file or folder. Of images the content counts, not the name: JPEG and lossy WebP cannot hold ids.
        masks_anyway: As in `regions_from_id_image`.
        shape: Height and width of the image. In a folder with masks of several sizes, those of this size count.
        image: Name of the image file, which selects the masks in a JSON file of several images.

    Raises RegionError, with the name of the file, if no region is left.
    """
    source = Path(path)
    try:
        if source.is_dir():
            return _load_folder(source, shape)
        if not source.exists():
            raise RegionError(
                f"masks {source} do not exist; give an id image (PNG), a folder of binary PNGs or a JSON file"
            )
        if source.suffix.lower() == ".json":
            return _load_coco(source, os.fspath(image), shape)
        return _load_id_image(source, masks_anyway)
    except RegionError as error:
        text = str(error)
        raise RegionError(text if str(source) in text else f"masks {source}: {text}") from error
    except OSError as error:
        raise RegionError(f"masks {source} cannot be read: {error.strerror or 'the file system failed'}") from error


def load_image_with_masks(
    image: str | os.PathLike[str], masks: str | os.PathLike[str], masks_anyway: bool = False
) -> tuple[np.ndarray, MaskFiles]:
    """Read an image, upright, and its masks, resized to it if they have another resolution.

    Returns:
        RGB, uint8 [H, W, 3], and the regions.

    Raises:
        ImageError, RegionError: A file cannot be used, or the masks are not of the image.
    """
    rgb = load_image(image)
    shape = (rgb.shape[0], rgb.shape[1])
    found = load_mask_files(masks, masks_anyway, shape, image)
    orientation = exif_orientation(read_file(image))
    if orientation >= 5 and found.regions.shape == shape[::-1] and shape[0] != shape[1]:
        raise RegionError(
            f"masks {masks} have the size of the stored pixels of image {image}, which EXIF (orientation "
            f"{orientation}) turns to {shape[1]}x{shape[0]}; make the masks on the upright image, or remove the "
            "EXIF orientation"
        )
    regions = fitted(found.regions, shape, f"masks {masks}")
    return rgb, MaskFiles(regions, found.files, found.turned)


def _load_coco(path: Path, image: str, shape: tuple[int, int] | None) -> MaskFiles:
    regions, problems = regions_from_coco(path, image, shape)
    for problem in problems:
        _LOGGER.warning("masks %s: left out: %s", path, problem)
    return MaskFiles(regions, (path.name,) * len(regions))


def _load_id_image(path: Path, masks_anyway: bool) -> MaskFiles:
    stored = stored_ids(path.read_bytes())
    _warn_if_turned(path, stored.orientation)
    regions = regions_from_id_image(stored.values, masks_anyway=True)
    if not masks_anyway:
        check_speckles(regions.areas)
        doubt = background_doubt(stored.values)
        palette = "its ids are palette indices, which optimizers of PNG files re-order; " if stored.palette else ""
        if doubt:
            _LOGGER.warning("masks %s: %s%s", path, palette, doubt)
    return MaskFiles(regions, (path.name,) * len(regions), stored.orientation)


def _load_folder(folder: Path, shape: tuple[int, int] | None) -> MaskFiles:
    files = sorted((p for p in folder.iterdir() if _is_mask(p)), key=_number_order)
    if not files:
        raise RegionError(f"folder {folder} has no .png file; put a binary PNG for each region into it")
    masks: dict[int, np.ndarray] = {}
    problems: dict[int, object] = {}
    turned = 1
    for number, file in enumerate(files):
        try:
            masks[number], orientation = stored_mask(file.read_bytes())
            if not masks[number].any():
                raise RegionError("it is empty; set the pixels inside the region, or remove the file")
        except (RegionError, OSError) as error:
            masks.pop(number, None)
            problems[number] = error.strerror or "cannot be read" if isinstance(error, OSError) else error
            continue
        _warn_if_turned(file, orientation)
        turned = max(turned, orientation)
    sizes = Counter(mask.shape for mask in masks.values())
    size = shape if shape in sizes else next((found for found, _ in sizes.most_common(1)), None)
    for number, mask in list(masks.items()):
        if mask.shape != size and size is not None:
            masks.pop(number)
            given, wanted = (f"{width}x{height}" for height, width in (mask.shape, size))
            problems[number] = f"it is {given}, others are {wanted}; all must have the size of the image"
    if not masks:
        number, problem = next(iter(problems.items()))
        raise RegionError(f"none of the {len(files)} masks in {folder} can be used; mask {files[number]}: {problem}")
    for number, problem in sorted(problems.items()):
        _LOGGER.warning("mask %s is left out: %s", files[number], problem)
    ids = _ids_of(files)
    return MaskFiles(
        regions_from_masks(np.stack(list(masks.values())), [ids[number] for number in masks]),
        tuple(files[number].name for number in masks),
        turned,
    )


def _is_mask(path: Path) -> bool:
    return path.suffix.lower() in _MASK_NAMES and not path.name.startswith(_NOT_THE_USERS) and not path.is_dir()


def _number_order(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Return a key that sorts names by the numbers in them: 2.png before 10.png."""
    parts = re.split(r"(\d+)", path.stem.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part], path.name


def _ids_of(files: Sequence[Path]) -> list[int]:
    """Return the numbers in the names of files if they are ids, otherwise 1, 2, 3 ... in their order."""
    if all(p.stem.isdecimal() for p in files):
        numbers = [int(p.stem) for p in files]
        if len(set(numbers)) == len(numbers) and min(numbers) >= 1 and max(numbers) <= MAX_ID:
            return numbers
    return list(range(1, len(files) + 1))


def _warn_if_turned(path: Path, orientation: int) -> None:
    if orientation != 1:
        _LOGGER.warning("mask %s has EXIF orientation %d and is turned upright, as its image is", path, orientation)
