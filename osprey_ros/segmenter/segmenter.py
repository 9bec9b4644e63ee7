"""Masks from an image: set the image once, then click, draw boxes, or take everything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np

from osprey_ros.errors import InputError
from osprey_ros.regions.masks import MaskCrop
from osprey_ros.regions.regions import Regions, regions_from_crops
from osprey_ros.segmenter.bundle import SegmenterBundle
from osprey_ros.segmenter.engines import SegmenterEngines
from osprey_ros.segmenter.everything import Everything
from osprey_ros.segmenter.input_image import InputImage, Placement
from osprey_ros.segmenter.masks import LowMask, cleaned, low_mask, resized
from osprey_ros.segmenter.prompts import prompts_from
from osprey_ros.segmenter.spec import EverythingSpec
from osprey_ros.system.call import Call
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.system.exclusive import ExclusiveUse, exclusive
from osprey_ros.timing import Timing

DEFAULT_BUNDLE = "segmenter"


class Segments(Regions):
    """Regions that a segmenter found.

    Attributes:
        scores: float32 [N], predicted IoU of each region with the object that was meant.
        timing: Where the time of the call went; "regions" is the time of the decoder and of masks.
    """

    def __init__(self, regions: Regions, scores: np.ndarray, timing: Timing) -> None:
        vars(self).update(vars(regions))
        self.scores, self.timing = scores, timing

    def take(self, rows: np.ndarray) -> Segments:
        """Return the regions with these row numbers, intp [n], in this order."""
        return Segments(super().take(rows), self.scores[rows], self.timing)


class Segmenter:
    """Finds the masks of objects in an image with the engines of one bundle.

    One thread at a time may use it. A call that begins while another one is under way raises InputError, as does every
    call after `close`. Masks are about the image that was set last.

    Args:
        bundle: An opened bundle, its folder, or a name such as "segmenter".
        threads: CPU threads of each engine, by default one for each core.

    Attributes:
        bundle: The bundle.
        spec: Settings of its model.
        image_timing: Where the time of the last `set_image` went.

    Raises BundleError or EngineError if the bundle cannot be used in this way.
    """

    def __init__(
        self, bundle: SegmenterBundle | str | os.PathLike[str] = DEFAULT_BUNDLE, threads: int | None = None
    ) -> None:
        self.bundle = bundle if isinstance(bundle, SegmenterBundle) else SegmenterBundle.open(bundle)
        self.spec = self.bundle.manifest.model
        self._engines = SegmenterEngines(self.bundle, threads)
        self._input = InputImage(self.spec)
        self._placement: Placement | None = None  # None: no image is set
        self._use = ExclusiveUse("segmenter")
        self.image_timing = Timing()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the engines and their memory. All later calls but `close` raise InputError."""
        if self._use.closed:
            return
        with self._use:
            self._use.close()
            del self._engines

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of the image that is set, in pixels. Raises InputError before the first `set_image`."""
        return self._checked().shape

    @exclusive
    def set_image(self, rgb: np.ndarray, *, cancel: CancellationToken | None = None) -> None:
        """Encode the image of the following calls. The time is in `image_timing`.

        Args:
            rgb: uint8 [H, W, 3] in RGB order.
            cancel: Ends the encoding. No image is set then.

        Raises ImageError for other arrays, EngineError if the engine fails, StoppedError when canceled.
        """
        call = Call(cancel, [("preprocess", perf_counter())])
        self._placement = None
        self._input.set(rgb)
        call.marks.append(("vision", perf_counter()))
        self._engines.encode(self._input.pixels, call)
        self._placement, self.image_timing = self._input.placement, call.timing()

    @exclusive
    def segment(
        self,
        points: Any = None,
        labels: Any = None,
        boxes: Any = None,
        *,
        all_candidates: bool = False,
        cancel: CancellationToken | None = None,
    ) -> Segments:
        """Return the masks of clicks and boxes: the one with the best score for each prompt.

        An image is encoded once for any number of calls. The points and the box of one object are one prompt.

        Args:
            points: x and y in pixels of the image, [N, 2] for one object or [P, N, 2] for P objects. The center of the
                first pixel is (0, 0).
            labels: 1 for points on the object, 0 for points on the background, [N] or [P, N]. By default all are 1.
            boxes: x, y, width, height in pixels of the image, [4] for one object or [P, 4]. Edges lie between pixels.
            all_candidates: Return every candidate M of each prompt, the best first. A click on a part, for example,
                has the part and the whole among its candidates.
            cancel: Ends the call: StoppedError is raised.

        Returns:
            The regions. The id is the number of the prompt from 1 up; with ``all_candidates`` it is 1 + M * the index
            of the prompt + the rank of the candidate. A mask without a pixel is left out.

        Raises InputError before the first `set_image`, without a prompt, for prompts outside the image and values that
        do not fit together, EngineError if the engine fails.
        """
        call, placement = Call(cancel, [("regions", perf_counter())]), self._checked()
        prompts = prompts_from(points, labels, boxes, placement.shape)
        coords, kinds = prompts.encoded(placement, self.spec)
        step, spec = min(self._engines.most_prompts, self.spec.everything.batch), self.spec
        masks: dict[int, LowMask] = {}
        low_shape = (1, 1)
        for start in range(0, len(prompts), step):
            logits, scores = self._engines.decode(coords[start : start + step], kinds[start : start + step], call)
            low_shape, count = (logits.shape[2], logits.shape[3]), scores.shape[1] if all_candidates else 1
            rows, columns = placement.cells(*low_shape)
            for number, order in enumerate(np.argsort(-scores, axis=1, kind="stable")[:, :count], start=start):
                for rank, candidate in enumerate(order):
                    values, score = logits[number - start, candidate], scores[number - start, candidate]
                    mask = low_mask(values[:rows, :columns], score, spec.mask_threshold)
                    if mask is not None:
                        masks[1 + count * number + rank] = mask
        crops = self._crops(list(masks.values()), placement, low_shape, spec.everything.min_area)
        return _segments(list(masks.values()), crops, list(masks), placement, call)

    @exclusive
    def segment_everything(
        self, settings: EverythingSpec | None = None, *, cancel: CancellationToken | None = None
    ) -> Segments:
        """Return the masks of everything in the image. They can overlap.

        Args:
            settings: What is tried and kept, by default the settings of the bundle.
            cancel: Ends the call: StoppedError is raised.

        Returns:
            The regions by descending score, with ids from 1 up; none if nothing was found.

        Raises InputError before the first `set_image`, EngineError if the engine fails.
        """
        call, placement = Call(cancel, [("regions", perf_counter())]), self._checked()
        settings = self.spec.everything if settings is None else settings
        mode = Everything(self._engines, self.spec, settings, placement)
        masks = mode.find(call)
        crops = self._crops(masks, placement, mode.low_shape, settings.min_area)
        kept = [row for row, crop in enumerate(crops) if np.count_nonzero(crop.mask) >= settings.min_area]
        masks, crops = [masks[row] for row in kept], [crops[row] for row in kept]
        return _segments(masks, crops, range(1, len(kept) + 1), placement, call)

    def _checked(self) -> Placement:
        if self._placement is None:
            raise InputError("no image is set: call set_image first")
        return self._placement

    def _crops(
        self, masks: Sequence[LowMask], placement: Placement, low_shape: tuple[int, int], min_area: int
    ) -> list[MaskCrop]:
        """Return masks at the resolution of the image, without small holes and islands."""
        threshold = self.spec.mask_threshold
        smallest = min_area / placement.pixels_of(*low_shape)
        clean = [cleaned(mask, threshold, smallest) for mask in masks]
        return [resized(mask, placement, low_shape, threshold) for mask in clean]


def _segments(
    masks: Sequence[LowMask], crops: Sequence[MaskCrop], ids: Sequence[int], placement: Placement, call: Call
) -> Segments:
    """Return regions with their scores. A mask that lost all its pixels is left out."""
    regions = regions_from_crops(crops, ids, *placement.shape)
    scores = {region: mask.score for region, mask in zip(ids, masks, strict=True)}
    found = np.array([scores[int(region)] for region in regions.ids], np.float32)
    return Segments(regions, found, call.timing())
