"""Packs of photographs with masks: a folder with `images/` and `annotations.json` in COCO's layout.

Images of a pack have a `split`, "train" or "test". A validation split is taken from the train images; training,
calibration and evaluation share `split_of`, so that no image is trained on that another one measures with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from osprey_ros.errors import InputError
from osprey_torch.readers.coco import annotations_by_image, category_names, category_of, id_text, mask_of
from osprey_torch.readers.files import read_json
from osprey_torch.readers.records import Skipped
from osprey_torch.readers.segmentation import Segmentation

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
SPLIT_SEED = 24
VALIDATION_SHARE = 0.1  # of the train images
ANNOTATIONS = "annotations.json"


@dataclass(frozen=True)
class PackObject:
    """An object of a photograph.

    Attributes:
        pack: Name of the pack, that of its folder.
        image: Path of the image file.
        file_name: The image as the pack names it.
        split: "train", "validation" or "test", see `split_of`.
        id: Id of the annotation.
        name: Name of its category.
        mask: Its mask as stored.
    """

    pack: str
    image: Path
    file_name: str
    split: str
    id: int
    name: str
    mask: Segmentation

    def decode(self) -> np.ndarray:
        """Return the mask, bool [height, width]."""
        return self.mask.decode()

    @cached_property
    def area_share(self) -> float:
        """Area of the mask as a share of the image's area, 0 to 1."""
        return self.mask.area / (self.mask.height * self.mask.width)


def split_of(pack: str, image_file_name: str, split_in_file: str | None, seed: int = SPLIT_SEED) -> str:
    """Return "train", "validation" or "test" for an image of a pack.

    Images with another split than "test" are train images. A hash of seed, pack and file name takes 10 % of them for
    validation, so the split of an image does not depend on the other images.

    Raises:
        InputError: ``split_in_file`` is unknown.
    """
    if split_in_file in (TEST, VALIDATION):
        return split_in_file
    if split_in_file not in (TRAIN, None):
        raise InputError(
            f"image {image_file_name} of pack {pack} has the split {split_in_file!r}; it must be one of "
            f"{', '.join(SPLITS)}"
        )
    name = image_file_name.removeprefix("images/")
    digest = hashlib.sha256(f"{seed}/{pack}/{name}".encode()).digest()
    return VALIDATION if int.from_bytes(digest[:8], "big") < VALIDATION_SHARE * 2**64 else TRAIN


def pack_folders(data: Path, names: Sequence[str] | None = None) -> tuple[list[Path], list[str]]:
    """Return the folders of the packs in ``data`` that are present, and the names of the absent ones.

    Args:
        data: Folder of packs.
        names: The wanted packs; by default all folders with annotations, by name.

    Raises:
        InputError: ``data`` is not a folder.
    """
    if not data.is_dir():
        raise InputError(f"{data} is not a folder; give the folder of the packs")
    if names is None:
        return sorted(file.parent for file in data.glob(f"*/{ANNOTATIONS}")), []
    wanted = list(dict.fromkeys(names))
    present = [data / name for name in wanted if (data / name / ANNOTATIONS).is_file()]
    return present, [name for name in wanted if data / name not in present]


def pack_objects(folder: Path, skipped: Skipped, seed: int = SPLIT_SEED) -> Iterator[PackObject]:
    """Yield the objects of a pack, image by image, in the order of its file.

    What cannot be used, and crowds, are counted in ``skipped``. An image file is not opened.

    Raises:
        InputError: The annotations are missing or not in COCO's layout.
    """
    file = folder / ANNOTATIONS
    data = read_json(file)
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in ("images", "annotations")):
        raise InputError(f"{file} must hold lists 'images' and 'annotations' as COCO's files do")
    categories = category_names(data, file)
    of_image = annotations_by_image(data, file, skipped)
    for number, entry in enumerate(data["images"]):
        origin = f"{file}, image {number}"
        try:
            height, width, name = int(entry["height"]), int(entry["width"]), str(entry["file_name"])
            split = split_of(folder.name, name, entry.get("split"), seed)
            key = id_text(entry["id"])
        except KeyError as error:
            skipped.add(origin, f"the key {error} is missing")
            continue
        except (TypeError, ValueError, OverflowError, AttributeError, InputError) as error:
            skipped.add(origin, str(error))
            continue
        image = folder / name if name.startswith("images/") else folder / "images" / name
        for annotation in of_image.get(key, []):
            if annotation.get("ignore") or annotation.get("iscrowd"):
                skipped.leave_out("an annotation is a crowd or to be ignored")
                continue
            try:
                yield PackObject(
                    folder.name,
                    image,
                    name,
                    split,
                    int(annotation["id"]),
                    category_of(annotation, categories),
                    _with_pixels(annotation, height, width),
                )
            except KeyError as error:
                skipped.add(f"{origin}, annotation {annotation.get('id')}", f"the key {error} is missing")
            except (TypeError, ValueError, OverflowError, IndexError, AttributeError) as error:
                skipped.add(f"{origin}, annotation {annotation.get('id')}", str(error))


def _with_pixels(annotation: dict[str, Any], height: int, width: int) -> Segmentation:
    mask = mask_of(annotation, height, width)
    if not mask.area:
        raise ValueError("its mask has no pixel inside the image")
    return mask
