"""Draw overlay images: each region tinted and outlined in its color, with a label beside it."""

from __future__ import annotations

import colorsys
import textwrap
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from osprey_ros.errors import RegionError
from osprey_ros.regions.geometry import box_intersection
from osprey_ros.regions.regions import Regions
from osprey_ros.vision.image_io import check_rgb

TINT = 0.18  # share of the region's color: little, because descriptions often name the object's own color
LINE_LENGTH = 28  # characters; longer labels are wrapped and longer words are broken
MAX_LINES = 3
_GOLDEN_RATIO = 0.61803398875  # steps of it are spread evenly over the color circle
_BACKGROUND, _TEXT_COLOR = (20, 20, 20), (255, 255, 255)  # of a label
_MARGIN = 3  # pixels between the text and the edge of a label
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def overlay(
    rgb: np.ndarray,
    regions: Regions,
    labels: Sequence[str],
    scale: int = 1,
    color_ids: Sequence[int] | None = None,
) -> np.ndarray:
    """Return a copy of an image with labeled regions.

    Args:
        rgb: Image, uint8 [H, W, 3].
        regions: Regions of the image. Those without pixels are skipped.
        labels: One text for each region, "" for none. Long ones are wrapped and cut.
        scale: Factor by which small images are enlarged, so that labels have room.
        color_ids: An id for each region, which selects its color, such as the track id of its object. By default the
            ids of the regions.

    Returns:
        uint8 [H * scale, W * scale, 3].

    Raises:
        RegionError: The regions have another size, or the number of labels or ids differs.
    """
    check_rgb(rgb)
    size = (rgb.shape[1] * scale, rgb.shape[0] * scale)
    canvas = rgb.copy() if scale == 1 else np.array(Image.fromarray(np.ascontiguousarray(rgb)).resize(size))
    draw_regions(canvas, regions, labels, scale, color_ids)
    return canvas


def draw_regions(
    canvas: np.ndarray,
    regions: Regions,
    labels: Sequence[str],
    scale: int = 1,
    color_ids: Sequence[int] | None = None,
) -> None:
    """Draw labeled regions in place on an image, uint8 [H * scale, W * scale, 3]. Arguments as in `overlay`."""
    height, width = canvas.shape[:2]
    if (regions.shape[0] * scale, regions.shape[1] * scale) != (height, width):
        raise RegionError(
            f"the regions are {regions.shape[1]}x{regions.shape[0]} pixels, "
            f"the image is {width // scale}x{height // scale}"
        )
    if len(labels) != len(regions):
        raise RegionError(f"{len(regions)} regions need as many labels, not {len(labels)}")
    if color_ids is None:
        color_ids = regions.ids.tolist()
    if len(color_ids) != len(regions):
        raise RegionError(f"{len(regions)} regions need as many color ids, not {len(color_ids)}")
    colors = [color_of(int(number)) for number in color_ids]
    outline = max(1, min(height, width) // 240)
    drawn = regions.areas > 0
    for row in np.flatnonzero(drawn).tolist():
        mask = regions.crop(row).repeat(scale, axis=0).repeat(scale, axis=1)
        _paint(canvas, mask, regions.boxes[row] * scale, colors[row], outline)

    font = _font(max(11, min(height, width) // 45))
    taken: list[tuple[int, int, int, int]] = []
    # Small regions first: large ones have more places for their label.
    for row in np.argsort(regions.areas, kind="stable"):
        if labels[row] and drawn[row]:
            label = _label(_wrapped(labels[row]), font, colors[row])[:height, :width]
            box = _place(label.shape[:2], regions.boxes[row] * scale, (width, height), taken)
            x, y, wide, tall = box
            canvas[y : y + tall, x : x + wide] = label
            taken.append(box)


def color_of(number: int) -> tuple[int, int, int]:
    """Return the color of an id as RGB, 0 to 255. Neighboring ids have colors that differ clearly."""
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN_RATIO % 1.0, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _paint(canvas: np.ndarray, mask: np.ndarray, box: np.ndarray, color: tuple[int, int, int], outline: int) -> None:
    """Tint and outline a region in place. ``mask`` is its mask inside ``box``, ``outline`` a width in pixels."""
    x, y, width, height = (int(v) for v in box)
    part = canvas[y : y + height, x : x + width]
    inside = mask.view(np.uint8)
    # Everything outside of the box is outside of the region, so edges of the box are outlines too.
    eroded = cv2.erode(inside, _CROSS, iterations=outline, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    tinted = cv2.addWeighted(part, 1 - TINT, np.full(part.shape, color, np.uint8), TINT, 0)
    cv2.copyTo(tinted, eroded, part)
    part[inside > eroded] = color


def _wrapped(label: str) -> str:
    return "\n".join(textwrap.wrap(label, LINE_LENGTH, max_lines=MAX_LINES, placeholder=" ..."))


def _place(
    size: tuple[int, int], box: np.ndarray, image: tuple[int, int], taken: Sequence[tuple[int, int, int, int]]
) -> tuple[int, int, int, int]:
    """Return the box x, y, width, height for a label of ``size`` (height, width).

    It lies inside the image (width, height), near its region, with the least overlap of the labels that are ``taken``.
    """
    height, width = size
    x, y, region_width, region_height = (int(v) for v in box)
    middle = x + (region_width - width) // 2
    choices = [
        (middle, y - height),
        (middle, y + region_height),
        (middle, y + (region_height - height) // 2),
        (x + region_width, y + (region_height - height) // 2),
        (x - width, y + (region_height - height) // 2),
        (middle, y - 2 * height),
        (middle, y + region_height + height),
    ]
    best, best_cost = (0, 0, width, height), float("inf")
    others = np.array(taken, dtype=np.intp).reshape(-1, 4)
    for wanted_left, wanted_top in choices:
        a = max(0, min(wanted_left, image[0] - width))
        b = max(0, min(wanted_top, image[1] - height))
        place = (a, b, width, height)
        common = int(box_intersection(np.array(place), others).sum())
        cost = common + abs(a - wanted_left) + abs(b - wanted_top)
        if cost < best_cost:
            best, best_cost = place, cost
    return best


def _label(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, color: tuple[int, int, int]) -> np.ndarray:
    """Return a text on a dark background with a frame in the color, uint8 [height, width, 3]."""
    if not isinstance(font, ImageFont.FreeTypeFont):  # the bitmap font has only the characters of Latin-1
        text = text.encode("latin-1", "replace").decode("latin-1")
    left, top, right, bottom = _text_box(ImageDraw.Draw(Image.new("RGB", (1, 1))), font, text)
    image = Image.new("RGB", (int(right - left) + 2 * _MARGIN, int(bottom - top) + 2 * _MARGIN), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, image.width - 1, image.height - 1), outline=color)
    draw.multiline_text((_MARGIN - left, _MARGIN - top), text, font=font, fill=_TEXT_COLOR)
    return np.asarray(image)


def _text_box(
    draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, text: str
) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a text at (0, 0)."""
    try:
        return draw.multiline_textbbox((0, 0), text, font=font)
    except ValueError:  # Pillow 9 measures its bitmap font only with a method that Pillow 10 removed
        return (0, 0, *draw.multiline_textsize(text, font=font))  # type: ignore[attr-defined]


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError):  # before Pillow 10.1, or built without FreeType: its one bitmap font
        return ImageFont.load_default()
