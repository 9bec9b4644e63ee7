"""Settings of a segmenter that the runtime needs: how images and prompts become its input, and its everything mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from osprey_ros.errors import BundleError

ENCODER, DECODER = "segmenter_encoder", "segmenter_decoder"  # roles of its engines
RESIZES = ("stretch", "pad")
INTERPOLATIONS = ("bilinear", "bicubic", "area")
OBJECTNESS = "objectness"  # optional output of the encoder
REBUILD = "rebuild it with `osprey build --segmenter DIR --output BUNDLE` in a checkout"

# Values of `point_labels`.
BACKGROUND, OBJECT, TOP_LEFT, BOTTOM_RIGHT, UNUSED = 0, 1, 2, 3, -1


@dataclass(frozen=True)
class EverythingSpec:
    """Defaults of the mode that finds everything in an image.

    The prompts are single points: a regular grid, or the cells of the encoder's ``objectness`` above a threshold, the
    best first, without cells inside a mask that was found before.

    Attributes:
        points_per_side: Points along each side of the grid. Unused if the encoder has ``objectness``.
        objectness_threshold: Lowest objectness of a cell that becomes a prompt.
        point_spacing: Least distance of the prompts of one run, in pixels of the encoder's input. Unused by the grid.
        max_prompts: The most cells that become prompts.
        batch: Prompts in one run of the decoder.
        all_candidates: Whether every mask of a prompt is a candidate, as in Segment Anything; otherwise its best one.
        min_score: Lowest predicted IoU of a mask that is kept.
        min_stability: Lowest stability of a mask that is kept: its pixels above the threshold plus ``stability_offset``
            as a share of those above the threshold minus the offset.
        stability_offset: In units of the mask logits.
        max_overlap: Of two masks with a larger IoU, the one with the better score is kept.
        min_area: Smallest region, and smallest hole and island of a region, in pixels of the image. Smaller holes are
            filled, smaller islands and regions removed.
        max_regions: The most regions; those with the best scores are kept.
    """

    points_per_side: int = 32
    objectness_threshold: float = 0.5
    point_spacing: float = 24.0
    max_prompts: int = 256
    batch: int = 64
    all_candidates: bool = True
    min_score: float = 0.88
    min_stability: float = 0.95
    stability_offset: float = 1.0
    max_overlap: float = 0.7
    min_area: int = 100
    max_regions: int = 128

    def __post_init__(self) -> None:
        low = [n for n in ("points_per_side", "max_prompts", "batch", "max_regions") if getattr(self, n) < 1]
        if low or self.min_area < 0:
            raise BundleError(f"everything: {low[0] if low else 'min_area'} is too small")


@dataclass(frozen=True)
class SegmenterSpec:
    """Settings of a segmenter. They are the ``model`` of its manifest.

    The encoder reads ``image``, float32 [1, 3, H, W]. The decoder reads the encoder's other outputs, ``point_coords``
    float32 [P, N, 2] and ``point_labels`` int64 [P, N], and gives ``mask_logits`` float32 [P, M, h, w] over the whole
    encoder input and ``iou_scores`` float32 [P, M].

    Attributes:
        family: Name of the architecture, such as "sam", "sam2", "edgetam" or "osprey_segmenter".
        input_size: (H, W) of the encoder's input.
        resize: "stretch" resizes an image to the input. "pad" resizes its longer side to the longer side of the input
            and pads the normalized image with zeros at the bottom or on the right.
        interpolation: "bilinear" and "bicubic" are Pillow's filters, which average where an image shrinks; "area" is
            OpenCV's fast average, and bilinear where an image grows.
        image_mean, image_std: Of the channels, in the order RGB, for values of 0 to 1.
        mask_threshold: A pixel is inside a mask where the logit is above it.
        pixel_center: Position of the center of the first pixel in ``point_coords``: the coordinate of pixel x of the
            image is (x + pixel_center) * scale. 0 for Segment Anything, whose graph adds half a pixel, else 0.5.
            Corners of boxes lie on edges of pixels and are only scaled.
        max_points: N of every run. Shorter prompts are padded with points of the label -1. 0: any number, no padding.
        max_prompts: The most prompts P of one run; 0: any number.
        everything: Defaults of the mode that finds everything.
    """

    family: str
    input_size: tuple[int, int]
    resize: str
    interpolation: str
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    mask_threshold: float = 0.0
    pixel_center: float = 0.5
    max_points: int = 0
    max_prompts: int = 0
    everything: EverythingSpec = field(default_factory=EverythingSpec)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("resize", self.resize, RESIZES),
            ("interpolation", self.interpolation, INTERPOLATIONS),
        ):
            if value not in known:
                raise BundleError(f"{name} is {value!r}; this osprey_ros knows {', '.join(known)}")
        if len(self.input_size) != 2 or min(self.input_size) < 1:
            raise BundleError(f"input_size is {self.input_size}; it must be height and width in pixels")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SegmenterSpec:
        """Read the ``model`` part of a manifest. Unknown fields are ignored. Raises BundleError for invalid values."""
        known = {f.name for f in fields(cls)}
        required = known - {"mask_threshold", "pixel_center", "max_points", "max_prompts", "everything"}
        missing = sorted(required - set(data))
        if missing:
            raise BundleError(f"manifest.json: model lacks {', '.join(missing)}; {REBUILD}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in known}
        modes = {f.name for f in fields(EverythingSpec)}
        everything = {k: v for k, v in values.pop("everything", {}).items() if k in modes}
        try:
            return cls(**values, everything=EverythingSpec(**everything))
        except BundleError as error:
            raise BundleError(f"manifest.json: model: {error}; {REBUILD}") from error
