"""Regions from files: an id image (one PNG whose values are region ids), or a folder with a binary PNG per region."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from osprey_ros.errors import RegionError
from osprey_ros.regions.regions import Regions, regions_from_id_image, regions_from_masks

_ID_IMAGE = "a gray PNG of up to 16 bits whose values are region ids"
_BINARY_IMAGE = "a gray or black-and-white PNG that is non-zero inside the region"


def load_regions(path: str | os.PathLike[str]) -> Regions:
    """Read regions from an id image or from a folder of binary PNGs.

    An id image is gray with up to 16 bits, or a palette image, whose indices are the ids; 0 is background. In a folder,
    each PNG is non-zero inside its region. The ids are the numbers in the file names if every name is a number,
    otherwise 1, 2, 3 ... in the order of the names.

    Raises RegionError, with the name of the file, if a file is missing, unreadable, empty or of another format or size.
    """
    source = Path(path)
    try:
        if source.is_dir():
            return _load_folder(source)
        if not source.exists():
            raise RegionError(f"masks {source} do not exist; give an id image (PNG) or a folder of binary PNGs")
        return regions_from_id_image(_load_gray(source, _ID_IMAGE))
    except RegionError as error:
        raise RegionError(_with_path(source, error)) from error
    except OSError as error:
        raise RegionError(f"masks {source} cannot be read: {error.strerror or error}") from error


def _load_folder(folder: Path) -> Regions:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".png")
    if not files:
        raise RegionError(f"folder {folder} has no .png file; put a binary PNG for each region into it")
    ids = list(range(1, len(files) + 1))
    if all(p.stem.isdecimal() and int(p.stem) > 0 for p in files) and len({int(p.stem) for p in files}) == len(files):
        files.sort(key=lambda p: int(p.stem))
        ids = [int(p.stem) for p in files]
    masks = [_load_gray(p, _BINARY_IMAGE) != 0 for p in files]
    for file, mask in zip(files, masks, strict=True):
        if mask.shape != masks[0].shape:
            raise RegionError(
                f"mask {file} is {mask.shape[1]}x{mask.shape[0]}, {files[0].name} is {masks[0].shape[1]}x"
                f"{masks[0].shape[0]}; all must have the size of the image"
            )
        if not mask.any():
            raise RegionError(f"mask {file} is empty; set the pixels inside the region, or remove the file")
    return regions_from_masks(np.stack(masks), ids)


def _load_gray(path: Path, expected: str) -> np.ndarray:
    """Return the stored values of an image file with one channel, integers [H, W].

    ``expected`` describes the format that errors ask for.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode == "F" or not (image.mode in ("1", "L", "P") or image.mode.startswith("I")):
                raise RegionError(
                    f"masks {path} have mode {image.mode}, which is color or floating point; give {expected}"
                )
            pixels = np.asarray(image)
            if image.format == "PNG" and image.mode == "L":
                # Pillow scales gray of 2 and 4 bits to 0..255.
                pixels = pixels // (255 // (2 ** _bit_depth(path) - 1))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise RegionError(f"masks {path} cannot be read: {error}") from error
    return pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels


def _bit_depth(png: Path) -> int:
    """Return the bits of each value in a PNG file."""
    # Signature (8 bytes), length and name of the header chunk (8), width and height (8), then the bit depth.
    with png.open("rb") as file:
        return file.read(25)[24]


def _with_path(path: Path, error: RegionError) -> str:
    text = str(error)
    return text if str(path) in text else f"masks {path}: {text}"
