"""Fit the confidences of a bundle on photographs: curves for categories, kinds and descriptions, and the threshold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from evaluation.curves import Answers
from evaluation.kind_names import ROOT, KindNames
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.calibration import CATEGORY, DESCRIPTION, KIND, Calibration
from osprey_ros.bundle.unlike_training import UnlikeTraining
from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.describer import Describer
from osprey_ros.errors import InputError, OspreyError
from osprey_ros.regions.regions import regions_from_masks
from osprey_ros.results import Description
from osprey_ros.vision.image_io import load_image
from osprey_torch.readers.packs import PackObject
from osprey_torch.readers.records import Skipped

RIGHT_OR_GENERAL = 0.96  # least share of answers that are right or a true more general word
MOST_ROOT = 0.03  # most answers that are "object"
THRESHOLDS = tuple(round(float(value), 2) for value in np.arange(0.5, 1.0, 0.01))
_LEAST = THRESHOLDS[0]  # chains of answers with this threshold have all nodes that a higher one can choose


class Node(NamedTuple):
    """A node of a chain: its probability before calibration, whether it is true, and whether it is the root."""

    probability: float
    true: bool
    root: bool


@dataclass(frozen=True)
class PhotographAnswers:
    """Answers about photographs, before calibration.

    Attributes:
        answers: Raw confidences and whether the answers are right, by kind of answer.
        chains: For each answer with back-off, its chain from the most specific node to the root.
    """

    answers: dict[str, Answers]
    chains: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Threshold:
    """A threshold, with the shares of answers that are right or truly more general, and that are the root."""

    value: float
    right_or_general: float
    root: float

    @property
    def kept(self) -> bool:
        """Whether both targets are kept."""
        return self.right_or_general >= RIGHT_OR_GENERAL and self.root <= MOST_ROOT


class Unfitted(Bundle):
    """A bundle without what lowers or raises confidences, so that a fit does not depend on an earlier one."""

    def calibration(self) -> Calibration:
        """Return a calibration that changes nothing."""
        return Calibration()

    def unlike_training(self) -> UnlikeTraining | None:
        """Return None: the raw confidences of all answers count."""
        return None


def answers_of_photographs(
    bundle: Bundle,
    images: Iterable[Sequence[PackObject]],
    names: KindNames,
    skipped: Skipped,
    *,
    crops: str = "none",
    threads: int | None = None,
) -> PhotographAnswers:
    """Ask about the objects of photographs, and judge the answers.

    A category is right as in `KindNames.right`; a short description is right if it has such words in it.

    Args:
        bundle: The bundle.
        images: The objects of each image.
        names: Decides what is right.
        skipped: Counts images that cannot be used.
        crops: Regions with a crop of their own.
        threads: CPU threads.

    Raises:
        InputError: There is no object, or the bundle has no engine for crops.
    """
    describer = Describer(Unfitted(bundle.root, bundle.manifest), threads)
    describer.check([], crops=crops)
    plain = GenerationConfig(back_off=False)
    backing = GenerationConfig(kind_threshold=_LEAST)
    questions = [QUESTIONS["category"], QUESTIONS["short"]]
    found: dict[str, list[tuple[float, bool]]] = {CATEGORY: [], DESCRIPTION: []}
    chains: list[tuple[Node, ...]] = []
    for objects in images:
        try:
            describer.set_image(load_image(objects[0].image))
            regions = regions_from_masks([obj.decode() for obj in objects])
            encoded = describer.encode(regions, crops=crops)
            categories, descriptions = describer.answer(encoded, questions, plain)
            named = describer.ask(encoded, QUESTIONS["category"], backing) if bundle.kinds() is not None else ()
        except OspreyError as error:
            skipped.add(f"{objects[0].pack}, {objects[0].file_name}", str(error))
            continue
        kinds = [names.kind(obj.name, obj.pack) for obj in objects]
        for kind, category, description in zip(kinds, categories, descriptions, strict=True):
            found[CATEGORY].append((category.raw_confidence, names.right(kind, category.text)))
            found[DESCRIPTION].append((description.raw_confidence, names.named_in(kind, description.text)))
        chains += [_chain(names, kind, one) for kind, one in zip(kinds, named, strict=False) if one.chain]
    if not found[CATEGORY]:
        raise InputError("no photograph of the validation split can be used; give packs with train images")
    nodes = [(node.probability, node.true) for chain in chains for node in chain if not node.root]
    answers = {kind: Answers.of(pairs) for kind, pairs in found.items()}
    return PhotographAnswers(answers | ({KIND: Answers.of(nodes)} if nodes else {}), tuple(chains))


def best_threshold(chains: Sequence[Sequence[Node]], calibration: Calibration) -> Threshold:
    """Return the smallest threshold that keeps both targets.

    If none does, return the one with the most right or truly more general answers among the thresholds with few enough
    answers "object", else the smallest one.

    Args:
        chains: At least one.
        calibration: Has the curve of kinds.
    """
    tried = [_tried(chains, calibration, value) for value in THRESHOLDS]
    for one in tried:
        if one.kept:
            return one
    specific = [one for one in tried if one.root <= MOST_ROOT]
    return max(specific, key=lambda one: one.right_or_general) if specific else tried[0]


def _tried(chains: Sequence[Sequence[Node]], calibration: Calibration, value: float) -> Threshold:
    chosen = [
        next(node for node in chain if node.root or calibration.apply(KIND, node.probability) >= value)
        for chain in chains
    ]
    return Threshold(value, *(float(np.mean([getattr(node, name) for node in chosen])) for name in ("true", "root")))


def _chain(names: KindNames, kind: str, answer: Description) -> tuple[Node, ...]:
    return tuple(
        Node(one.probability, names.right_or_general(kind, one.name), names.level(one.name) == ROOT)
        for one in answer.chain
    )
