"""Ask a bundle what the objects of photographs are, with and without back-off, and judge the answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from evaluation.kind_names import ABOVE, ROOT, SPECIFIC, KindNames
from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.describer import Describer
from osprey_ros.errors import OspreyError
from osprey_ros.regions.regions import regions_from_masks
from osprey_ros.results import Description
from osprey_ros.scene.types import UNKNOWN
from osprey_ros.vision.image_io import load_image
from osprey_torch.readers.packs import PackObject
from osprey_torch.readers.records import Skipped

QUESTION = QUESTIONS["category"]


@dataclass(frozen=True)
class Judged:
    """An object of an image with the answers to "what is it".

    Attributes:
        pack: The pack of its image, or another name of where it comes from.
        image: The image.
        id: Id of the object in the pack.
        truth: Its true kind.
        area_share: Area of its mask as a share of the image's.
        plain: The answer without back-off.
        backed_off: The answer with back-off; the same one if the bundle has no tree of kinds.
        right: Whether the plain answer is the true kind; near-synonyms count.
        backed_off_right: Whether the answer with back-off is.
        right_or_general: Whether the answer with back-off is right or a true more general word.
        level: "specific", "general", "above" or "root", of the answer with back-off; "unknown" if that is the answer.
    """

    pack: str
    image: str
    id: int
    truth: str
    area_share: float
    plain: Description
    backed_off: Description
    right: bool
    backed_off_right: bool
    right_or_general: bool
    level: str

    @property
    def above_general(self) -> bool:
        """Whether the answer with back-off is above "container, tool, food ..."."""
        return self.level in (ABOVE, ROOT)

    @property
    def wrong_specific(self) -> bool:
        """Whether the answer with back-off is a specific word that is not true."""
        return self.level == SPECIFIC and not self.right_or_general

    def to_json(self) -> dict[str, Any]:
        """Return the answers as plain data."""
        return {
            "pack": self.pack,
            "image": self.image,
            "id": self.id,
            "truth": self.truth,
            "area_share": round(self.area_share, 6),
            "right": self.right,
            "backed_off_right": self.backed_off_right,
            "right_or_general": self.right_or_general,
            "level": self.level,
            "plain": _answer(self.plain),
            "backed_off": _answer(self.backed_off),
        }


def judge(
    names: KindNames, source: tuple[str, str, int], truth: str, area_share: float, answers: Sequence[Description]
) -> Judged:
    """Judge the answers about one object.

    Args:
        names: Decides what is right.
        source: Pack, image and id.
        truth: The true kind.
        area_share: As in `Judged`.
        answers: The plain answer, and the one with back-off.
    """
    plain, backed_off = answers
    said = not backed_off.reason
    return Judged(
        *source,
        truth,
        area_share,
        plain,
        backed_off,
        not plain.reason and names.right(truth, plain.text),
        said and names.right(truth, backed_off.text),
        said and names.right_or_general(truth, backed_off.text),
        names.level(backed_off.text) if said else UNKNOWN,
    )


class Asker:
    """Asks about objects with one setting of crops.

    Args:
        describer: The bundle.
        crops: Regions that get a crop of their own: "none", "small" or "all".

    Raises InputError for crops that the bundle has no engine for.
    """

    def __init__(self, describer: Describer, crops: str = "none") -> None:
        describer.check([], crops=crops)
        self._describer, self._crops = describer, crops
        # Without a tree both answers would be the same.
        self._backs_off = describer.bundle.kinds() is not None

    def ask(self, rgb: np.ndarray, masks: Sequence[np.ndarray]) -> list[tuple[Description, Description]]:
        """Return for each mask, bool [H, W], the plain answer and the one with back-off."""
        regions = regions_from_masks(list(masks))
        self._describer.set_image(rgb)
        encoded = self._describer.encode(regions, crops=self._crops)
        plain = self._describer.ask(encoded, QUESTION, GenerationConfig(back_off=False))
        backed_off = self._describer.ask(encoded, QUESTION) if self._backs_off else plain
        return list(zip(plain, backed_off, strict=True))


def images_of(objects: Iterable[PackObject]) -> Iterator[list[PackObject]]:
    """Yield the objects of each image together."""
    for _, members in groupby(objects, key=lambda obj: obj.image):
        yield list(members)


def judge_images(
    asker: Asker, names: KindNames, images: Iterable[Sequence[PackObject]], skipped: Skipped
) -> Iterator[Judged]:
    """Ask about the objects of each image. An image that cannot be used is counted in ``skipped``."""
    for objects in images:
        first = objects[0]
        try:
            rgb = load_image(first.image)
            answers = asker.ask(rgb, [obj.decode() for obj in objects])
        except OspreyError as error:
            skipped.add(f"{first.pack}, {first.file_name}", str(error))
            continue
        for obj, both in zip(objects, answers, strict=True):
            yield judge(names, (obj.pack, obj.file_name, obj.id), names.kind(obj.name, obj.pack), obj.area_share, both)


def _answer(description: Description) -> Mapping[str, Any]:
    return {
        "text": description.text,
        "confidence": round(description.confidence, 5),
        "raw_confidence": round(description.raw_confidence, 5),
        "unlike_training": round(description.unlike_training, 5),
        "chain": [[kind.name, round(kind.probability, 5)] for kind in description.chain],
        **({"reason": description.reason} if description.reason else {}),
    }
