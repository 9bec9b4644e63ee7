"""Masks of clicks, boxes and everything, by engines whose masks are known: pixels of the color of the click."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from color_segmenter import EXACT, SPEC, WEAK, WHOLE, with_everything, write_bundle

from osprey_ros import Describer, Segmenter
from osprey_ros.errors import EngineError, ImageError, InputError, StoppedError
from osprey_ros.regions.regions import Regions
from osprey_ros.segmenter.spec import EverythingSpec, SegmenterSpec
from osprey_ros.system.cancellation import CancellationToken

# Boxes x, y, width, height of three rectangles of one color each; the last one lies in the second.
RED, GREEN, BLUE = (16, 8, 32, 32), (64, 48, 48, 32), (80, 60, 20, 12)
CORNERS = 8  # pixels in which a mask may differ: bilinear interpolation cuts the corners of rectangles


def painted(scale: int = 1) -> np.ndarray:
    rgb = np.zeros((96, 128, 3), np.uint8)
    for (x, y, width, height), color in ((RED, (200, 30, 30)), (GREEN, (30, 200, 30)), (BLUE, (30, 30, 200))):
        rgb[y : y + height, x : x + width] = color
    return rgb.repeat(scale, axis=0).repeat(scale, axis=1)


def rectangle(box: tuple[int, int, int, int], shape: tuple[int, int] = (96, 128)) -> np.ndarray:
    mask = np.zeros(shape, np.bool_)
    x, y, width, height = box
    mask[y : y + height, x : x + width] = True
    return mask


def mask_of(regions: Regions, row: int = 0) -> np.ndarray:
    mask = np.zeros(regions.shape, np.bool_)
    x, y, width, height = regions.boxes[row]
    mask[y : y + height, x : x + width] = regions.crop(row)
    return mask


def difference(regions: Regions, expected: np.ndarray, row: int = 0) -> int:
    return int(np.count_nonzero(mask_of(regions, row) ^ expected))


def overlap(regions: Regions, expected: np.ndarray, row: int = 0) -> float:
    found = mask_of(regions, row)
    return np.count_nonzero(found & expected) / np.count_nonzero(found | expected)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    """A segmenter with a grid of clicks, and the image set."""
    made = Segmenter(write_bundle(tmp_path_factory.mktemp("color") / "grid"), threads=1)
    made.set_image(painted())
    return made


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Segmenter]:
    """Make a segmenter with other settings."""

    def made(spec: SegmenterSpec = SPEC, **options: Any) -> Segmenter:
        return Segmenter(write_bundle(tmp_path / "other", spec, **options), threads=1)

    return made


def test_a_click_gives_the_best_mask(segmenter: Segmenter) -> None:
    found = segmenter.segment(points=[[20, 30]])
    assert found.ids.tolist() == [1]
    assert found.scores.tolist() == [pytest.approx(EXACT)]
    assert difference(found, rectangle(RED)) <= CORNERS
    assert found.timing.regions > 0


def test_points_of_one_object_are_one_prompt_and_background_is_taken_away(segmenter: Segmenter) -> None:
    both = segmenter.segment(points=[[20, 30], [70, 50]])
    assert both.ids.tolist() == [1]
    assert difference(both, rectangle(RED) | rectangle(GREEN) & ~rectangle(BLUE)) <= 2 * CORNERS
    one = segmenter.segment(points=[[20, 30], [70, 50]], labels=[0, 1])
    assert difference(one, rectangle(GREEN) & ~rectangle(BLUE)) <= CORNERS


def test_a_box_and_a_box_with_a_point(segmenter: Segmenter) -> None:
    box = segmenter.segment(boxes=[60, 40, 60, 48])
    assert difference(box, rectangle((60, 40, 60, 48))) <= CORNERS
    point = segmenter.segment(boxes=[60, 40, 60, 48], points=[[70, 50]])
    assert difference(point, rectangle(GREEN) & ~rectangle(BLUE)) <= CORNERS


def test_many_prompts_at_once_are_as_each_alone(make: Callable[..., Segmenter]) -> None:
    segmenter = make(replace(SPEC, max_prompts=2))
    segmenter.set_image(painted())
    clicks = [[20, 30], [70, 50], [85, 65]]
    together = segmenter.segment(points=[[click] for click in clicks])
    assert together.ids.tolist() == [1, 2, 3]
    for row, click in enumerate(clicks):
        alone = segmenter.segment(points=[click])
        assert difference(together, mask_of(alone), row) == 0
    boxes = segmenter.segment(boxes=[RED, BLUE])
    assert [difference(boxes, rectangle(box), row) <= CORNERS for row, box in enumerate((RED, BLUE))] == [True, True]


def test_all_candidates_come_best_first(segmenter: Segmenter) -> None:
    found = segmenter.segment(points=[[[20, 30]], [[70, 50]]], all_candidates=True)
    assert found.ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert found.scores.tolist() == pytest.approx([EXACT, WEAK, WHOLE] * 2)
    assert found.areas[2] == found.areas[5] == 96 * 128
    assert difference(found, rectangle(GREEN) & ~rectangle(BLUE), row=3) <= CORNERS
    assert found.take(np.array([4, 0])).scores.tolist() == pytest.approx([WEAK, EXACT])


@pytest.mark.parametrize("resize", ["stretch", "pad"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "area"])
@pytest.mark.parametrize("portrait", [False, True])
@pytest.mark.parametrize("pixel_center", [0.0, 0.5])
def test_images_of_other_sizes(
    make: Callable[..., Segmenter], resize: str, interpolation: str, portrait: bool, pixel_center: float
) -> None:
    segmenter = make(replace(SPEC, resize=resize, interpolation=interpolation, pixel_center=pixel_center))
    rgb, red, click = painted(3), rectangle((48, 24, 96, 96), (288, 384)), [130, 110]
    if portrait:
        rgb, red, click = rgb.swapaxes(0, 1), red.T, click[::-1]
    segmenter.set_image(painted())  # leaves nothing behind
    segmenter.set_image(rgb)
    found = segmenter.segment(points=[click])
    assert found.shape == rgb.shape[:2]
    # A padded portrait image has 72 of the 128 columns: 16 pixels for one of a mask.
    assert overlap(found, red) > (0.8 if portrait else 0.97)
    for axis in (0, 1):  # in place
        middles = [np.nonzero(mask)[axis].mean() for mask in (mask_of(found), red)]
        assert abs(middles[0] - middles[1]) < 2


def test_a_decoder_with_a_fixed_number_of_points(make: Callable[..., Segmenter]) -> None:
    segmenter = make(replace(SPEC, max_points=3))
    segmenter.set_image(painted())
    assert difference(segmenter.segment(points=[[20, 30]]), rectangle(RED)) <= CORNERS
    assert difference(segmenter.segment(boxes=RED, points=[[20, 30]]), rectangle(RED)) <= CORNERS
    assert len(segmenter.segment_everything()) == 4
    with pytest.raises(InputError, match=r"a prompt has 4 points .two of them for a box. and the segmenter takes 3"):
        segmenter.segment(boxes=RED, points=[[20, 30], [21, 31]])


def test_everything_by_a_grid(segmenter: Segmenter) -> None:
    found = segmenter.segment_everything()
    assert found.ids.tolist() == [1, 2, 3, 4]
    background = ~(rectangle(RED) | rectangle(GREEN))
    expected = [background, rectangle(RED), rectangle(GREEN) & ~rectangle(BLUE), rectangle(BLUE)]
    rows = [next(row for row in range(4) if difference(found, mask, row) <= 2 * CORNERS) for mask in expected]
    assert sorted(rows) == [0, 1, 2, 3]


def test_everything_by_objectness_clicks_once_on_each_object(make: Callable[..., Segmenter]) -> None:
    segmenter = make(objectness=True)
    segmenter.set_image(painted())
    found = segmenter.segment_everything()
    expected = [rectangle(RED), rectangle(GREEN) & ~rectangle(BLUE), rectangle(BLUE)]
    assert len(found) == 3  # the background has no objectness
    for mask in expected:
        assert min(difference(found, mask, row) for row in range(3)) <= CORNERS
    # Cells inside a mask are not clicked, so that a few of the 60 cells with objectness are enough.
    few = segmenter.segment_everything(replace(SPEC.everything, batch=1, max_prompts=12))
    assert sorted(few.areas.tolist()) == sorted(found.areas.tolist())


def test_a_padded_image_is_clicked_inside_only(make: Callable[..., Segmenter]) -> None:
    segmenter = make(replace(SPEC, resize="pad"), objectness=True)
    segmenter.set_image(painted()[:48])  # 128 x 48: the lower half of the input is padding
    found = segmenter.segment_everything()
    assert found.shape == (48, 128)
    assert [difference(found, rectangle(RED, (48, 128))) <= CORNERS] == [True]


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"min_score": 0.96}, 0),
        ({"min_stability": 0.0}, 4),  # the weak masks are duplicates of the exact ones
        ({"min_stability": 0.0, "min_score": 0.2, "max_overlap": 0.9}, 5),  # and the whole image
        ({"min_stability": 0.0, "min_score": 0.2, "all_candidates": False}, 4),
        ({"min_stability": 0.0, "max_overlap": 1.0, "points_per_side": 2, "max_regions": 7}, 7),
        ({"max_regions": 2}, 2),
        ({"min_area": 500}, 3),
        ({"min_area": 5000}, 1),
        ({"batch": 7}, 4),
    ],
)
def test_what_everything_keeps(segmenter: Segmenter, changes: dict[str, Any], count: int) -> None:
    settings = replace(SPEC.everything, **changes)
    if "points_per_side" in changes:  # four clicks on background and red, each with two masks
        settings = replace(settings, min_area=0)
    assert len(segmenter.segment_everything(settings)) == count


def test_small_holes_are_filled_and_small_islands_removed(make: Callable[..., Segmenter]) -> None:
    segmenter = make(with_everything(min_area=64))
    rgb = np.zeros((96, 128, 3), np.uint8)
    rgb[8:72, 8:72] = 200  # with a hole of 16 and one of 144 pixels
    rgb[20:24, 20:24] = rgb[40:52, 40:52] = 90
    rgb[80:84, 100:104] = rgb[20:36, 100:116] = 200  # islands of 16 and 256 pixels
    expected = rectangle((8, 8, 64, 64)) & ~rectangle((40, 40, 12, 12)) | rectangle((100, 20, 16, 16))
    segmenter.set_image(rgb)
    assert difference(segmenter.segment(points=[[10, 10]]), expected) <= 2 * CORNERS
    settings = EverythingSpec(points_per_side=16, min_score=0.5, min_area=0)
    found = segmenter.segment_everything(settings)
    exact = (rgb == 200).all(axis=2)
    assert min(difference(found, exact, row) for row in range(len(found))) <= 3 * CORNERS


def test_a_describer_takes_the_regions(segmenter: Segmenter) -> None:
    with Describer(Path(__file__).parents[2] / "engines" / "nano", threads=1) as describer:
        describer.set_image(painted())
        words = describer.describe(segmenter.segment_everything())
    assert [one.region_id for one in words] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "there is no prompt; give points or boxes"),
        ({"labels": [1]}, "labels and no points"),
        ({"points": [[128, 4]]}, "the point 128, 4 is outside the image of 128x96 pixels"),
        ({"points": [[4, -1]]}, "the point 4, -1 is outside"),
        ({"points": [4, 5]}, r"points have shape \(2,\); give x and y in pixels"),
        ({"points": [[4, 5, 6]]}, r"points have shape \(1, 3\)"),
        ({"points": [[4, float("nan")]]}, "points are not finite"),
        ({"points": [[4, 5], [6]]}, "points are not numbers, or differ in their count"),
        ({"points": [[4, 5]], "labels": [0]}, "no point on its object"),
        ({"points": [[4, 5]], "labels": [2]}, "a label is not 0 or 1"),
        ({"points": [[4, 5]], "labels": [1, 1]}, r"labels have shape \(1, 2\), points \(1, 1\)"),
        ({"boxes": [4, 5, 6]}, r"boxes have shape \(1, 3\)"),
        ({"boxes": [200, 5, 6, 6]}, "the box 200, 5, 6, 6 .* has no pixel of the image of 128x96"),
        ({"boxes": [4, 5, 6, 0]}, "has no pixel"),
        ({"boxes": [RED, BLUE], "points": [[20, 30]]}, "points of 1 objects and 2 boxes"),
    ],
)
def test_prompts_that_cannot_be_used(segmenter: Segmenter, prompt: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        segmenter.segment(**prompt)


def test_order_of_calls(make: Callable[..., Segmenter]) -> None:
    with make() as segmenter:
        with pytest.raises(InputError, match="no image is set: call set_image first"):
            segmenter.segment_everything()
        with pytest.raises(ImageError, match="an image must be a uint8 array"):
            segmenter.set_image(np.zeros((4, 4), np.uint8))
        canceled = CancellationToken()
        canceled.cancel()
        with pytest.raises(StoppedError):
            segmenter.set_image(painted(), cancel=canceled)
        with pytest.raises(InputError, match="no image is set"):
            segmenter.segment(points=[[1, 1]])
        segmenter.set_image(painted())
        assert segmenter.image_timing.vision > 0
        with pytest.raises(StoppedError):
            segmenter.segment_everything(cancel=canceled)
    with pytest.raises(InputError, match="the segmenter is closed"):
        segmenter.segment(points=[[1, 1]])


def test_values_that_are_not_finite_are_an_error(make: Callable[..., Segmenter]) -> None:
    segmenter = make(replace(SPEC, image_mean=(3e38, 0.0, 0.0)))
    with pytest.raises(EngineError, match="the segmenter encoder engine returned values that are not finite"):
        segmenter.set_image(painted())
