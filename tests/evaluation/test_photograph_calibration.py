"""Fitting curves and the threshold of a tree of kinds on photographs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TinyModel
from kind_trees import ONE_TOKEN, bundle_with_kinds
from pack_files import write_pack

from evaluation import calibration, photographs
from evaluation.kind_names import KindNames
from evaluation.photograph_calibration import Node, answers_of_photographs, best_threshold
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.calibration import CATEGORY, DESCRIPTION, KIND, Calibration, Curve
from osprey_torch.readers.packs import pack_objects, split_of
from osprey_torch.readers.records import Skipped


def _chain(kind: float, general: float, *, right: bool, general_right: bool = True) -> tuple[Node, ...]:
    return (Node(kind, right, False), Node(general, general_right, False), Node(1.0, True, True))


def test_the_smallest_threshold_with_enough_right_answers_is_taken() -> None:
    sure = [_chain(0.95, 0.99, right=True)] * 90
    unsure = [_chain(0.7, 0.99, right=False)] * 10
    found = best_threshold([*sure, *unsure], Calibration())
    assert (found.value, found.right_or_general, found.root) == (0.71, 1.0, 0.0)
    assert found.kept
    # The curve decides, not the raw probability.
    curve = Calibration({KIND: Curve((0.7, 0.95), (0.55, 0.96))})
    assert best_threshold([*sure, *unsure], curve).value == 0.56


def test_few_answers_may_be_the_root() -> None:
    lost = [_chain(0.6, 0.8, right=False, general_right=False)] * 10
    found = best_threshold([*[_chain(0.95, 0.99, right=True)] * 90, *lost], Calibration())
    assert not found.kept  # 10 % would have to be "object"
    assert found.root == 0
    assert found.right_or_general == 0.9


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack with 3 images for validation, 2 for training and 1 for the test; names are words of the tree."""
    folder = tmp_path_factory.mktemp("packs")
    names = [f"{number}.png" for number in range(60)]
    validation = [name for name in names if split_of("words", name, "train") == "validation"][:3]
    train = [name for name in names if split_of("words", name, "train") == "train"][:2]
    images = [*((name, "train", ["a", "overview", "short"]) for name in [*validation, *train])]
    write_pack(folder / "words", [*images, ("test.png", "test", ["the"])])
    return folder


@pytest.fixture(scope="module")
def bundle(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_with_kinds(tiny_model.bundle, tmp_path_factory.mktemp("kinds") / "bundle", ONE_TOKEN)


def test_photographs_give_answers_before_calibration(bundle: Path, data: Path) -> None:
    names, skipped = KindNames(None, ONE_TOKEN), Skipped(strict=True)
    images = [[obj] for obj in pack_objects(data / "words", skipped) if obj.split == "validation"]
    opened = Bundle.open(bundle)
    found = answers_of_photographs(opened, images, names, skipped, threads=1)
    assert set(found.answers) == {CATEGORY, DESCRIPTION, KIND}
    assert len(found.answers[CATEGORY].right) == len(found.chains) == 9
    for chain in found.chains:
        probabilities = [node.probability for node in chain]
        assert probabilities == sorted(probabilities)
        assert [node.root for node in chain] == [False] * (len(chain) - 1) + [True]
        assert chain[-1].true
    nodes = [node for chain in found.chains for node in chain if not node.root]
    assert found.answers[KIND].right.tolist() == [node.true for node in nodes]

    class Fitted(Bundle):
        def calibration(self) -> Calibration:
            return Calibration({KIND: Curve((0.5,), (0.1,)), CATEGORY: Curve((0.5,), (0.1,))})

    again = answers_of_photographs(Fitted(opened.root, opened.manifest), images, names, skipped, threads=1)
    assert again.chains == found.chains


def test_answers_with_back_off_are_measured_too(bundle: Path, data: Path, tmp_path: Path) -> None:
    options = ["--bundle", str(bundle), "--data", str(data), "--split", "train", "--resamples", "5", "--threads", "1"]
    assert photographs.main([*options, "--json", str(tmp_path / "out.json")]) == 0
    answers = json.loads((tmp_path / "out.json").read_text())["answers"]
    assert len(answers) == 6
    for one in answers:
        backed_off = one["backed_off"]
        chain = [name for name, _ in backed_off["chain"]]
        assert chain[-1] == "object"
        assert backed_off["text"] in chain
        assert one["plain"]["chain"] == []
        assert one["level"] == {"object": "root", "word": "general", "description": "general"}.get(
            backed_off["text"], "specific"
        )


def test_the_command_writes_curves_and_the_threshold(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--bundle", str(bundle), "--fit-scenes", "1", "--scenes", "1", "--photographs", str(data)]
    assert calibration.main([*few, "--write", "--json", str(tmp_path / "out.json")]) == 0
    shown, report = capsys.readouterr().out, json.loads((tmp_path / "out.json").read_text())
    assert "validation split of photographs, 9 objects" in shown
    assert f"threshold {report['threshold']['value']}" in shown
    written = Bundle.open(bundle)
    assert {"attribute", CATEGORY, DESCRIPTION, KIND} <= set(written.calibration().curves)
    tree = written.kinds()
    assert tree is not None
    assert tree.threshold == report["threshold"]["value"]
    assert tree.kinds == ONE_TOKEN.kinds
    assert report["kinds"][CATEGORY]["answers"] == 9


def test_descriptions_are_right_if_they_name_the_kind() -> None:
    names = KindNames(None, None, {"cup": ["coffee mug"]})
    assert names.named_in("coffee mug", "A red coffee mug, on a table.")
    assert names.named_in("coffee mug", "the cup")
    assert not names.named_in("cup", "a mug or cups")
