"""The items of a run: each image, video and recording that the inputs name, once and in a fixed order."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osprey_ros.errors import InputError
from osprey_ros.file_errors import read_text

IMAGE, VIDEO, RECORDING = "image", "video", "recording"
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
_RECORDINGS = (".mcap", ".db3")
_METADATA = "metadata.yaml"  # makes a folder a recording


@dataclass(frozen=True)
class Item:
    """One unit of work: it is described as a whole or set aside.

    Attributes:
        key: Names the item in the journal: its path, absolute and without symbolic links.
        kind: IMAGE, VIDEO or RECORDING.
        masks: Path of the masks of an image, "" for none.
        data: A COCO data set of this image alone, None for other images.
    """

    key: str
    kind: str
    masks: str = ""
    data: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """A name for files of this item: that of its own file, and a hash of its path."""
        return f"{Path(self.key).stem}-{hashlib.sha256(os.fsencode(self.key)).hexdigest()[:12]}"


def find_items(inputs: Sequence[str], masks: Path | None = None, images: Path | None = None) -> list[Item]:
    """Return the items of all inputs. An item that several inputs name appears once, where it is named first.

    Args:
        inputs: Folders with images, videos and recordings (searched with their subfolders), files, COCO data sets
            (.json), or patterns such as "bags/*.mcap".
        masks: Folder with the masks of images: of a/b.jpg in an input folder, a/b.png, a/b.json or the folder a/b.
        images: Folder with the images of data sets, by default that of the .json file.

    Raises:
        InputError: An input does not exist or holds no item, or the masks of an image are missing.
    """
    found: dict[str, Item] = {}
    for given in inputs:
        paths = [given] if os.path.exists(given) else sorted(glob.glob(given, recursive=True))
        items = [item for path in paths for item in _items_of(Path(path), masks, images)]
        if not items:
            raise InputError(
                f"{given} {'holds' if paths else 'does not exist and matches'} no image, video, recording or data set; "
                "correct the path"
            )
        for item in items:
            found.setdefault(item.key, item)
    return list(found.values())


def _items_of(path: Path, masks: Path | None, images: Path | None) -> Iterator[Item]:
    if path.suffix.lower() == ".json" and path.is_file():
        yield from _data_set(path, images or path.parent)
    elif path.is_dir() and not (path / _METADATA).is_file():
        for file in sorted(_files_in(path)):
            yield from _item(file, path, masks)
    else:
        yield from _item(path, path.parent, masks)


def _files_in(folder: Path) -> Iterable[Path]:
    """Return the files below a folder, and the folders that are recordings."""
    for parent, folders, files in os.walk(folder):
        recordings = [name for name in folders if (Path(parent) / name / _METADATA).is_file()]
        folders[:] = [name for name in folders if name not in recordings and not name.startswith(".")]
        for name in (*recordings, *(name for name in files if not name.startswith("."))):
            yield Path(parent) / name


def _item(path: Path, root: Path, masks: Path | None) -> Iterator[Item]:
    suffix, key = path.suffix.lower(), os.path.realpath(path)
    if suffix in _IMAGES:
        yield Item(key, IMAGE, "" if masks is None else _masks_of(masks / path.relative_to(root).with_suffix("")))
    elif suffix in _VIDEOS:
        yield Item(key, VIDEO)
    elif suffix in _RECORDINGS or path.is_dir():
        yield Item(key, RECORDING)


def _masks_of(stem: Path) -> str:
    """Return the path of an image's masks. A path that does not exist fails with its image, not the whole run."""
    candidates = [stem.with_name(stem.name + suffix) for suffix in (".png", ".json")] + [stem]
    return os.path.realpath(next((one for one in candidates if one.exists()), candidates[0]))


def _data_set(path: Path, images: Path) -> Iterator[Item]:
    """Yield the images of a COCO data set that have an annotation, in the order of the file."""
    try:
        data = json.loads(read_text(path, InputError, "correct the path"))
        entries, annotations = data["images"], data["annotations"]
        own: dict[Any, list[Any]] = {entry["id"]: [] for entry in entries}
        for annotation in annotations:
            own.get(annotation["image_id"], []).append(annotation)
        names = [os.fspath(entry["file_name"]) for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a COCO data set with lists of images and annotations") from error
    for name, entry in zip(names, entries, strict=True):
        if own[entry["id"]]:
            single = {"images": [entry], "annotations": own[entry["id"]]}
            yield Item(os.path.realpath(images / name), IMAGE, data=single)
