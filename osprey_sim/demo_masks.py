"""What the demo compares when a segmenter draws the masks: its ids with those of the camera, and words for both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from osprey_ros.describer import Describer
from osprey_ros.messages import images
from osprey_ros.messages.stamps import stamp_of
from osprey_ros.regions.regions import regions_from_id_image

FOUND = 0.5  # least IoU of a mask with the object that it shows
_LEAST_PIXELS = 200  # of an object that a segmenter should find


@dataclass
class MaskFrames:
    """Images and ids of each frame by its stamp in nanoseconds.

    Attributes:
        rgb: uint8 [H, W, 3].
        true: Ids of the camera, [H, W].
        own: Ids of the segmenter, [H, W].
    """

    rgb: dict[int, np.ndarray] = field(default_factory=dict)
    true: dict[int, np.ndarray] = field(default_factory=dict)
    own: dict[int, np.ndarray] = field(default_factory=dict)

    def subscribe(self, node: Any, message: Any) -> None:
        """Subscribe to the topics of the camera and of the segmenter; ``message``: the class of images."""
        for topic, target, read in (
            ("/camera/image", self.rgb, images.rgb_from_message),
            ("/camera/segmentation", self.true, images.ids_from_message),
            ("/segmenter/ids", self.own, images.ids_from_message),
        ):

            def store(found: Any, target: dict[int, np.ndarray] = target, read: Any = read) -> None:
                target[stamp_of(found)] = read(found)

            node.create_subscription(message, topic, store, 10)

    def frames(self) -> set[int]:
        """Return the stamps of frames of which all three are there."""
        return self.rgb.keys() & self.true.keys() & self.own.keys()

    def shown(self, stamp: int) -> dict[int, int]:
        """Return the object of the camera that each mask of the segmenter shows; masks of none are left out."""
        return shown_objects(self.true[stamp], self.own[stamp])

    def visible(self, stamp: int) -> list[int]:
        """Return the ids of the camera's objects that are large enough to be found."""
        numbers, counts = np.unique(self.true[stamp], return_counts=True)
        return [int(n) for n, count in zip(numbers, counts, strict=True) if n and count >= _LEAST_PIXELS]


def shown_objects(true: np.ndarray, own: np.ndarray) -> dict[int, int]:
    """Return for each id of `own`, [H, W], the id of `true`, [H, W], with which it has an IoU of FOUND or more."""
    pairs, counts = np.unique(np.stack([own.ravel(), true.ravel()]), axis=1, return_counts=True)
    sizes = [dict(zip(*np.unique(ids, return_counts=True), strict=True)) for ids in (own, true)]
    found = {}
    for (mask, thing), common in zip(pairs.T, counts, strict=True):
        if mask and thing and common >= FOUND * (sizes[0][mask] + sizes[1][thing] - common):
            found[int(mask)] = int(thing)
    return found


def exact_categories(bundle: str, frames: MaskFrames, stamps: Sequence[int]) -> list[tuple[int, int, str]]:
    """Return stamp, id and category of each visible object, described with the camera's own masks."""
    found = []
    with Describer(bundle) as describer:
        for stamp in stamps:
            describer.set_image(frames.rgb[stamp])
            ids = frames.visible(stamp)
            answers = describer.describe(regions_from_id_image(frames.true[stamp], ids), "category") if ids else []
            found += [(stamp, number, answer.text) for number, answer in zip(ids, answers, strict=True)]
    return found


def comparison(verdicts: Mapping[str, Counter[str]], found: int, visible: int, others: int) -> str:
    """Return the lines that compare both kinds of masks.

    Args:
        verdicts: How many categories are right, more general, not sure and wrong, with "own" and with "exact" masks.
        found: Number of visible objects that a mask of the segmenter shows.
        visible: Number of visible objects.
        others: Number of its masks that show no object.
    """
    lines = [f"own masks: {found} of {visible} objects found, {others} masks of no object"]
    for name, count in verdicts.items():
        total = count.total()
        shares = ", ".join(f"{verdict} {number}" for verdict, number in sorted(count.items()))
        lines.append(f"category of {total} objects with {name} masks: {shares}")
    return "\n".join(lines)
