"""Regions from files: an id picture (one PNG whose values are region ids), or a folder of binary PNGs, one a region."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from osprey_ros.errors import RegionError
from osprey_ros.regions.regions import Regions, regions_from_id_image, regions_from_masks

_ID_PICTURE = "grey with up to 16 bits, its values the region ids"
_BINARY_PICTURE = "a grey or black-and-white PNG, non-zero inside the region"


def load_regions(path: str | os.PathLike[str]) -> Regions:
    """Reads regions from an id picture or from a folder of binary PNGs.

    An id picture is grey with up to 16 bits (or a palette picture, whose indices count); 0 is background. In a folder,
    non-zero pixels of each PNG are inside its region; ids are the numbers in the names if every name is a number, else
    1, 2, 3 ... in the order of names. Raises RegionError naming the file and what is wrong with it.
    """
    source = Path(path)
    try:
        if source.is_dir():
            return _load_folder(source)
        if not source.exists():
            raise RegionError(f"masks {source} do not exist: give an id PNG, or a folder of binary PNGs")
        return regions_from_id_image(_load_grey(source, _ID_PICTURE))
    except RegionError as error:
        raise RegionError(_naming(source, error)) from error
    except OSError as error:
        raise RegionError(f"masks {source} cannot be read: {error.strerror or error}") from error


def _load_folder(folder: Path) -> Regions:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".png")
    if not files:
        raise RegionError(f"the folder {folder} has no .png file: put one binary PNG for each region there")
    ids = list(range(1, len(files) + 1))
    if all(p.stem.isdecimal() and int(p.stem) > 0 for p in files) and len({int(p.stem) for p in files}) == len(files):
        files.sort(key=lambda p: int(p.stem))
        ids = [int(p.stem) for p in files]
    masks = [_load_grey(p, _BINARY_PICTURE) != 0 for p in files]
    for file, mask in zip(files, masks, strict=True):
        if mask.shape != masks[0].shape:
            raise RegionError(
                f"mask {file} is {mask.shape[1]}x{mask.shape[0]}, {files[0].name} is {masks[0].shape[1]}x"
                f"{masks[0].shape[0]}: all must have the size of the picture"
            )
        if not mask.any():
            raise RegionError(f"mask {file} is empty: no pixel of it is set")
    return regions_from_masks(np.stack(masks), ids)


def _load_grey(path: Path, advice: str) -> np.ndarray:
    """Integers [H, W] of a picture file with one channel, as they are stored. ``advice`` says what to give instead."""
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode == "F" or not (image.mode in ("1", "L", "P") or image.mode.startswith("I")):
                raise RegionError(
                    f"masks {path} have mode {image.mode}, a colour or floating-point picture: give {advice}"
                )
            pixels = np.asarray(image)
            if image.format == "PNG" and image.mode == "L":
                # Pillow spreads grey of 2 and 4 bits over 0..255.
                pixels = pixels // (255 // (2 ** _bit_depth(path) - 1))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise RegionError(f"masks {path} cannot be read: {error}") from error
    return pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels


def _bit_depth(png: Path) -> int:
    # Signature (8 bytes), length and name of the header chunk (8), width and height (8), then the bits of a sample.
    with png.open("rb") as file:
        return file.read(25)[24]


def _naming(path: Path, error: RegionError) -> str:
    text = str(error)
    return text if str(path) in text else f"masks {path}: {text}"
