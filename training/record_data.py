"""Records of data sets as training items: the image, its masks, and dialogues packed behind it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.decoding.prompt import IMAGE, MASK, PromptBuilder
from osprey_ros.errors import InputError, OspreyError
from osprey_ros.regions.regions import regions_from_masks
from osprey_ros.vision.image_io import load_image
from osprey_ros.vision.preprocess import normalize_and_square, resize_shortest_edge
from osprey_torch.packing import PackedSequence, Sample, pack
from osprey_torch.readers.mixture import BLOCK, Mixture
from osprey_torch.readers.records import Record, Turn
from osprey_torch.readers.usable import decoded_masks, without_masks
from training.data import Item, Selection

_ATTEMPTS = 100  # records in turn that may be broken before training ends


class RecordDataset(Dataset[Item]):
    """Endless passes over a mixture of data sets; item n is a function of the mixture's seed and n alone.

    `selection.max_regions` bounds the dialogues that are drawn from one image, `max_length` the tokens of each of
    them, image included: what is beyond is cut off, as the published training does.
    """

    def __init__(
        self, mixture: Mixture, spec: ModelSpec, prompts: PromptBuilder, selection: Selection, max_length: int
    ):
        if selection != selection.of_records():
            raise ValueError(
                "flip, zoom, recolor and weights are for simulated scenes: data sets know places and colors"
            )
        shortest = spec.image_tokens + 64  # the system's words and a question
        if max_length < shortest:
            raise ValueError(f"max_length is {max_length}: this model needs {shortest} or more to hold its image")
        self.mixture, self.spec, self.prompts, self.selection = mixture, spec, prompts, selection
        self.max_length = max_length

    def __getitem__(self, number: int) -> Item:
        for attempt in range(_ATTEMPTS):
            record = self.mixture[number + attempt * BLOCK]
            try:
                return self._item(number, record)
            except (OspreyError, ValueError) as error:
                # What preparation does not look at, such as the pixels of an image: another record stands in.
                warnings.warn(f"left out: {record.origin}: {error}", stacklevel=2)
        raise InputError(f"{_ATTEMPTS} records in turn cannot be used, the last as was said: check the data sets")

    def _item(self, number: int, record: Record) -> Item:
        rng = np.random.default_rng([self.mixture.seed, number])
        chosen = [record.dialogues[i] for i in sorted(rng.permutation(len(record.dialogues))[: self._most])]
        rgb = load_image(record.image)
        known_image = self.selection.lit(resize_shortest_edge(rgb, self.spec.image_size), rng)
        named = sorted({region for turns in chosen for turn in turns for region in turn.regions})
        masks, positions = self._regions(record, named, rgb.shape[:2])
        blank = {region for row, region in enumerate(named) if not any(level[row].any() for level in masks)}
        if blank:
            reason = f"no pixel of its masks {sorted(blank)} is left at the scales of the model"
            rest = without_masks(record, blank)
            if not rest.dialogues:
                raise InputError(reason)
            warnings.warn(f"left out: {record.origin}: {reason}", stacklevel=2)
            return self._item(number, rest)
        return Item(
            pixels=normalize_and_square(known_image, self.spec),
            masks=masks,
            positions=positions,
            labels={},
            sequence=self._packed(chosen, {region: row for row, region in enumerate(named)}),
        )

    @property
    def _most(self) -> int:
        return self.selection.max_regions

    def _regions(
        self, record: Record, named: Sequence[int], shape: tuple[int, int]
    ) -> tuple[list[np.ndarray], np.ndarray]:
        side = self.spec.position_size
        if not named:
            return [np.zeros((0, h, w), np.float32) for h, w in self.spec.feature_sizes], np.zeros(
                (0, side, side), np.float32
            )
        regions = regions_from_masks(decoded_masks(record, named, shape))
        return regions.pooling_masks(self.spec.feature_sizes), regions.position_grids(side)

    def _packed(self, chosen: Sequence[Sequence[Turn]], rows: dict[int, int]) -> PackedSequence:
        samples = []
        for turns in chosen:
            tokens, answers = self.prompts.dialogue([(turn.question, turn.answer) for turn in turns])
            end = self.max_length - tokens.count(IMAGE) * (self.spec.image_tokens - 1)
            regions = [rows[region] for turn in turns for region in turn.regions]
            samples.append(_cut(tokens[:end], answers[:end], regions))
        return pack(samples, self.spec.image_tokens)


def _cut(tokens: tuple[int, ...], answers: tuple[bool, ...], regions: Sequence[int]) -> Sample:
    """Return a sample of the tokens that are left, with the regions that they still name."""
    if tokens[-1] == MASK:  # cut off between a region's two tokens
        tokens, answers = tokens[:-1], answers[:-1]
    return Sample(tokens, answers, tuple(regions[: tokens.count(MASK)]))
