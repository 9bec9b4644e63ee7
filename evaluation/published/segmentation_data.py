"""Panoptic data sets in the layouts of ADE20K and Cityscapes, as the published code prepares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluation.published.cityscapes_scores import Label
from evaluation.published.data import counted, find_file, read_object
from evaluation.published.items import Item
from evaluation.published.open_vocabulary import QUERIES, ClassList, mask_ids, read_classes
from osprey_ros.errors import ImageError, InputError
from osprey_ros.file_errors import os_reason
from osprey_torch.readers.files import read_json
from osprey_torch.readers.records import Skipped

OPENING = "dotted"
QUESTION = "What is in <mask><pos>? Using a short phrase."
ADE_CLASSES = "ade20k_*_with_prompt_eng.txt"
CITYSCAPES_CLASSES = "cityscapes_with_prompt_eng.txt"
_ADE_FOLDER = "ADEChallengeData2016"
_LEFT = "_leftImg8bit"


@dataclass(frozen=True)
class PanopticImage:
    """An image with its true segments.

    Attributes:
        id: Its id in the panoptic file.
        image: The image file.
        panoptic: PNG of its segment ids: R + 256 G + 65536 B.
        segments: `id`, `category_id`, `area` and `iscrowd` of each segment of the file.
        semantic: PNG of its labels: contiguous ids and 255 (ADE20K), or label ids (Cityscapes).
        instances: PNG of its instance ids, of Cityscapes only.
    """

    id: str
    image: Path
    panoptic: Path
    segments: Sequence[Mapping[str, Any]]
    semantic: Path
    instances: Path | None = None

    @property
    def name(self) -> str:
        """The name of the image file, which begins the ids of its items."""
        return self.image.name


@dataclass(frozen=True)
class PanopticData:
    """A data set.

    Attributes:
        items: A question for each segment that is asked about, "image#segment id".
        images: The images.
        classes: The classes, in the order of their contiguous ids.
        categories: Id of each class in the files.
        things: Contiguous ids of the classes that have instances.
        labels: The classes as Cityscapes names them; () for ADE20K.
        instances: The true instances in COCO's layout, of ADE20K.
    """

    items: Sequence[Item]
    images: Sequence[PanopticImage]
    classes: ClassList
    categories: Sequence[int]
    things: frozenset[int]
    labels: Sequence[Label] = ()
    instances: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PngMask:
    """A segment of a panoptic PNG."""

    file: Path
    id: int

    def decode(self) -> np.ndarray:
        """Return the mask, bool [H, W]. Raises ImageError."""
        result: np.ndarray = panoptic_ids(self.file) == self.id
        return result


@lru_cache(maxsize=2)
def panoptic_ids(file: Path) -> np.ndarray:
    """Return the segment ids of a panoptic PNG, int64 [H, W]. Raises ImageError."""
    colors = _pixels(file)
    if colors.ndim != 3 or colors.shape[2] < 3:
        raise ImageError(f"{file} has {colors.ndim} dimensions; a panoptic PNG is RGB")
    red, green, blue = (colors[..., channel].astype(np.int64) for channel in range(3))
    return red + 256 * green + 65536 * blue


def label_map(file: Path) -> np.ndarray:
    """Return the labels of a PNG with one channel, int64 [H, W]. Raises ImageError."""
    labels = _pixels(file)
    if labels.ndim != 2:
        raise ImageError(f"{file} has {labels.ndim} dimensions; a map of labels has one channel")
    return labels.astype(np.int64)


def _pixels(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as opened:
            return np.array(opened)
    except OSError as error:
        reason = os_reason(error) if error.errno else "it is not an image; restore it"
        raise ImageError(f"{file} cannot be read: {reason}") from error


def read_ade(data: Path, images: Path | None, classes: Path | None, split: str, skipped: Skipped) -> PanopticData:
    """Read ADE20K-150 as the published scripts prepare it.

    Args:
        data: The folder ADEChallengeData2016, or the one above it.
        images: Folder of the images; by default images/training or images/validation below.
        classes: The list of classes; by default beside or in ``data``.
        split: "train" or "val".
        skipped: Counts broken entries.

    Raises InputError for missing files.
    """
    root = next((data / name for name in (_ADE_FOLDER, f"ade/{_ADE_FOLDER}") if (data / name).is_dir()), data)
    long = {"train": "training", "val": "validation"}[split]
    content = read_object(root / f"ade20k_panoptic_{split}.json", "images", "annotations", "categories")
    # The published code takes the contiguous ids from the order of the categories.
    categories = [int(one["id"]) for one in content["categories"]]
    listed = read_classes(classes or find_file(data, ADE_CLASSES, "--classes"), len(categories), 1)
    folder = images or root / "images" / long

    def image_of(annotation: Mapping[str, Any]) -> PanopticImage:
        name = Path(str(annotation["file_name"])).stem
        lossless = folder / f"{name}.png"  # of simulated scenes
        return PanopticImage(
            str(annotation["image_id"]),
            lossless if lossless.is_file() else lossless.with_suffix(".jpg"),
            root / f"ade20k_panoptic_{split}" / str(annotation["file_name"]),
            annotation["segments_info"],
            root / "annotations_detectron2" / long / f"{name}.png",
        )

    found, items = _read_images(root / f"ade20k_panoptic_{split}.json", content, categories, image_of, skipped)
    things = frozenset(n for n, one in enumerate(content["categories"]) if one["isthing"])
    instances = read_json(root / f"ade20k_instance_{split}.json")
    return PanopticData(items, found, listed, categories, things, instances=instances)


def read_cityscapes(
    data: Path, images: Path | None, classes: Path | None, split: str, skipped: Skipped
) -> PanopticData:
    """Read Cityscapes with the files of createPanopticImgs; arguments and errors as of `read_ade`.

    The panoptic file lists the evaluated classes with their label ids and groups, in the order of their train ids.
    """
    root = data / "cityscapes" if (data / "cityscapes").is_dir() else data
    file = root / "gtFine" / f"cityscapes_panoptic_{split}.json"
    content = read_object(file, "images", "annotations", "categories")
    labels = []
    for one in content["categories"]:
        if not {"id", "name", "isthing"} <= set(one):
            raise InputError(f"{file}: the category {one} lacks id, name or isthing")
        group = str(one.get("supercategory", ""))
        labels.append(Label(int(one["id"]), str(one["name"]), group, bool(one["isthing"])))
    categories = [label.id for label in labels]
    listed = read_classes(classes or find_file(data, CITYSCAPES_CLASSES, "--classes"), len(labels), 0)
    for label, name in zip(labels, listed.names, strict=True):
        # The published code stops where the names differ; its author takes the part before the first comma.
        if name.split(",")[0] != label.name:
            raise InputError(f"{file}: the class {label.name!r} is {name!r} in the list of classes; use one order")
    folder = images or root / "leftImg8bit" / split

    def image_of(annotation: Mapping[str, Any]) -> PanopticImage:
        name = str(annotation["image_id"])
        city = name.split("_")[0]
        truth = root / "gtFine" / split / city
        return PanopticImage(
            name,
            folder / city / f"{name}{_LEFT}.png",
            root / "gtFine" / f"cityscapes_panoptic_{split}" / str(annotation["file_name"]),
            annotation["segments_info"],
            truth / f"{name}_gtFine_labelIds.png",
            truth / f"{name}_gtFine_instanceIds.png",
        )

    found, items = _read_images(file, content, categories, image_of, skipped)
    things = frozenset(n for n, label in enumerate(labels) if label.instances)
    return PanopticData(items, found, listed, categories, things, labels)


def _read_images(
    file: Path,
    content: Mapping[str, Any],
    categories: Sequence[int],
    image_of: Callable[[Mapping[str, Any]], PanopticImage],
    skipped: Skipped,
) -> tuple[list[PanopticImage], list[Item]]:
    """Return the images and the items of a panoptic file."""
    images: list[PanopticImage] = []
    items: list[Item] = []
    names = {int(one["id"]): str(one["name"]) for one in content["categories"]}
    for index, annotation in enumerate(content["annotations"]):
        with counted(f"{file}, annotation {index}", skipped):
            image = image_of(annotation)
            own = {int(one["id"]): int(one["category_id"]) for one in image.segments}
            unknown = set(own.values()) - set(categories)
            if unknown:
                raise ValueError(f"{image.name}: category {min(unknown)} is not in the file's categories")
            for segment in image.segments:
                _ = segment["area"], segment["iscrowd"]
            for needed in (image.semantic, image.instances):
                if needed is not None and not needed.is_file():
                    raise ValueError(f"{needed} is missing; prepare the data set with the published scripts")
            ids = mask_ids(panoptic_ids(image.panoptic))[: min(QUERIES, len(image.segments))].tolist()
            truths = [names[own[one]] if one in own else "" for one in ids]
            hidden = {int(one["id"]): one.get("hidden") for one in image.segments}
            images.append(image)
            items += [
                Item(
                    f"{image.name}#{one}",
                    image.image,
                    QUESTION,
                    OPENING,
                    PngMask(image.panoptic, one),
                    truth,
                    crowd=len(ids),
                    hidden=hidden.get(one),
                )
                for one, truth in zip(ids, truths, strict=True)
            ]
    return images, items
