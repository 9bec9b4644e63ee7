"""Small packs of photographs for tests: a folder with images and annotations in COCO's layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_masks

HEIGHT, WIDTH = 48, 64


def write_pack(folder: Path, images: Sequence[tuple[str, str, Sequence[str]]], seed: int = 0) -> Path:
    """Write a pack and return its folder.

    Args:
        folder: Folder of the pack, created.
        images: File name, split and names of the objects of each image. The objects stand side by side; masks are
            polygons and run lengths in turn.
        seed: Seed of the pixels.
    """
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    names = sorted({name for _, _, objects in images for name in objects})
    entries, annotations = [], []
    for number, (file_name, split, objects) in enumerate(images, 1):
        rgb = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        for place, name in enumerate(objects):
            left, right = 4 + place * 20, 18 + place * 20
            rgb[8:40, left:right] = rng.integers(0, 256, 3)
            mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
            mask[8:40, left:right] = 1
            encoded = coco_masks.encode(mask)
            lengths = {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}
            polygon = [[left, 8, right, 8, right, 40, left, 40]]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": names.index(name) + 1,
                    "segmentation": polygon if place % 2 else lengths,
                    "iscrowd": 0,
                }
            )
        Image.fromarray(rgb).save(folder / "images" / file_name)
        entries.append(
            {"id": number, "file_name": f"images/{file_name}", "width": WIDTH, "height": HEIGHT, "split": split}
        )
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    data = {"images": entries, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(data))
    return folder
