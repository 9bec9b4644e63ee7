"""The bundle for real things: small, checked when it was built, and no worse than when it shipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from evaluation.kind_names import KindNames, near_synonyms
from evaluation.photograph_answers import Asker, images_of, judge_images
from evaluation.rooms import room_objects
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.describer import Describer
from osprey_ros.vision.image_io import load_image
from osprey_torch.readers.packs import pack_objects
from osprey_torch.readers.records import Skipped
from training.home.kinds import load_kinds

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "engines" / "home"
PHOTOGRAPHS = ROOT / "tests" / "photographs" / "skimage"  # CC0 and public domain, see the README beside it
COFFEE = ROOT / "tests" / "photographs" / "coffee.jpg"  # by Rachel Michetti, CC0


@pytest.fixture(scope="module")
def describer() -> Iterator[Describer]:
    with Describer(HOME) as one:
        yield one


def test_it_is_small_was_verified_and_has_a_tree_and_crops() -> None:
    bundle = Bundle.open(HOME)
    assert sum(path.stat().st_size for path in HOME.iterdir()) <= 30e6
    assert bundle.manifest.verified
    tree, kinds = bundle.kinds(), load_kinds()
    assert tree is not None
    assert set(tree.kinds) == set(kinds.facts)
    assert len(kinds.leaves) - len(kinds.held_out) >= 400
    assert bundle.manifest.model.crop_size == 224


def test_it_names_things_in_rooms_and_their_colors(describer: Describer) -> None:
    names = KindNames(load_kinds(), describer.bundle.kinds(), near_synonyms())
    found = list(room_objects(describer, names, "home", "test", range(6)))
    assert len(found) > 25
    assert np.mean([one.judged.right for one in found]) >= 0.4
    assert np.mean([one.judged.right_or_general for one in found]) >= 0.7
    assert np.mean([one.color_right for one in found if one.color]) >= 0.6


def test_figures_on_photographs_under_cc0_do_not_fall(describer: Describer) -> None:
    names = KindNames(load_kinds(), describer.bundle.kinds(), near_synonyms())
    skipped = Skipped()
    objects = list(pack_objects(PHOTOGRAPHS, skipped))
    found = list(judge_images(Asker(describer), names, images_of(objects), skipped))
    assert skipped.total == 0
    assert len(found) == len(objects) == 7
    right = {one.truth for one in found if one.backed_off_right}
    assert "cat" in right
    assert sum(one.right_or_general for one in found) >= 4
    assert not [one.truth for one in found if one.wrong_specific and one.backed_off.confidence > 0.8]


def test_it_names_a_cup_in_a_photograph(describer: Describer) -> None:
    rgb = load_image(COFFEE)
    rows, columns = np.mgrid[:200, :300]
    mask = ((columns - 150) / 70) ** 2 + ((rows - 103) / 65) ** 2 < 1
    describer.set_image(rgb)
    (answer,) = describer.describe(mask[None], "category")
    names = [kind.name for kind in answer.chain]
    assert names[-1] == "object"
    assert "container" in names
    (crop,) = describer.describe(mask[None], "category", GenerationConfig(crops="all"))
    assert crop.text != "unknown"
