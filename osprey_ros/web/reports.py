"""What the page shows of an image and what it downloads, as plain data for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from osprey_ros.regions.writing import coco_annotations
from osprey_ros.results import Description
from osprey_ros.scene.types import UNKNOWN
from osprey_ros.viz.overlay import color_of
from osprey_ros.web.images import AskedQuestion, FoundRegion, OpenImage, as_regions_of


def page_state(image: OpenImage, added: list[int] | None = None) -> dict[str, Any]:
    """Return what the page shows of an image. ``added``: ids of the regions that were just found."""
    return {
        "image": _image(image),
        "regions": [
            {
                **_region(region),
                "outline": region.outline,
                "color": "#{:02x}{:02x}{:02x}".format(*color_of(region.id)),
            }
            for region in image.regions.values()
        ],
        "asked": [_asked(one) for one in image.asked],
        "added": added or [],
    }


def report(image: OpenImage, segmenter: str, verified: Mapping[str, bool]) -> dict[str, Any]:
    """Return the regions, words and questions of an image, for a download.

    Args:
        image: The image.
        segmenter: Name of the bundle of its masks.
        verified: Whether each bundle of words was compared with its PyTorch model, by name.
    """
    return {
        "image": _image(image),
        "segmenter": segmenter,
        "bundles": [{"name": name, "verified": value} for name, value in verified.items()],
        "regions": [_region(region) for region in image.regions.values()],
        "asked": [_asked(one) for one in image.asked],
    }


def coco(image: OpenImage) -> dict[str, Any]:
    """Return the regions as annotations of COCO, with the words of the first bundle as "caption", for a download."""
    found = list(image.regions.values())
    regions = as_regions_of(found, image.shape)
    data = coco_annotations(regions, [region.score for region in found], image.name)
    for annotation in data["annotations"]:
        words = next(iter(image.regions[annotation["id"]].words.values()), None)
        if words is not None and words.text not in ("", UNKNOWN):
            annotation |= {"caption": words.text, "confidence": round(words.confidence, 4)}
    return data


def _image(image: OpenImage) -> dict[str, Any]:
    height, width = image.shape
    return {"id": image.id, "name": image.name, "width": width, "height": height}


def _region(region: FoundRegion) -> dict[str, Any]:
    return {
        "id": region.id,
        "source": region.source,
        "box": list(region.box),
        "area": region.area,
        "score": round(region.score, 4),
        "words": _all_words(region.words),
    }


def _asked(asked: AskedQuestion) -> dict[str, Any]:
    return {"question": asked.question, "region": asked.region, "words": _all_words(asked.words)}


def _all_words(words: Mapping[str, Description]) -> dict[str, Any]:
    return {
        name: {
            "text": one.text or UNKNOWN,
            "confidence": round(one.confidence, 4),
            "raw_confidence": round(one.raw_confidence, 4),
            "unlike_training": round(one.unlike_training, 4),
            "reason": one.reason,
            "kinds": [{"name": kind.name, "probability": round(kind.probability, 4)} for kind in one.chain],
        }
        for name, one in words.items()
    }
