"""Ids of objects over several images, and objects that were clicked."""

from __future__ import annotations

import numpy as np
import pytest
from color_segmenter import write_bundle

from osprey_ros import Segmenter, regions_from_masks
from osprey_ros.errors import InputError
from osprey_ros.regions.masks import MaskCrop
from osprey_ros.segmenter.clicked import MOST_CLICKED, ClickedObjects, interior_point
from osprey_ros.segmenter.live import LiveSegmenter
from osprey_ros.segmenter.stable_ids import MEMORY, StableIds, crops_of


def squares(*places: tuple[int, int]) -> np.ndarray:
    masks = np.zeros((len(places), 60, 80), np.bool_)
    for mask, (x, y) in zip(masks, places, strict=True):
        mask[y : y + 20, x : x + 20] = True
    return masks


def test_ids_follow_objects_that_move_and_change_their_order() -> None:
    ids = StableIds()
    assert ids.update(regions_from_masks(squares((0, 0), (40, 30)))).ids.tolist() == [1, 2]
    assert ids.update(regions_from_masks(squares((42, 30), (3, 2)))).ids.tolist() == [2, 1]
    moved = ids.update(regions_from_masks(squares((6, 4), (44, 30), (20, 35))))
    assert moved.ids.tolist() == [1, 2, 3]
    assert moved.boxes.tolist() == [[6, 4, 20, 20], [44, 30, 20, 20], [20, 35, 20, 20]]


def test_an_object_keeps_its_id_for_a_while_and_no_id_comes_back() -> None:
    ids = StableIds(first=7)
    both, one = regions_from_masks(squares((0, 0), (40, 30))), regions_from_masks(squares((0, 0)))
    assert ids.update(both).ids.tolist() == [7, 8]
    for _ in range(MEMORY):
        assert ids.update(one).ids.tolist() == [7]
    assert ids.update(both).ids.tolist() == [7, 8]
    for _ in range(MEMORY + 1):
        ids.update(one)
    assert ids.update(both).ids.tolist() == [7, 9]
    assert ids.new_id() == 10


def test_an_image_of_another_size_has_new_objects() -> None:
    ids = StableIds()
    ids.update(regions_from_masks(squares((0, 0))))
    assert ids.update(regions_from_masks(np.ones((1, 30, 40), np.bool_))).ids.tolist() == [2]


def test_the_interior_point_is_inside_a_ring() -> None:
    ring = np.ones((21, 21), np.bool_)
    ring[4:17, 4:17] = False
    x, y = interior_point(MaskCrop(100, 50, ring))
    assert ring[int(y) - 50, int(x) - 100]


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return Segmenter(write_bundle(tmp_path_factory.mktemp("color") / "grid"), threads=1)


def _show(segmenter: Segmenter, x: int | None) -> np.ndarray:
    rgb = np.zeros((96, 128, 3), np.uint8)
    if x is not None:
        rgb[16:48, x : x + 32] = (200, 30, 30)
    segmenter.set_image(rgb)
    return rgb


def test_a_clicked_object_is_found_again_until_it_is_gone(segmenter: Segmenter) -> None:
    clicked, numbers = ClickedObjects(), iter(range(5, 100))
    rgb = _show(segmenter, 16)
    (mask,) = crops_of(segmenter.segment(points=[[20, 20]]))
    assert clicked.add(mask, rgb, lambda: next(numbers)) == 5
    assert clicked.add(mask, rgb, lambda: next(numbers)) == 5  # a second click on it
    for x in (20, 24, 28):
        rgb = _show(segmenter, x)
        found = clicked.find(segmenter, rgb)
        assert [(number, crop.left, crop.top) for number, crop in found.items()] == [(5, x, 16)]
    rgb = _show(segmenter, None)
    for _ in range(MEMORY):
        assert clicked.find(segmenter, rgb) == {}
    rgb = _show(segmenter, 28)
    assert list(clicked.find(segmenter, rgb)) == [5]
    rgb = _show(segmenter, None)
    for _ in range(MEMORY + 1):
        clicked.find(segmenter, rgb)
    rgb = _show(segmenter, 28)
    assert clicked.find(segmenter, rgb) == {}


def test_the_object_that_was_clicked_first_is_given_up_for_a_new_one(segmenter: Segmenter) -> None:
    rgb = _show(segmenter, 16)
    clicked, numbers = ClickedObjects(), iter(range(1, 100))
    for n in range(MOST_CLICKED + 1):
        clicked.add(MaskCrop(4 * n, 80, np.ones((4, 4), np.bool_)), rgb, lambda: next(numbers))
    assert 1 not in clicked.find(segmenter, rgb)


def test_boxes_of_detections_become_masks_with_their_ids(segmenter: Segmenter) -> None:
    live = LiveSegmenter(segmenter)
    live.restart(first_id=100)
    rgb = np.zeros((96, 128, 3), np.uint8)
    rgb[16:48, 16:48] = (200, 30, 30)
    live.set_image(1, rgb)
    boxes = np.zeros((2, 96, 128), np.bool_)
    boxes[0, 8:56, 8:56] = boxes[1, 20:40, 60:100] = True
    found = live.detections(regions_from_masks(boxes, ids=[42, 7]))
    assert found.ids.tolist() == [42, 7]
    assert found.boxes.tolist() == [[8, 8, 48, 48], [60, 20, 40, 20]]  # the masks of boxes are the boxes here
    ((number, mask),) = live.click([(20, 20)])
    assert number == 100
    assert (mask.left, mask.top, *mask.mask.shape) == (16, 16, 32, 32)
    assert live.detections(regions_from_masks(boxes, ids=[42, 7])).ids.tolist() == [42, 7, 100]
    assert live.clicked().ids.tolist() == [100]
    with pytest.raises(InputError, match="the request is empty"):
        live.click([])


def test_ids_of_everything_stay_and_a_clicked_object_takes_the_place_of_its_copy(segmenter: Segmenter) -> None:
    live = LiveSegmenter(segmenter)
    live.set_image(1, _show(segmenter, 16))
    first = live.everything()
    ((number, _),) = live.click([(20, 20)])
    assert number not in first.ids
    live.set_image(2, _show(segmenter, 20))
    second = live.everything()
    assert len(second) == len(first)
    assert number in second.ids
    assert set(second.ids) & set(first.ids)  # the background
    live.set_image(3, np.zeros((48, 64, 3), np.uint8))  # another camera
    assert number not in live.everything().ids
