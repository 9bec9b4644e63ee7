"""The engines behind the page: one segmenter, and a describer for each bundle that is offered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.describer import Describer
from osprey_ros.errors import InputError, RegionError
from osprey_ros.regions.masks import MaskCrop
from osprey_ros.regions.regions import Regions, regions_from_crops
from osprey_ros.results import Description
from osprey_ros.segmenter.segmenter import Segmenter, Segments
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.web.images import BOX, CLICK, FoundRegion, OpenImage, as_regions_of, found_regions

_SEGMENTER = ""  # key of the segmenter beside those of the bundles


@dataclass(frozen=True)
class Prompt:
    """What to segment: CLICK with x, y, BOX with x, y, width, height, or EVERYTHING, as `Segmenter` reads them."""

    kind: str
    values: tuple[float, ...] = ()


class Models:
    """Segments, describes and answers. Use it from one thread at a time.

    Args:
        bundles: The bundles that the page offers; the first is the default. Its engines are loaded at once, those of
            the others when they are used first.
        segmenter: Draws the masks.
        threads, preprocessing: As for `Describer`.

    Attributes:
        bundles: The bundles by name.

    Raises InputError for two bundles of the same name, BundleError or EngineError if one cannot be used.
    """

    def __init__(
        self,
        bundles: Sequence[Bundle],
        segmenter: Segmenter,
        threads: int | None = None,
        preprocessing: str = "exact",
    ) -> None:
        self.bundles = {bundle.manifest.name: bundle for bundle in bundles}
        if len(self.bundles) < len(bundles):
            names = [bundle.manifest.name for bundle in bundles]
            raise InputError(f"two of the bundles {', '.join(names)} have the same name; leave one of them out")
        self.segmenter = segmenter
        self._threads, self._preprocessing = threads, preprocessing
        self._describers: dict[str, Describer] = {}
        self._current: dict[str, str] = {}  # id of the image that each model has encoded
        self._describer(bundles[0].manifest.name)

    def segment(
        self,
        image: OpenImage,
        prompt: Prompt,
        most: int,
        bundles: Sequence[str],
        style: str,
        cancel: CancellationToken,
    ) -> list[FoundRegion]:
        """Return the regions that a prompt asks for, at most ``most``, with their words.

        Raises InputError for a prompt outside the image, RegionError if nothing was found, and the errors of
        `describe`.
        """
        self._set(_SEGMENTER, self.segmenter, image, cancel)
        found = self._segments(prompt, most, cancel)
        if not len(found):
            raise RegionError("nothing was found there; click on an object, or draw a box around it")
        words = self._words(image, found, bundles, style, cancel)
        return found_regions(found, prompt.kind, words, image.shape)

    def describe(
        self,
        image: OpenImage,
        found: Sequence[FoundRegion],
        bundles: Sequence[str],
        style: str,
        cancel: CancellationToken,
    ) -> dict[int, Mapping[str, Description]]:
        """Return the words of each bundle about regions, by the id of the region.

        Raises EngineError if an engine fails, StoppedError when canceled.
        """
        regions = as_regions_of(found, image.shape)
        words = self._words(image, regions, bundles, style, cancel)
        return {int(number): described for number, described in zip(regions.ids, words, strict=True)}

    def ask(
        self,
        image: OpenImage,
        region: FoundRegion | None,
        question: str,
        bundles: Sequence[str],
        cancel: CancellationToken,
    ) -> dict[str, Description]:
        """Return the answer of each bundle about one region; None: about a region that is the whole image.

        Raises PromptError for a question that cannot be asked, EngineError, and StoppedError when canceled.
        """
        if region is None:
            crop = MaskCrop(0, 0, np.ones(image.shape, np.bool_))
            regions = regions_from_crops([crop], [1], *image.shape)
        else:
            regions = as_regions_of([region], image.shape)
        answers = {}
        for name in bundles:
            (answers[name],) = self._ready(name, image, cancel).ask(regions, question, cancel=cancel)
            cancel.check("the answer")
        return answers

    def close(self) -> None:
        """Release the engines."""
        self.segmenter.close()
        for describer in self._describers.values():
            describer.close()

    def _segments(self, prompt: Prompt, most: int, cancel: CancellationToken) -> Segments:
        if prompt.kind == CLICK:
            return self.segmenter.segment(points=[prompt.values], cancel=cancel)
        if prompt.kind == BOX:
            return self.segmenter.segment(boxes=prompt.values, cancel=cancel)
        settings = self.segmenter.spec.everything
        settings = replace(settings, max_regions=min(settings.max_regions, most))
        return self.segmenter.segment_everything(settings, cancel=cancel)

    def _words(
        self, image: OpenImage, regions: Regions, bundles: Sequence[str], style: str, cancel: CancellationToken
    ) -> list[dict[str, Description]]:
        words: list[dict[str, Description]] = [{} for _ in range(len(regions))]
        for name in bundles:
            answers = self._ready(name, image, cancel).describe(regions, style, cancel=cancel)
            cancel.check("the description")  # answers can be incomplete then
            for own, description in zip(words, answers, strict=True):
                own[name] = description
        return words

    def _describer(self, name: str) -> Describer:
        if name not in self._describers:
            self._describers[name] = Describer(
                self.bundles[name], threads=self._threads, preprocessing=self._preprocessing
            )
        return self._describers[name]

    def _ready(self, name: str, image: OpenImage, cancel: CancellationToken) -> Describer:
        """Return the describer of a bundle with the image set."""
        describer = self._describer(name)
        self._set(name, describer, image, cancel)
        return describer

    def _set(self, key: str, model: Describer | Segmenter, image: OpenImage, cancel: CancellationToken) -> None:
        if self._current.get(key) != image.id:
            self._current.pop(key, None)
            model.set_image(image.rgb, cancel=cancel)
            self._current[key] = image.id
