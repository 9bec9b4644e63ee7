"""Masks from JSON in COCO's layouts: data sets, results, one image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from osprey_ros.errors import RegionError
from osprey_ros.regions.coco import regions_from_coco
from osprey_ros.regions.files import load_image_with_masks
from osprey_ros.regions.regions import Regions

HEIGHT, WIDTH = 48, 64
POLYGON = [[10, 12, 40, 12, 40, 30, 10, 30], [50, 5, 60, 5, 60, 15, 50, 15]]


def blob(seed: int = 0) -> np.ndarray:
    """Return a mask with a hole and several parts, bool [H, W]."""
    noise = np.random.default_rng(seed).random((HEIGHT // 8, WIDTH // 8)) > 0.6
    return noise.repeat(8, 0).repeat(8, 1)


def encoded(mask: np.ndarray) -> dict[str, Any]:
    found = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(n) for n in found["size"]], "counts": found["counts"].decode()}


def plain(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    return {"size": list(mask.shape), "counts": np.diff(changes, prepend=0, append=flat.size).tolist()}


def mask_of(regions: Regions, row: int) -> np.ndarray:
    x, y, width, height = regions.boxes[row]
    whole = np.zeros(regions.shape, bool)
    whole[y : y + height, x : x + width] = regions.crop(row)
    return whole


def write(folder: Path, data: Any) -> Path:
    path = folder / "masks.json"
    path.write_text(json.dumps(data))
    return path


def test_run_lengths_of_a_data_set_are_exact_and_keep_their_ids(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"set/{n}.jpg", "height": HEIGHT, "width": WIDTH} for n in (1, 2)]
    annotations = [
        {"id": 31, "image_id": 1, "segmentation": encoded(blob(1))},
        {"id": 32, "image_id": 2, "segmentation": encoded(blob(2))},
        {"id": 33, "image_id": 2, "segmentation": plain(blob(3))},
    ]
    regions, problems = regions_from_coco(write(tmp_path, {"images": images, "annotations": annotations}), "2.jpg")
    assert regions.ids.tolist() == [32, 33]
    assert problems == ()
    for row, seed in enumerate((2, 3)):
        np.testing.assert_array_equal(mask_of(regions, row), blob(seed))


def test_polygons_are_those_of_coco_to_a_pixel(tmp_path: Path) -> None:
    data = {"image": {"height": HEIGHT, "width": WIDTH}, "annotations": [{"segmentation": POLYGON}]}
    regions, _ = regions_from_coco(write(tmp_path, data), "any.jpg")
    wanted = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(POLYGON, HEIGHT, WIDTH))).astype(bool)
    found = mask_of(regions, 0)
    assert found[wanted].all()
    y, x = np.nonzero(found)
    assert len(y) <= wanted.sum() + sum(len(range(0, len(one), 2)) * 31 for one in POLYGON)
    assert (x.min(), y.min(), x.max(), y.max()) == (10, 5, 60, 30)


def test_results_of_detectron2_are_chosen_by_the_number_of_the_image(tmp_path: Path) -> None:
    results = [
        {"image_id": n, "category_id": 1, "score": 0.5, "segmentation": encoded(blob(n))} for n in (139, 139, 285)
    ]
    path = write(tmp_path, results)
    regions, _ = regions_from_coco(path, "000000000139.jpg")
    assert regions.ids.tolist() == [1, 2]
    np.testing.assert_array_equal(mask_of(regions, 0), blob(139))
    with pytest.raises(RegionError, match=r"results are of 2 images and none of them is clearly photo\.jpg"):
        regions_from_coco(path, "photo.jpg")
    assert len(regions_from_coco(write(tmp_path, results[2:]), "photo.jpg")[0]) == 1


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path: Path) -> None:
    bad = {"size": [HEIGHT, WIDTH], "counts": [5, 5]}
    data = {"annotations": [{"id": 4, "segmentation": bad}, {"id": 5, "segmentation": encoded(blob())}, {"id": 6}]}
    regions, problems = regions_from_coco(write(tmp_path, data), "a.jpg")
    assert regions.ids.tolist() == [5]
    assert [text.partition(":")[0] for text in problems] == ["annotation 4", "annotation 6"]
    assert "run lengths add up to 10 pixels" in problems[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "not JSON"),
        ("{}", "no list of annotations"),
        ('{"images": [], "annotations": []}', "no images"),
        ('{"images": [{"id": 1}, {"id": 2}], "annotations": []}', r"none of its 2 images is named a\.jpg"),
        ('{"annotations": [{"segmentation": [[1, 2, 3]]}]}', "none of its 1 masks can be used; annotation 0: it has"),
        ('{"annotations": [{"segmentation": [[1, 1, 5, 1, 5, 5]]}]}', "the size of its image is not known"),
        ('{"annotations": []}', "no mask"),
    ],
)
def test_files_that_cannot_be_used(data: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "masks.json").write_text(data)
    with pytest.raises(RegionError, match=message):
        regions_from_coco(tmp_path / "masks.json", "a.jpg")


def test_masks_of_another_size_are_resized_by_nearest_neighbor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(np.zeros((2 * HEIGHT, 2 * WIDTH, 3), np.uint8)).save(tmp_path / "image.png")
    good, bad = {"segmentation": encoded(blob())}, {"segmentation": "text"}
    _, found = load_image_with_masks(tmp_path / "image.png", write(tmp_path, [good, bad]))
    np.testing.assert_array_equal(mask_of(found.regions, 0), blob().repeat(2, 0).repeat(2, 1))
    assert found.files == ("masks.json",)
    assert any("left out: annotation 1" in line for line in caplog.messages)
