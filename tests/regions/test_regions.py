"""Regions: both forms equal the published formula at any size, and input that is none is named."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from osprey_ros.errors import RegionError
from osprey_ros.regions.pooling import MaskPooler
from osprey_ros.regions.regions import Regions, as_regions, regions_from_id_image, regions_from_masks

SIZES = [(48, 48), (24, 24), (12, 12), (6, 6)]


def _published(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The masks [N, H, W] resized as the published extractor does it, float32 [N, h, w]."""
    tensor = torch.from_numpy(masks.astype(np.float32))[None]
    return torch.nn.functional.interpolate(tensor, size, mode="bilinear", align_corners=False)[0].numpy()


def _check_formula(regions: Regions, masks: np.ndarray, sizes: list[tuple[int, int]], grid: int) -> None:
    for size, ours in zip(sizes, regions.pooling_masks(sizes), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, _published(masks, size) > 0)
    np.testing.assert_allclose(regions.position_grids(grid), _published(masks, (grid, grid)), rtol=0, atol=2e-7)


def _stack(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids == region for region in np.unique(ids[ids > 0])])


def _blobs(height: int, width: int, seed: int) -> np.ndarray:
    """An id image uint16 of rectangles, some thin, laid over one another."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((height, width), np.uint16)
    for region in range(1, 10):
        y, x = rng.integers(0, height), rng.integers(0, width)
        ids[y : y + rng.integers(1, height // 2 + 2), x : x + rng.integers(1, width // 2 + 2)] = region * 7
    return ids


@pytest.mark.parametrize(
    ("shape", "grid"),
    [((240, 320), 28), ((97, 131), 112), ((480, 640), 112), ((50, 33), 56), ((12, 12), 12), ((5, 3), 112), ((1, 9), 7)],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_both_forms_equal_the_formula(shape: tuple[int, int], grid: int, seed: int) -> None:
    ids = _blobs(*shape, seed)
    masks = _stack(ids)
    sizes = [*SIZES, (128, 128), (16, 40)]
    _check_formula(regions_from_id_image(ids), masks, sizes, grid)
    _check_formula(regions_from_masks(masks), masks, sizes, grid)


@pytest.mark.parametrize("target", [6, 12, 28, 48, 112, 128])
def test_every_source_size_counts_the_same_pixels(target: int) -> None:
    # One-pixel regions along each axis: which output pixels they touch depends on the last bit of source positions.
    for length in (*range(1, 60), 240, 320, 471, 480, 639, 640, 719, 720, 1279, 1280):
        ids = np.arange(1, length + 1, dtype=np.int32)[None]
        ours = regions_from_id_image(ids, masks_anyway=True).pooling_masks([(1, target)])[0]
        expected = _published(np.eye(length, dtype=bool)[:, None], (1, target)) > 0
        np.testing.assert_array_equal(ours, expected, err_msg=f"{length} to {target}")


@pytest.mark.parametrize("shape", [(240, 320), (97, 131)])
def test_odd_masks(shape: tuple[int, int]) -> None:
    height, width = shape
    odd = {name: np.zeros(shape, bool) for name in ("pixel", "corner", "row", "column", "whole", "empty", "checker")}
    odd["pixel"][height // 3, width // 2] = True
    odd["corner"][-1, -1] = True
    odd["row"][height // 2] = True
    odd["column"][:, 1] = True
    odd["whole"][:] = True
    odd["checker"][::2, 1::2] = True
    masks = np.stack(list(odd.values()))
    _check_formula(regions_from_masks(masks), masks, SIZES, 28)
    for name, mask in odd.items():
        if name != "empty":
            _check_formula(regions_from_id_image(mask.astype(np.uint8)), mask[None], SIZES, 28)


def _overlapping(height: int, width: int, count: int, seed: int) -> np.ndarray:
    """Discs with holes anywhere, most of them over others, and one empty mask: bool [count, height, width]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    away = [np.hypot(y - rng.uniform(0, height), x - rng.uniform(0, width)) for _ in range(count)]
    masks = np.stack([(r < rng.uniform(2, height)) & (rng.random(r.shape) < 0.9) for r in away])
    masks[count // 2] = False
    return masks


@pytest.mark.parametrize("count", [3, 300])  # 300 labels do not fit 8 bits
def test_masks_that_overlap_equal_the_formula_mask_by_mask(count: int) -> None:
    masks = _overlapping(60, 80, count, seed=count)
    regions = regions_from_masks(masks)
    _check_formula(regions, masks, [(12, 12), (6, 6)], 14)
    for row, mask in enumerate(masks):
        x, y, width, height = regions.boxes[row]
        np.testing.assert_array_equal(regions.crop(row), mask[y : y + height, x : x + width])
        assert regions.areas[row] == mask.sum()
    chosen = regions.select([count, 1])
    _check_formula(chosen, masks[[count - 1, 0]], [(12, 12)], 14)


def test_both_forms_are_equal_to_the_last_bit() -> None:
    ids = _blobs(239, 317, seed=5)
    one, other = regions_from_id_image(ids), regions_from_masks(_stack(ids))
    np.testing.assert_array_equal(one.position_grids(112), other.position_grids(112))
    for first, second in zip(one.pooling_masks(SIZES), other.pooling_masks(SIZES), strict=True):
        np.testing.assert_array_equal(first, second)


def test_grids_used_again_hold_nothing_of_earlier_images() -> None:
    grids = MaskPooler(SIZES, 28)
    overlapping = _overlapping(120, 90, 6, seed=1)
    many, few = _blobs(97, 131, 0), np.zeros((97, 131), np.int32)
    few[20:60, 30:100] = 4
    wide = np.arange(1, 7 * 11 + 1).reshape(7, 11)  # more regions than there was memory for, and another size
    images = (
        (regions_from_id_image(many), _stack(many)),
        (regions_from_id_image(few), _stack(few)),
        (regions_from_masks(overlapping), overlapping),
        (regions_from_id_image(wide, masks_anyway=True), _stack(wide)),
        (regions_from_id_image(few), _stack(few)),
        (regions_from_id_image(many), _stack(many)),
    )
    for regions, masks in images:
        *pooling, positions = grids.pool(regions)
        for size, ours in zip(SIZES, pooling, strict=True):
            assert ours.flags.c_contiguous
            np.testing.assert_array_equal(ours, _published(masks, size) > 0)
        np.testing.assert_allclose(positions, _published(masks, (28, 28)), rtol=0, atol=2e-7)


def test_grids_for_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one size"):
        MaskPooler([])


def test_regions_outlive_the_array_they_came_from() -> None:
    ids = _blobs(50, 70, 6)
    masks = _stack(ids)
    expected = masks.copy()
    regions = (regions_from_id_image(ids), regions_from_masks(masks))
    ids[:], masks[:] = 0, False
    for one in regions:
        _check_formula(one, expected, [(12, 12)], 9)


def test_thin_masks_vanish_at_coarse_levels_and_are_kept() -> None:
    ids = np.zeros((240, 320), np.uint8)
    ids[0, :] = 1  # the first row is between the source rows of every coarse level
    ids[100:200, 100:200] = 2
    fine, coarse = regions_from_id_image(ids).pooling_masks([(240, 320), (12, 12)])
    assert fine[0].sum() == 320
    assert coarse[0].sum() == 0
    assert coarse[1].sum() > 0


def test_empty_mask_in_a_stack_is_all_zero() -> None:
    masks = np.zeros((2, 20, 30), np.uint8)
    masks[1, 4:9, 5:7] = 255
    regions = regions_from_masks(masks)
    assert len(regions) == 2
    assert regions.pooling_masks([(8, 8)])[0][0].sum() == 0
    assert regions.position_grids(8)[0].sum() == 0
    np.testing.assert_array_equal(regions.areas, [0, 10])
    np.testing.assert_array_equal(regions.boxes, [[0, 0, 0, 0], [5, 4, 2, 5]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_ids_areas_boxes_and_crops(dtype: type) -> None:
    ids = np.zeros((30, 40), dtype)
    ids[2:5, 3:9] = 9
    ids[20, 39] = 9  # a second piece of the same region
    ids[10:20, 5:6] = 200
    for regions in (regions_from_id_image(ids), regions_from_masks(_stack(ids), ids=[9, 200])):
        assert regions.shape == (30, 40)
        np.testing.assert_array_equal(regions.ids, [9, 200])
        np.testing.assert_array_equal(regions.areas, [19, 10])
        np.testing.assert_array_equal(regions.boxes, [[3, 2, 37, 19], [5, 10, 1, 10]])
        assert (regions.ids.dtype, regions.areas.dtype, regions.boxes.dtype) == (np.int32, np.int64, np.int32)
        np.testing.assert_array_equal(regions.crop(0), ids[2:21, 3:40] == 9)
        assert regions.crop(1).all()


def test_id_images_with_wide_ids_and_negative_background() -> None:
    ids = np.full((6, 8), -1, np.int32)
    ids[1, 2:5] = 2_000_000_000
    ids[3:5, 4] = 70_000
    regions = regions_from_id_image(ids)
    np.testing.assert_array_equal(regions.ids, [70_000, 2_000_000_000])
    _check_formula(regions, _stack(ids), [(4, 4)], 5)


def test_many_regions_keep_their_labels() -> None:
    ids = np.arange(1, 30 * 40 + 1, dtype=np.int32).reshape(30, 40)
    _check_formula(regions_from_id_image(ids, masks_anyway=True), _stack(ids), [(12, 12)], 9)


def test_a_view_of_an_id_image_is_taken_and_not_changed() -> None:
    whole = _blobs(64, 80, 3)
    view = whole[5:50, 7:70:2]
    before = view.copy()
    _check_formula(regions_from_id_image(view), _stack(before), [(12, 12)], 9)
    np.testing.assert_array_equal(view, before)


def test_select_keeps_the_order_asked_for() -> None:
    ids = _blobs(60, 90, 4)
    for regions in (regions_from_id_image(ids), regions_from_masks(_stack(ids), ids=np.unique(ids[ids > 0]))):
        wanted = [int(regions.ids[4]), int(regions.ids[0]), int(regions.ids[2])]
        chosen = regions.select(wanted)
        np.testing.assert_array_equal(chosen.ids, wanted)
        _check_formula(chosen, np.stack([ids == region for region in wanted]), SIZES, 28)
        np.testing.assert_array_equal(chosen.select(wanted[1:2]).areas, [(ids == wanted[1]).sum()])
        with pytest.raises(RegionError, match="no region has id 5; choose from 7,"):
            regions.select([5])
        with pytest.raises(RegionError, match="at least one id"):
            regions.select([])
        with pytest.raises(RegionError, match=f"id {wanted[0]} is given more than once"):
            regions.select([wanted[0], wanted[1], wanted[0]])
        with pytest.raises(RegionError, match=f"no region has id {2**70}"):
            regions.select([2**70])


def test_only_and_min_area_filter() -> None:
    ids = np.zeros((10, 10), np.uint8)
    ids[0, :3], ids[2, :5], ids[4, :7] = 1, 2, 3
    np.testing.assert_array_equal(regions_from_id_image(ids, min_area=5).ids, [2, 3])
    np.testing.assert_array_equal(regions_from_id_image(ids, only=[3, 1, 99, 2**70]).ids, [1, 3])
    with pytest.raises(RegionError, match="no region of ids 1, 2, 3 is left"):
        regions_from_id_image(ids, min_area=8)


def test_as_regions_takes_every_form() -> None:
    ids = np.zeros((10, 12), np.uint8)
    ids[2:4, 3:7] = 5
    regions = as_regions(ids)
    assert as_regions(regions) is regions
    for form in (ids == 5, (ids == 5)[None], ids[None]):
        np.testing.assert_array_equal(as_regions(form).areas, [8])


BOX = np.zeros((10, 12), bool)
BOX[2:4, 3:7] = True
SCORES = np.where(BOX, 3.5, -7.25)


class Tensor:
    """Converts to an array as a PyTorch tensor with a gradient does: only after `detach`."""

    def __init__(self, values: np.ndarray, attached: bool = True) -> None:
        self.values, self.attached = values, attached

    def detach(self) -> Tensor:
        return Tensor(self.values, attached=False)

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        if self.attached:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return self.values


@pytest.mark.parametrize(
    "form",
    [
        BOX.astype(np.float32)[None],
        BOX[None].astype(np.int64),
        255.0 * BOX[None],
        np.where(BOX, 0.9, 0.2)[None],
        np.where(BOX, 0.9, 0.2),
        SCORES[None],
        SCORES[None, None],
        BOX[:, :, None].transpose(2, 0, 1)[None],
        BOX.astype(np.float64) * 5,  # an id image of floats
        Tensor(SCORES[None, None]),
        [BOX],
        [{"segmentation": BOX, "area": 8, "bbox": [3, 2, 4, 2], "predicted_iou": 0.9}],
        [{"segmentation": {"size": [10, 12], "counts": [32, 2, 8, 2, 8, 2, 8, 2, 56]}}],
    ],
)
def test_masks_are_taken_in_the_forms_in_which_models_return_them(form: object) -> None:
    regions = as_regions(form)
    np.testing.assert_array_equal(regions.boxes, [[3, 2, 4, 2]])
    np.testing.assert_array_equal(regions.areas, [8])


def test_many_masks_with_an_axis_of_one_stay_apart() -> None:
    masks = np.stack([np.roll(BOX, shift, axis=0) for shift in range(3)]).astype(np.float32)
    for form in (masks[:, None], masks[None]):
        regions = as_regions(form)
        assert regions.boxes[:, 1].tolist() == [2, 3, 4]


def test_compressed_run_lengths_are_those_of_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(3)
    for height, width in ((1, 1), (7, 5), (40, 300)):
        for share in (0.0, 0.03, 0.5, 1.0):
            mask = rng.random((height, width)) < share
            mask[0, 0] = True
            encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
            for counts in (encoded["counts"], encoded["counts"].decode()):
                regions = as_regions([{"segmentation": {"size": [height, width], "counts": counts}}])
                assert regions.areas.tolist() == [mask.sum()]
                x, y, w, h = regions.boxes[0]
                np.testing.assert_array_equal(regions.crop(0), mask[y : y + h, x : x + w])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"area": 4}, "it has no 'segmentation'"),
        ({"segmentation": {"counts": [1]}}, r"need 'size' \(\[height, width\]\) and 'counts'"),
        ({"segmentation": {"size": [10, 12], "counts": [3, 4]}}, "add up to 7 pixels"),
        ({"segmentation": {"size": [10, 12], "counts": "~~~"}}, "compressed run lengths are damaged"),
        ({"segmentation": {"size": [10, 12], "counts": ["a"]}}, "not whole numbers"),
        (BOX[:5], "it is 12x5 pixels, mask 1 is 12x10"),
        (None, r"must be an array \[height, width\] or run lengths, not NoneType"),
    ],
)
def test_a_bad_mask_of_a_list_is_named_and_the_others_are_taken(
    bad: object, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    regions = regions_from_masks([{"segmentation": BOX}, bad, {"segmentation": ~BOX}])
    assert regions.ids.tolist() == [1, 3]
    assert regions_from_masks([BOX, bad, ~BOX], ids=[7, 8, 9]).ids.tolist() == [7, 9]
    assert re.search(f"mask 2 of the list: .*{reason}.*; it is left out", caplog.messages[0])
    with pytest.raises(RegionError, match="mask 1 of the list"):
        as_regions([bad] if not isinstance(bad, np.ndarray) else [bad[0]])


def test_speckles_and_backgrounds_are_looked_at_in_arrays(caplog: pytest.LogCaptureFixture) -> None:
    ids = np.zeros((60, 80), np.int32)
    ids[0, :65] = np.arange(1, 66)
    for read in (as_regions, regions_from_id_image):
        with pytest.raises(RegionError, match="65 of the 65 ids"):
            read(ids)
    assert len(regions_from_id_image(ids, masks_anyway=True)) == 65
    assert not caplog.records
    for background in (5, -1):
        ids = np.full((60, 80), background)
        ids[10:20, 10:20] = 0
        ids[30:40, 10:20] = 1
        as_regions(ids)
        as_regions(ids)
    (line,) = caplog.messages
    assert "0 is taken for the background but covers only 2.1 % of the id image, and id 5 covers 96 %" in line


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((4, 5), np.uint16), "every pixel is background"),
        (np.zeros((4, 5), np.float32), "every pixel is background"),
        (np.full((4, 5), np.nan, np.float32), "a value is NaN or infinite"),
        (np.zeros(5, np.uint8), r"not uint8 \[5\]"),
        (np.zeros((0, 5), np.uint8), "5x0"),
        (np.zeros((3, 4, 5), bool), "all 3 masks are empty"),
        (np.zeros((0, 4, 5), bool), "0 masks"),
        (np.linspace(0, 99, 60).reshape(3, 4, 5), "float masks have values from 0 to 99; give 0 and 1, probabilities"),
        (np.ones((2, 3, 4, 5), bool), r"not bool \[2, 3, 4, 5\]"),
        (np.ones((3, 4, 5), complex), r"not complex128 \[3, 4, 5\]"),
        (np.full((2, 2), 2**40), "id 1099511627776 of the id image does not fit 32 bits"),
        (np.full((2, 2), 2**63 + 5, np.uint64), "id 9223372036854775813 of the id image does not fit 32 bits"),
        (np.array([[1, 2**64 - 1]], np.uint64), "id 18446744073709551615 of the id image does not fit 32 bits"),
        ([[0, 1]], r"mask 1 of the list: a mask must be an array \[height, width\] or run lengths, not list"),
        ([], "the list is empty"),
        ("masks.png", "not str"),
    ],
)
def test_arrays_without_regions(value: np.ndarray, message: str) -> None:
    with pytest.raises(RegionError, match=message):
        as_regions(value)


def test_ids_of_a_stack_must_be_as_many_and_different() -> None:
    masks = np.ones((2, 3, 4), bool)
    for ids in ([1], [4, 4], [1, 2, 3]):
        with pytest.raises(RegionError, match="2 masks need as many different ids"):
            regions_from_masks(masks, ids=ids)


@pytest.mark.parametrize("wrong", [0, -3, 2**31, 1_718_000_000_000_000_000, 2**70, np.uint64(2**63 + 1)])
def test_ids_of_a_stack_must_be_positive_and_fit_32_bits(wrong: int) -> None:
    with pytest.raises(RegionError, match=f"must be 1 to 2147483647.*not {wrong}$"):
        regions_from_masks(np.ones((2, 3, 4), bool), ids=[4, wrong])
    np.testing.assert_array_equal(regions_from_masks(np.ones((1, 3, 4), bool), ids=[2**31 - 1]).ids, [2**31 - 1])
