"""Makes the content of the six files from known regions, with words from templates or from an endpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from osprey_torch.chat.endpoint import Reply
from osprey_torch.chat.writer import Writer
from training.instructions import answers, templates
from training.instructions.answers import UnfitAnswer
from training.instructions.facts import KnownImage, KnownRegion
from training.instructions.files import (
    CONVERSATION,
    DESCRIPTION,
    KINDS,
    MASKS,
    PART_LEVEL,
    POSITIVE_NEGATIVE,
    SHORT_FORM,
    description_entry,
    masks_file,
    talk_entry,
)  # fmt: skip


@dataclass
class Made:
    """The contents and number of samples by kind, and how many entries were left out for which reason."""

    contents: dict[str, Any]
    samples: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    not_asked: int = 0  # requests beyond the budget


def make(
    images: Sequence[KnownImage],
    names: Sequence[str],
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
    max_regions: int = 8,
    writer: Writer | None = None,
) -> Made:
    """Return the content of the files of `kinds`, from templates or, for the kinds in answers.ASKED, from `writer`.

    Positive and negative questions, parts and masks are exact and always come from templates.

    Args:
        images: the images and what is known of their regions.
        names: categories of the whole data set, of which `images` can be a part.
        max_regions: most regions in one record; an image with more gives several records.
    """
    asked = [kind for kind in kinds if kind in answers.ASKED] if writer is not None else []
    groups = list(_groups(images, max_regions))
    made = Made({kind: [] for kind in kinds if kind != MASKS})
    if writer is not None and asked:
        requests = [
            answers.request_for(kind, image, objects, writer.model)
            for image, objects, _, _ in groups
            if objects
            for kind in asked
        ]
        made.not_asked = writer.ask_all(requests)
    for image, objects, parts, number in groups:
        for kind in made.contents:
            regions = parts if kind == PART_LEVEL else objects
            if not regions:
                continue
            rng = np.random.default_rng([seed, number, KINDS.index(kind)])
            try:
                if writer is not None and kind in asked:
                    reply = writer.ledger.get(answers.request_for(kind, image, regions, writer.model))
                    entry = _from_answer(kind, reply, image, regions, names)
                else:
                    entry = _from_templates(kind, image, regions, names, rng)
            except UnfitAnswer as error:
                made.refused[f"{kind}: {error.reason}"] += 1
                continue
            if entry is not None:
                made.contents[kind].append(entry)
                made.samples[kind] += len(entry.get("description", ())) or len(entry["conversations"]) // 2
    if MASKS in kinds:
        made.contents[MASKS] = masks_file(images)
        made.samples[MASKS] = len(made.contents[MASKS]["annotations"])
    return made


_Group = tuple[KnownImage, Sequence[KnownRegion], Sequence[KnownRegion], int]


def _groups(images: Sequence[KnownImage], most: int) -> Iterator[_Group]:
    """Yield (image, objects, parts, number) with at most `most` objects and parts."""
    number = 0
    for image in images:
        for start in range(0, max(len(image.objects), len(image.parts)), most):
            piece = slice(start, start + most)
            yield image, image.objects[piece], image.parts[piece], number
            number += 1


def _from_answer(
    kind: str, reply: Reply | None, image: KnownImage, regions: Sequence[KnownRegion], names: Sequence[str]
) -> dict[str, Any] | None:
    if reply is None:
        return None
    if kind == DESCRIPTION:
        texts = answers.read_descriptions(reply.content, image, regions, names)
        return description_entry(image, regions, texts)
    return talk_entry(image, regions, answers.read_turns(kind, reply.content, image, regions, names))


def _from_templates(
    kind: str,
    image: KnownImage,
    regions: Sequence[KnownRegion],
    names: Sequence[str],
    rng: np.random.Generator,
) -> dict[str, Any] | None:
    if kind == DESCRIPTION:
        return description_entry(image, regions, templates.descriptions(image, regions))
    pairs = {
        CONVERSATION: lambda: templates.conversation(image, regions, rng),
        SHORT_FORM: lambda: templates.short_form(image, regions, rng),
        PART_LEVEL: lambda: templates.part_level(regions),
        POSITIVE_NEGATIVE: lambda: templates.positive_negative(image, regions, names, rng),
    }[kind]()
    return talk_entry(image, regions, pairs) if pairs else None
