"""Answers about the regions of an image as plain data, and which regions are asked about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from osprey_ros.decoding.constraints import Constraint
from osprey_ros.errors import RegionError
from osprey_ros.regions.regions import Regions
from osprey_ros.results import Description, Result
from osprey_ros.scene.attributes import AttributeSpec
from osprey_ros.scene.captions import known_text


def kinds_json(chain: Iterable[tuple[str, float]]) -> list[dict[str, str | float]]:
    """Return kinds with their probabilities, the most specific first, as plain data for JSON."""
    return [{"name": name, "probability": round(probability, 6)} for name, probability in chain]


def region_answers(
    results: Sequence[Result], attributes: Sequence[AttributeSpec], min_confidence: float
) -> list[dict[str, Any]]:
    """Return the text, the confidences, the kinds and the attributes of each region as plain data for JSON.

    Args:
        results: Of the question, then of each attribute, all about the same regions.
        attributes: The attributes.
        min_confidence: Answers with less become "unknown".
    """

    def entry(name: str, answer: Description, constraint: Constraint | None = None) -> dict[str, Any]:
        text, confidence = known_text(answer, min_confidence, constraint)
        raw = round(answer.raw_confidence, 6)
        return {name: text, "confidence": round(confidence, 6), "raw_confidence": raw}

    asked = list(zip(attributes, results[1:], strict=True))
    return [
        {
            **entry("text", description),
            "reason": description.reason,
            "unlike_training": round(description.unlike_training, 6),
            "kinds": kinds_json((kind.name, kind.probability) for kind in description.chain),
            "attributes": {spec.name: entry("value", result[row], spec.constraint) for spec, result in asked},
        }
        for row, description in enumerate(results[0])
    ]


def largest_regions(regions: Regions, min_area: int, max_regions: int | None) -> Regions:
    """Return the largest regions of at least ``min_area`` pixels, in the order of ``regions``.

    Raises:
        RegionError: All regions are smaller.
    """
    large = [row for row in range(len(regions)) if regions.areas[row] >= min_area]
    if not large:
        raise RegionError(
            f"no region has {min_area} pixels or more, the largest has {regions.areas.max()}; lower --min-area"
        )
    kept = sorted(sorted(large, key=lambda row: -int(regions.areas[row]))[:max_regions])
    return regions if len(kept) == len(regions) else regions.select(regions.ids[kept])
