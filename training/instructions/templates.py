"""Instructions from templates, which state only what follows from the masks and the known facts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from osprey_ros.query.word_forms import with_article
from training.instructions.facts import KnownImage, KnownRegion, named_in

Pair = tuple[str, str]  # question and answer, regions named as <region1>, <region2>, ...

MOST_TURNS = 6
_APART = 1.5  # one region is called larger than another from this ratio of their areas


def descriptions(image: KnownImage, regions: Sequence[KnownRegion]) -> list[str]:
    """Return one description of each region: the data set's own, or one of its words, its place and its neighbor."""
    return [region.detailed or _composed(image, regions, number) for number, region in enumerate(regions)]


def conversation(image: KnownImage, regions: Sequence[KnownRegion], rng: np.random.Generator) -> list[Pair]:
    """Return up to MOST_TURNS turns about the regions, in whole sentences."""
    found: list[Pair] = []
    for number, region in enumerate(regions):
        tag = _tag(number)
        found.append((f"What is {tag}?", f"{tag} is {_named(region)}."))
        found.append((f"Where in the picture is {tag}?", f"It is {place(image, region)}."))
        if region.color:
            found.append((f"What color is {tag}?", f"It is {region.color}."))
        if region.parts:
            listed = " and ".join(with_article(part) for part in region.parts)
            found.append((f"Which parts does {tag} have?", f"It has {listed}."))
        for other in range(len(regions)):
            side = _side(region, regions[other])
            if side is not None:
                asked = ("left", "right")[int(rng.integers(2))]
                answer = f"{'Yes' if asked == side else 'No'}, {tag} is to the {side} of {_tag(other)}."
                found.append((f"Is {tag} to the {asked} of {_tag(other)}?", answer))
            if region.area > _APART * regions[other].area:
                pair = (tag, _tag(other)) if rng.random() < 0.5 else (_tag(other), tag)
                found.append((f"Which takes up more of the picture, {pair[0]} or {pair[1]}?", f"{tag} does."))
    return _some(found, rng)


def short_form(image: KnownImage, regions: Sequence[KnownRegion], rng: np.random.Generator) -> list[Pair]:
    """Return up to MOST_TURNS turns with answers of a word or two."""
    found: list[Pair] = []
    categories = [region.category for region in regions]
    for number, region in enumerate(regions):
        tag = _tag(number)
        if region.category:
            found.append((f"What is the object in {tag}?", region.category))
        if region.color:
            found.append((f"What color is {tag}?", region.color))
        for other in range(len(regions)):
            side = _side(region, regions[other])
            if side is not None:
                found.append((f"On which side of {_tag(other)} is {tag}?", side))
    for category in dict.fromkeys(categories):
        if all(categories):
            found.append((f"How many of the regions show {with_article(category)}?", str(categories.count(category))))
    return _some(found, rng)


def part_level(parts: Sequence[KnownRegion]) -> list[Pair]:
    """Return what each part is and what it belongs to, in a word or two."""
    found = []
    for number, part in enumerate(parts):
        found.append((f"What is the part in {_tag(number)}?", part.category))
        found.append((f"What object does {_tag(number)} belong to?", part.part_of))
    return found


def positive_negative(
    image: KnownImage, regions: Sequence[KnownRegion], names: Sequence[str], rng: np.random.Generator
) -> list[Pair]:
    """Return for each region one question whose answer is yes and one whose answer is no.

    Half of what is denied stands elsewhere in the image, so that the image alone does not tell.
    """
    found: list[Pair] = []
    for number, region in enumerate(regions):
        others = [name for name in names if _differ(name, region)]
        near = [name for name in others if any(name == other.category for other in image.objects)]
        pool = near if near and rng.random() < 0.5 else others
        if not region.category or not pool:
            continue
        asked = [(region.category, "Yes."), (str(rng.choice(pool)), "No.")]
        for name, answer in (asked[i] for i in rng.permutation(2)):
            found.append((f"Is the object {_tag(number)} {with_article(name)}?", answer))
    return found


def place(image: KnownImage, region: KnownRegion) -> str:
    """Return where a region's box lies, in words: "at the bottom left"; thirds of the image each way."""
    x, y, width, height = region.box
    column = ("left", "", "right")[_third((x + width / 2) / image.width)]
    row = ("top", "", "bottom")[_third((y + height / 2) / image.height)]
    if not row and not column:
        return "in the middle"
    if row and not column:
        return f"in the middle of the {row}"
    return f"at the {row} {column}" if row else f"on the {column}"


def _composed(image: KnownImage, regions: Sequence[KnownRegion], number: int) -> str:
    region = regions[number]
    share = 100 * region.area / (image.width * image.height)
    sentences = [
        f"{_named(region)}, {place(image, region)} of the picture.",
        *(f"It can be told by these words: {caption}." for caption in region.captions[1:2]),
        f"It takes up {'less than 1' if share < 1 else f'about {share:.0f}'} percent of the picture.",
    ]
    if region.color:
        sentences.append(f"Its color is {region.color}.")
    sides = [(_side(region, other), other) for n, other in enumerate(regions) if n != number and other.category]
    for side, other in sides:
        if side is not None:
            sentences.append(f"It is to the {side} of {with_article(other.category)}.")
            break
    text = " ".join(sentences)
    return text[:1].upper() + text[1:]


def _named(region: KnownRegion) -> str:
    """Return the region as a noun phrase: its caption, or its category."""
    return region.captions[0].rstrip(".") if region.captions else with_article(region.category or region.detailed)


def _side(region: KnownRegion, other: KnownRegion) -> str | None:
    """Return which side of another a region is on; None where their boxes share a column of pixels."""
    if region is other:
        return None
    if region.box[0] + region.box[2] <= other.box[0]:
        return "left"
    return "right" if other.box[0] + other.box[2] <= region.box[0] else None


def _differ(name: str, region: KnownRegion) -> bool:
    """Return whether a region is surely not of this category: neither name is part of the other or of a caption."""
    said = " ".join((region.category, region.part_of, *region.captions, region.detailed.split(",")[0]))
    return not named_in(said, [name]) and not named_in(name, [region.category])


def _some(pairs: list[Pair], rng: np.random.Generator) -> list[Pair]:
    chosen = sorted(rng.permutation(len(pairs))[:MOST_TURNS])
    return [pairs[i] for i in chosen]


def _third(share: float) -> int:
    return min(2, int(3 * share))


def _tag(number: int) -> str:
    return f"<region{number + 1}>"
