"""Measuring a bundle on photographs: what counts as right, intervals, and the commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import TinyModel
from pack_files import write_pack
from PIL import Image

from evaluation import gallery, photographs, rooms
from evaluation.figures import Bootstrap, auroc, calibration_error
from evaluation.kind_names import KindNames, near_synonyms
from evaluation.unseen import pasted, read_cut_out, stamp_files, stamp_words
from osprey_ros.errors import ImageError, InputError
from osprey_ros.kinds.tree import Kind, KindTree
from osprey_torch.readers.records import Skipped
from training.home.kinds import Kinds

_TREE = KindTree(
    {
        "artifact": Kind("object"),
        "container": Kind("artifact"),
        "cup": Kind("container"),
        "coffee mug": Kind("cup", ("mug",)),
        "tool": Kind("artifact"),
        "wrench": Kind("tool", ("spanner",)),
        "adjustable wrench": Kind("wrench"),
        "sneaker": Kind("artifact"),
        "shoe": Kind("artifact"),
    },
    general=("container", "tool"),
)
_GROUPS = {"cup": ["coffee mug"], "shoe": ["sneaker", "boot"]}


@pytest.fixture(scope="module")
def names() -> KindNames:
    renamed = {"every_set": {"monkey wrench": "adjustable wrench", "trainers": "sneaker"}, "shop": {"trainers": "shoe"}}
    return KindNames(Kinds({}, _TREE, renamed, frozenset({"wrench"})), None, _GROUPS)


@pytest.mark.parametrize(
    ("truth", "answer"),
    [
        ("coffee mug", "mug"),
        ("Coffee_mug", "A coffee mug."),
        ("coffee mug", "cup"),  # the name of its group
        ("wrench", "spanner"),
        ("monkey wrench", "adjustable wrench"),  # the kind of the pack's name
        ("trainers", "shoe"),  # the group of its kind
        ("boot", "shoe"),  # not in the tree
        ("boot", "boot"),
    ],
)
def test_kind_synonym_and_name_of_the_group_are_right(names: KindNames, truth: str, answer: str) -> None:
    assert names.right(names.kind(truth), answer)
    assert names.right_or_general(names.kind(truth), answer)


@pytest.mark.parametrize(
    ("truth", "answer"), [("cup", "coffee mug"), ("shoe", "sneaker"), ("boot", "sneaker"), ("wrench", "cup")]
)
def test_more_specific_and_other_kinds_are_wrong(names: KindNames, truth: str, answer: str) -> None:
    assert not names.right_or_general(names.kind(truth), answer)


def test_a_name_can_have_another_meaning_in_one_pack(names: KindNames) -> None:
    assert (names.kind("trainers"), names.kind("trainers", "shop")) == ("sneaker", "shoe")


def test_held_out_kinds_are_not_trained(names: KindNames) -> None:
    assert names.held_out(names.kind("spanner"))
    assert [names.trained(kind) for kind in ("cup", "wrench", "dragon")] == [True, False, False]


@pytest.mark.parametrize(
    ("answer", "level"),
    [
        ("coffee mug", "specific"),
        ("wrench", "specific"),
        ("tool", "general"),
        ("artifact", "above"),
        ("object", "root"),
        ("dragon", "specific"),
    ],
)
def test_words_have_levels_and_true_general_words_are_accepted(names: KindNames, answer: str, level: str) -> None:
    assert names.level(answer) == level
    assert not names.right("adjustable wrench", answer)
    assert names.right_or_general("adjustable wrench", answer) == (answer in ("wrench", "tool", "artifact", "object"))


def test_without_a_tree_words_are_compared() -> None:
    names = KindNames(None, None, _GROUPS)
    assert names.right("coffee mug", "cup")
    assert not names.right("coffee mug", "mug")
    assert not names.right_or_general("coffee mug", "object")


def test_no_name_is_in_two_near_synonym_groups() -> None:
    groups = near_synonyms()
    members = [name for group in groups.values() for name in group]
    assert len(members) == len(set(members))
    assert len(groups) > 50


def test_intervals_are_the_same_each_time_and_come_from_images() -> None:
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(40) < 0.7, 5)  # the five answers of an image are alike
    images = np.repeat(np.arange(40), 5).tolist()
    every = np.ones(200, bool)
    first, again = (Bootstrap(images).mean(right, every) for _ in range(2))
    assert first == again
    assert first.value == pytest.approx(right.mean())
    assert first.count == 200
    alone = Bootstrap(list(range(200))).mean(right, every)
    assert first.low < alone.low < first.value < alone.high < first.high
    # The same through indices.
    by_rows = Bootstrap(images).statistic(lambda rows: float(right[rows].mean()), every)
    assert (by_rows.low, by_rows.high) == pytest.approx((first.low, first.high))
    nothing = Bootstrap(images).mean(right, ~every)
    assert nothing.to_json() == {"value": None, "low": None, "high": None, "count": 0}


def test_calibration_error_has_bins_of_equal_count() -> None:
    confidences = np.linspace(0, 1, 1000)
    right = np.random.default_rng(1).random(1000) < confidences
    assert calibration_error(confidences, right) < 0.06
    assert calibration_error(np.full(10, 0.9), np.zeros(10, bool)) == pytest.approx(0.9)
    # Two bins: 0.2 of 0 right, 0.6 of 1 right.
    assert calibration_error(np.array([0.6, 0.2]), np.array([True, False]), 2) == pytest.approx((0.4 + 0.2) / 2)


def test_auroc_is_the_chance_that_the_higher_one_is_higher() -> None:
    assert auroc(np.array([0.0, 0.1]), np.array([0.2, 0.3])) == 1
    assert auroc(np.array([0.5, 0.5]), np.array([0.5])) == 0.5
    assert np.isnan(auroc(np.array([]), np.array([1.0])))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two packs with 8 images and cut-outs."""
    folder = tmp_path_factory.mktemp("packs")
    write_pack(folder / "tools", [(f"{n}.png", "test", ["hammer", "box"]) for n in range(3)])
    write_pack(
        folder / "food", [(f"{n}.png", "train" if n else "test", ["apple", "bread", "egg"]) for n in range(5)], 1
    )
    cut_outs = folder / "cut_outs" / "animals" / "birds"
    (cut_outs / "cartoon").mkdir(parents=True)
    pixels = np.zeros((40, 30, 4), np.uint8)
    pixels[10:30, 5:25] = (200, 30, 30, 255)
    for place in ("barn_owl.png", "cartoon/duck.png"):
        Image.fromarray(pixels).save(cut_outs / place)
    return folder


def test_the_command_measures_packs_sizes_and_unseen_kinds(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = "format_version: 1\nkinds: {food: {parent: object}, egg: {parent: food}, apple: {parent: food}}\n"
    (tmp_path / "kinds.yaml").write_text(kinds)
    (tmp_path / "held_out.yaml").write_text("format_version: 1\nheld_out: [egg]\n")
    reports = []
    for name in ("a", "b"):
        file = tmp_path / f"{name}.json"
        options = ["--data", str(data), "--packs", "food,rooms,tools", "--stamps", str(data / "cut_outs")]
        options += ["--kinds", str(tmp_path / "kinds.yaml"), "--threads", "1", "--resamples", "20"]
        options += ["--tabletops", "1"] if name == "a" else []
        assert photographs.main([*options, "--json", str(file)]) == 0
        reports.append(json.loads(file.read_text()))
    against_scenes = reports[0]["unseen"].pop("photographs against tabletops")
    assert against_scenes["wrong_specific"]["count"] == 8
    assert against_scenes["auroc"]["value"] is not None
    assert reports[0] == reports[1]
    shown, report = capsys.readouterr().out, reports[0]
    assert "8 objects in 4 test images of 2 packs" in shown
    assert "absent packs: rooms" in shown
    assert report["left_out"] == 1
    assert {name: own["kind_right"]["count"] for name, own in report["packs"].items()} == {"food": 2, "tools": 6}
    assert report["sizes"]["> 10 %"]["kind_right"]["count"] == 8
    assert {one["truth"] for one in report["answers"]} == {"hammer", "box", "apple", "bread"}
    assert report["unseen"]["held-out kinds"]["wrong_specific"]["count"] == 5  # of all splits
    assert report["unseen"]["stamps"]["wrong_specific"]["count"] == 1
    unknown = [one for one in report["answers"] if one["level"] == "unknown"]
    assert unknown  # nano does not know noise
    for one in unknown:
        assert one["backed_off"]["text"] == "unknown"
        assert one["backed_off"]["reason"]
        assert not one["right"]
        assert not one["right_or_general"]
    assert report["all"]["all"]["unknown"]["value"] == pytest.approx(len(unknown) / 8)
    right = [one["right"] for one in report["answers"]]
    assert report["all"]["all"]["kind_right"]["value"] == pytest.approx(sum(right) / len(right))


def test_what_cannot_be_measured_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert photographs.main(["--data", str(tmp_path), "--packs", "food"]) == 2
    assert "none of the packs food" in capsys.readouterr().err
    with pytest.raises(InputError, match="no PNG file"):
        stamp_files([tmp_path])
    write_pack(tmp_path / "food", [("a.png", "test", ["egg"])])
    assert photographs.main(["--data", str(tmp_path), "--crops", "all", "--threads", "1"]) == 2
    assert "no engine for crops" in capsys.readouterr().err


def test_crops_are_read_if_they_are_asked_for(crop_model: TinyModel, data: Path, tmp_path: Path) -> None:
    answers = []
    for crops in ("none", "all"):
        options = ["--bundle", str(crop_model.bundle), "--data", str(data), "--packs", "tools", "--crops", crops]
        options += ["--threads", "1", "--resamples", "2", "--json", str(tmp_path / "out.json")]
        assert photographs.main(options) == 0
        report = json.loads((tmp_path / "out.json").read_text())
        assert report["crops"] == crops
        answers.append([one["plain"]["raw_confidence"] for one in report["answers"]])
    assert answers[0] != answers[1]


def test_limited_images_are_the_same_each_time(data: Path) -> None:
    kept = [photographs.read_packs(data, None, 2, Skipped())[0] for _ in range(2)]
    assert kept[0] == kept[1]
    assert len({(obj.pack, obj.file_name) for obj in kept[0] if obj.split == "test"}) == 3


def test_the_gallery_draws_photographs_and_a_sheet(data: Path, tmp_path: Path) -> None:
    options = ["--data", str(data), "--count", "3", "--threads", "1"]
    for name in ("a", "b"):
        assert gallery.main([*options, "--output", str(tmp_path / name)]) == 0
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert len(files) == 4
    assert files[-1] == "sheet.png"
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    with Image.open(tmp_path / "a" / "sheet.png") as image:
        assert image.size == (3 * 640, 480)
    more = ["--count", "1", "--rooms", "2", "--columns", "2", "--sheet", str(tmp_path / "all.jpg")]
    assert gallery.main([*options, *more, "--output", str(tmp_path / "c")]) == 0
    with Image.open(tmp_path / "all.jpg") as image:
        assert image.size == (2 * 640, 2 * 480)
    assert not (tmp_path / "c").exists()


def test_cut_outs_are_pasted_with_their_mask(data: Path, tmp_path: Path) -> None:
    files = dict(stamp_files([data / "cut_outs" / "animals"]))
    assert sorted(path.as_posix() for path in files.values()) == [
        "animals/birds/barn_owl.png",
        "animals/birds/cartoon/duck.png",
    ]
    cut_out = read_cut_out(next(iter(files)))
    assert cut_out.shape == (20, 20, 4)
    image, mask = pasted(cut_out, np.zeros((30, 40, 3), np.uint8), np.random.default_rng(0))
    assert image.shape == (480, 640, 3)
    assert 0.02 < mask.mean() < 0.4
    assert (image[mask] == (200, 30, 30)).all()
    assert not image[~mask].any()
    Image.new("RGBA", (4, 4)).save(tmp_path / "empty.png")
    (tmp_path / "broken.png").write_text("no image")
    for name, message in (("empty", "no opaque pixel"), ("broken", "cannot be read")):
        with pytest.raises(ImageError, match=message):
            read_cut_out(tmp_path / f"{name}.png")


def test_the_path_of_a_cut_out_says_what_it_shows() -> None:
    assert stamp_words(Path("animals/birds/barn_owl2.png")) == ["barn owl", "owl", "barn", "bird", "animal"]


def test_rooms_are_measured_with_models_that_are_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for objects in ("home", "tabletop"):
        options = ["--objects", objects, "--scenes", "2", "--threads", "1", "--json", str(tmp_path / "out.json")]
        assert rooms.main(options) == 0
        report = json.loads((tmp_path / "out.json").read_text())
        answers = report["answers"]
        assert report["figures"]["kind_right"]["count"] == len(answers) > 4
        assert report["figures"]["color_right"]["count"] == sum(one["color"] != "" for one in answers)
        assert (f"{len(answers)} objects; {8 if objects == 'home' else 0} models") in capsys.readouterr().out
    assert report["figures"]["kind_right"]["value"] > 0.5  # nano knows tabletops
