"""Overlays: regions are tinted, outlined and labeled; everything else stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFont

from osprey_ros.errors import RegionError
from osprey_ros.regions.regions import regions_from_id_image, regions_from_masks
from osprey_ros.viz import overlay as draw
from osprey_ros.viz.overlay import TINT, color_of, overlay

GRAY = np.full((120, 160, 3), 100, np.uint8)


def _ids() -> np.ndarray:
    ids = np.zeros((120, 160), np.uint8)
    ids[40:80, 30:70] = 4
    ids[50:60, 100:130] = 5
    return ids


def test_regions_are_tinted_in_their_color_and_the_rest_is_untouched() -> None:
    ids, before = _ids(), GRAY.copy()
    drawn = overlay(GRAY, regions_from_id_image(ids), ["", ""])
    np.testing.assert_array_equal(GRAY, before)
    np.testing.assert_array_equal(drawn[ids == 0], GRAY[ids == 0])
    for region in (4, 5):
        color = np.array(color_of(region))
        ys, xs = np.nonzero(ids == region)
        np.testing.assert_array_equal(drawn[ys.min(), xs.min()], color)  # outline
        np.testing.assert_allclose(drawn[ys.min() + 3, xs.min() + 3], (1 - TINT) * 100 + TINT * color, atol=1)
    assert np.abs(np.subtract(color_of(4), color_of(5))).sum() > 100


def test_labels_are_inside_the_image_even_at_its_corners() -> None:
    ids = np.zeros((120, 160), np.uint8)
    ids[0:4, 0:4], ids[116:, 156:] = 1, 2
    plain = overlay(GRAY, regions_from_id_image(ids), ["", ""])
    labeled = overlay(GRAY, regions_from_id_image(ids), ["mug", "bowl"])
    changed = (plain != labeled).any(axis=2)
    assert changed[:40, :60].sum() > 150
    assert changed[80:, 100:].sum() > 150
    assert not changed[45:75].any()


def test_long_labels_are_cut_and_labels_do_not_hide_each_other() -> None:
    ids = np.zeros((240, 320), np.uint8)
    ids[100:110, 100:110], ids[100:110, 112:122] = 1, 2
    image = np.full((240, 320, 3), 100, np.uint8)
    text = "a very long description of a small red mug that stands on a table " * 10
    boxes = []
    for labels in ([text, ""], ["", text], [text, text]):
        drawn = overlay(image, regions_from_id_image(ids), labels)
        boxes.append((drawn == 20).all(axis=2).sum())
    assert boxes[2] > 0.9 * (boxes[0] + boxes[1])
    assert boxes[0] < 240 * 320 / 4


def test_a_word_longer_than_a_line_is_broken() -> None:
    ids = np.zeros((240, 640), np.uint8)
    ids[100:110, 300:310] = 1
    image = np.full((240, 640, 3), 100, np.uint8)
    drawn = overlay(image, regions_from_id_image(ids), ["x" * 300])
    label = (drawn == 20).all(axis=2)
    assert 60 < label.any(axis=0).sum() < 320
    assert label.any(axis=1).sum() > 25


def test_overlapping_masks_and_scale() -> None:
    masks = np.zeros((2, 120, 160), bool)
    masks[0, 20:90, 20:90] = True
    masks[1, 60:110, 60:150] = True
    drawn = overlay(GRAY, regions_from_masks(masks), ["", ""], scale=3)
    assert drawn.shape == (360, 480, 3)
    np.testing.assert_array_equal(drawn[60, 60], color_of(1))
    np.testing.assert_array_equal(drawn[0, 0], [100, 100, 100])


def test_a_mask_without_pixels_is_passed_over() -> None:
    masks = np.zeros((2, 120, 160), bool)
    masks[1, 40:80, 30:70] = True
    regions = regions_from_masks(masks)
    assert regions.areas.tolist() == [0, 1600]
    drawn = overlay(GRAY, regions, ["nothing", ""], scale=2)
    np.testing.assert_array_equal(drawn, overlay(GRAY, regions_from_masks(masks[1:], ids=[2]), [""], scale=2))


def test_the_font_without_freetype_writes_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    bitmap = getattr(ImageFont, "load_default_imagefont", ImageFont.load_default)()
    monkeypatch.setattr(draw, "_font", lambda size: bitmap)
    regions = regions_from_id_image(_ids())
    drawn = overlay(GRAY, regions, ["a caf\u00e9 \u2615", ""])
    np.testing.assert_array_equal(drawn, overlay(GRAY, regions, ["a caf\u00e9 ?", ""]))
    assert (drawn != overlay(GRAY, regions, ["", ""])).any()


def test_what_does_not_belong_together_is_refused() -> None:
    regions = regions_from_id_image(_ids())
    with pytest.raises(RegionError, match="2 regions need as many labels, not 1"):
        overlay(GRAY, regions, ["a"])
    with pytest.raises(RegionError, match="160x120 pixels, the image is 80x120"):
        overlay(GRAY[:, ::2], regions, ["a", "b"])
