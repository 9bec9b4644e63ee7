"""The segmenter that ships: small, checked when it was built, and no worse than when it shipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from evaluation.segmenter import measure, scenes, summary
from osprey_ros.segmenter.bundle import SegmenterBundle
from osprey_ros.segmenter.segmenter import Segmenter
from osprey_ros.vision.image_io import load_image

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "engines" / "segmenter"


@pytest.fixture(scope="module")
def segmenter() -> Iterator[Segmenter]:
    with Segmenter(SHIPPED) as one:
        yield one


def test_it_is_small_and_was_verified() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 6e6
    assert SegmenterBundle.open(SHIPPED).manifest.verified


@pytest.mark.parametrize("objects", ["tabletop", "home"])
def test_it_finds_the_objects_of_simulated_scenes(objects: str, segmenter: Segmenter) -> None:
    found = [measure(segmenter, image) for image in scenes(objects, "test", range(4))]
    figures = summary([one for own, _ in found for one in own], [image for _, image in found], complete=True)
    least = LEAST[objects]
    assert figures["everything: objects found"].value >= least["found"]
    assert figures["everything: mean IoU of those"].value >= 0.75
    assert figures["everything: masks for each object"].value <= 1.5
    assert figures["everything: masks that are right"].value >= 0.75
    assert figures["click: mean IoU"].value >= least["click"]


LEAST = {"tabletop": {"found": 0.75, "click": 0.7}, "home": {"found": 0.65, "click": 0.65}}


def test_a_click_and_a_box_on_a_cup_in_a_photograph(segmenter: Segmenter) -> None:
    rgb = load_image(ROOT / "tests" / "photographs" / "coffee.jpg")
    rows, columns = np.mgrid[: rgb.shape[0], : rgb.shape[1]]
    cup = ((columns - 150) / 70) ** 2 + ((rows - 103) / 65) ** 2 < 1
    segmenter.set_image(rgb)
    found = segmenter.segment(boxes=[80, 38, 140, 130])
    x, y, width, height = found.boxes[0]
    mask = np.zeros(cup.shape, bool)
    mask[y : y + height, x : x + width] = found.crop(0)
    assert (mask & cup).sum() / (mask | cup).sum() >= 0.6
