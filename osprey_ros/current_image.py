"""The image that questions are about, and the tokens of its regions."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.decoding.session import RegionTokens
from osprey_ros.engines.base import load_role
from osprey_ros.errors import InputError, RegionError
from osprey_ros.regions.crop_encoder import CropEncoder
from osprey_ros.regions.crops import crop_rows
from osprey_ros.regions.encoder import RegionEncoder, without_evidence
from osprey_ros.regions.regions import Regions, as_regions
from osprey_ros.regions.resize import fitted
from osprey_ros.results import EncodedRegions
from osprey_ros.system.call import Call
from osprey_ros.system.machine import cpu_count
from osprey_ros.vision.encoder import ImageEncoder
from osprey_ros.vision.image_io import check_rgb
from osprey_ros.vision.preprocess import Preprocessor

AnyRegions: TypeAlias = Regions | EncodedRegions | np.ndarray | Sequence[Any]

_IMAGE_IDS = itertools.count(1)  # of all describers of the process


class CurrentImage:
    """Encodes one image after another, and regions of the latest. Use it from one thread at a time.

    Args:
        bundle: Has the engines.
        threads, preprocessing: As for `osprey_ros.describer.Describer`.

    Attributes:
        id: Identifies the latest image; 0 before the first.
        has_crops: Whether the bundle has an engine for crops. It is loaded when it is needed first.
    """

    def __init__(self, bundle: Bundle, threads: int | None, preprocessing: str) -> None:
        spec = bundle.manifest.model
        preprocessor = Preprocessor(spec, preprocessing, threads if threads is not None else cpu_count())
        self._score = bundle.unlike_training()
        by_image = self._score is not None and self._score.images is not None
        self._images = ImageEncoder(load_role(bundle, "vision", threads, "image_tokens"), preprocessor, spec, by_image)
        self._regions = RegionEncoder(load_role(bundle, "mask_extractor", threads, "position_tokens"), spec)
        self._bundle, self._threads = bundle, threads
        self.has_crops = "crop" in bundle.manifest.engines
        self._crops: CropEncoder | None = None
        self._shape: tuple[int, int] | None = None  # height and width of the image
        self._rgb: np.ndarray | None = None  # of a model with crops
        self.id = 0

    def set(self, rgb: np.ndarray, image_id: int | None, call: Call) -> None:
        """Encode an image, uint8 [H, W, 3]; see `Describer.set_image`."""
        check_rgb(rgb)
        self._shape, self.id = None, next(_IMAGE_IDS) if image_id is None else image_id
        self._images.encode(rgb, call)
        self._shape = rgb.shape[:2]
        self._rgb = rgb.copy() if self.has_crops else None  # the caller may use the memory for the next image

    def checked(self, regions: AnyRegions) -> Regions | EncodedRegions:
        """Return regions of the image. Errors are those of the describer."""
        known = regions.regions if isinstance(regions, EncodedRegions) else as_regions(regions)
        if self._shape is None:
            raise InputError("no image is set: call set_image first")
        known = fitted(known, self._shape)
        if not isinstance(regions, EncodedRegions):
            return known
        if regions.image_id != self.id:
            raise RegionError("these regions were encoded for another image: encode them again after set_image")
        return regions

    def check_crops(self, crops: str | Collection[int]) -> None:
        """Raise InputError if crops are asked for and the bundle has no engine for them."""
        if not self.has_crops and _any_wanted(crops):
            raise InputError(
                f"the bundle {self._bundle.manifest.name} has no engine for crops, which crops={crops!r} needs: "
                "leave crops out (none), or use a bundle of a model with crops"
            )

    def encode(self, regions: AnyRegions, call: Call, crops: str | Collection[int] = "none") -> EncodedRegions:
        """Return regions with their tokens; tokens that they have are kept. Errors are those of `checked`.

        crops: As in `crop_rows`. Raises InputError if the bundle has no engine for them.
        """
        self.check_crops(crops)
        encoded = self._encode(self.checked(regions), call)
        if encoded.crop_tokens is not None or not _any_wanted(crops):
            return encoded
        rows = crop_rows(encoded.regions, crops, self._bundle.manifest.model)
        tokens = np.zeros_like(encoded.mask_tokens)
        if len(rows):
            call.marks.append(("crops", perf_counter()))
            if self._crops is None:
                engine = load_role(self._bundle, "crop", self._threads, "crop_tokens")
                self._crops = CropEncoder(engine, self._bundle.manifest.model)
            assert self._rgb is not None
            tokens[rows] = self._crops.encode(self._rgb, encoded.regions, rows, call)
        return replace(encoded, crop_tokens=tokens, timing=call.timing())

    def _encode(self, regions: Regions | EncodedRegions, call: Call) -> EncodedRegions:
        if isinstance(regions, EncodedRegions):
            return regions
        pooled = self._regions.pool(regions)  # while a GPU encodes the image
        reasons = without_evidence(regions, pooled)
        self._images.synchronize(call)
        call.marks.append(("regions", perf_counter()))
        mask_tokens, position_tokens = self._regions.encode(self._images.features, pooled, call)
        unlike = np.zeros(len(mask_tokens), np.float32)
        if self._score is not None:
            unlike = self._score.score(mask_tokens, self._images.statistics)
        return EncodedRegions(regions, mask_tokens, position_tokens, unlike, self.id, call.timing(), reasons)

    def tokens(self, regions: AnyRegions, call: Call, crops: str = "none") -> RegionTokens:
        """Return the tokens of regions, and those of the image. ``crops`` and errors: as for `encode`."""
        encoded = self.encode(regions, call, crops)
        mask_tokens = encoded.mask_tokens
        if encoded.crop_tokens is not None:
            mask_tokens = mask_tokens + encoded.crop_tokens
        self._images.synchronize(call)
        ids, image_tokens = encoded.regions.ids, self._images.image_tokens
        reasons, unlike = encoded.reasons, encoded.unlike_training
        return RegionTokens(ids, mask_tokens, encoded.position_tokens, image_tokens, reasons, unlike)

    def no_regions(self, call: Call) -> RegionTokens:
        """Return the tokens of the image without any region. Raises InputError if no image is set."""
        if self._shape is None:
            raise InputError("no image is set: call set_image first")
        self._images.synchronize(call)
        image_tokens = self._images.image_tokens
        none = np.zeros((0, image_tokens.shape[1]), np.float32)
        return RegionTokens(np.zeros(0, np.int32), none, none, image_tokens, {}, np.zeros(0, np.float32))

    def statistics(self, call: Call) -> np.ndarray:
        """Return the statistics of the image for `UnlikeTraining`, float32 [F].

        Raises InputError if no image is set.
        """
        if self._shape is None:
            raise InputError("no image is set: call set_image first")
        self._images.synchronize(call)
        return self._images.read_statistics()


def _any_wanted(crops: str | Collection[int]) -> bool:
    return crops != "none" if isinstance(crops, str) else len(crops) > 0
