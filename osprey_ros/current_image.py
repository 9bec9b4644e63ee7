"""The image that questions are about, and the tokens of its regions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.unlike_training import IMAGE_MAPS, channel_statistics
from osprey_ros.decoding.session import RegionTokens
from osprey_ros.engines.base import load_role
from osprey_ros.errors import InputError, RegionError
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
    """

    def __init__(self, bundle: Bundle, threads: int | None, preprocessing: str) -> None:
        spec = bundle.manifest.model
        preprocessor = Preprocessor(spec, preprocessing, threads if threads is not None else cpu_count())
        self._images = ImageEncoder(load_role(bundle, "vision", threads, "image_tokens"), preprocessor, spec)
        self._regions = RegionEncoder(load_role(bundle, "mask_extractor", threads, "position_tokens"), spec)
        self._shape: tuple[int, int] | None = None  # height and width of the image
        self._statistics: np.ndarray | None = None  # of the image, once they are needed
        self.id = 0

    def set(self, rgb: np.ndarray, image_id: int | None, call: Call) -> None:
        """Encode an image, uint8 [H, W, 3]; see `Describer.set_image`."""
        check_rgb(rgb)
        self._shape, self._statistics = None, None
        self.id = next(_IMAGE_IDS) if image_id is None else image_id
        self._images.encode(rgb, call)
        self._shape = rgb.shape[:2]

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

    def encode(self, regions: AnyRegions, call: Call) -> EncodedRegions:
        """Return regions with their tokens; those that have them as they are. Errors are those of `checked`."""
        regions = self.checked(regions)
        if isinstance(regions, EncodedRegions):
            return regions
        pooled = self._regions.pool(regions)  # while a GPU encodes the image
        reasons = without_evidence(regions, pooled)
        self._images.synchronize(call)
        call.marks.append(("regions", perf_counter()))
        mask_tokens, position_tokens = self._regions.encode(self._images.features, pooled, call)
        return EncodedRegions(regions, mask_tokens, position_tokens, self.id, call.timing(), reasons)

    def tokens(self, regions: AnyRegions, call: Call) -> RegionTokens:
        """Return the tokens of regions, and those of the image. Errors are those of `checked`."""
        encoded = self.encode(regions, call)
        self._images.synchronize(call)
        ids, image_tokens = encoded.regions.ids, self._images.image_tokens
        return RegionTokens(ids, encoded.mask_tokens, encoded.position_tokens, image_tokens, encoded.reasons)

    def statistics(self, call: Call) -> np.ndarray:
        """Return the statistics of the image for `UnlikeTraining`, float32 [F]. They are computed once.

        Raises InputError if no image is set.
        """
        if self._shape is None:
            raise InputError("no image is set: call set_image first")
        if self._statistics is None:
            self._images.synchronize(call)
            self._statistics = channel_statistics([self._images.features[name].read() for name in IMAGE_MAPS])
        return self._statistics
