"""Finetuning on masks of your own: what the recipe asks for, and how the result is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from evaluation import own_masks
from training import instructions
from training.instructions import __main__ as command
from training.recipe import load_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    arguments = ["--scenes", "3", "--split", "test", "--templates", "--kinds", "masks", "--output", str(folder)]
    assert command.main(arguments) == 0
    return folder


def test_nano_is_right_about_most_masks_of_its_own_world(old: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "shares.json"
    files = ["--file", str(old / "masks.json"), "--images", str(old / "images"), "--json", str(out)]
    assert own_masks.main(["--bundle", str(ROOT / "engines" / "nano"), *files]) == 0
    shares = json.loads(out.read_text())
    annotations = json.loads((old / "masks.json").read_text())["annotations"]
    colors = [share for share in shares if share["question"].startswith("What color")]
    assert sum(share["asked"] for share in colors) == sum("attributes" in a for a in annotations) > 10
    assert sum(share["right"] for share in colors) / sum(share["asked"] for share in colors) > 0.85
    categories = [share for share in shares if share["question"].startswith("What is the category")]
    assert sum(share["asked"] for share in categories) == len(annotations)
    for share in categories:
        assert sum(share["instead"].values()) <= share["asked"] - share["right"]
    assert "What color is <mask><pos>?" in capsys.readouterr().out


def test_a_file_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--file", str(tmp_path / "none.json"), "--images", str(tmp_path)]
    assert own_masks.main(["--bundle", str(ROOT / "engines" / "nano"), *files]) == 2
    assert "none.json cannot be read" in capsys.readouterr().err


def test_a_file_without_a_usable_mask_is_nothing_to_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = {"id": 1, "file_name": "1.png", "height": 4, "width": 4}
    broken = {"id": 7, "image_id": 1, "category_id": 1, "segmentation": []}  # a box without a mask
    data = {"images": [image], "annotations": [broken], "categories": [{"id": 1, "name": "mug"}]}
    file = tmp_path / "masks.json"
    file.write_text(json.dumps(data))
    out = tmp_path / "shares.json"
    files = ["--file", str(file), "--images", str(tmp_path), "--json", str(out)]
    assert own_masks.main(["--bundle", str(ROOT / "engines" / "nano"), *files]) == 2
    said = capsys.readouterr().err
    assert "its segmentation has no polygon" in said
    assert f"own_masks: nothing to judge: {file}" in said
    assert not out.exists()


def test_a_bad_image_is_named_and_the_others_are_judged(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads((old / "masks.json").read_text())
    first = data["images"][0]
    exif = Image.Exif()
    exif[0x0112] = 3
    good = Image.open(old / "images" / first["file_name"])
    good.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "turned.jpg", quality=95, exif=exif)
    whole = (tmp_path / "turned.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    own = [annotation for annotation in data["annotations"] if annotation["image_id"] == first["id"]]
    images = [{**first, "file_name": "turned.jpg"}, {**first, "id": "cut", "file_name": "cut.jpg"}]
    crowd = {**own[0], "id": "crowd", "iscrowd": 1}
    annotations = [*({**one, "image_id": str(first["id"])} for one in own), {**own[0], "image_id": "cut"}, crowd]
    file, out = tmp_path / "masks.json", tmp_path / "shares.json"
    file.write_text(json.dumps({**data, "images": images, "annotations": annotations}))
    files = ["--file", str(file), "--images", str(tmp_path), "--json", str(out)]
    assert own_masks.main(["--bundle", str(ROOT / "engines" / "nano"), *files]) == 0
    said = capsys.readouterr().err
    assert "2 records or single masks were skipped" in said
    assert "cut.jpg cannot be read: it is a damaged JPEG file: its end-of-image marker is missing" in said
    assert "1 left out: an annotation has iscrowd 1" in said
    categories = [
        share for share in json.loads(out.read_text()) if share["question"].startswith("What is the category")
    ]
    assert sum(share["asked"] for share in categories) == len(own)
    assert sum(share["right"] for share in categories) > 0.7 * len(own)  # of pixels as labeling tools show them


def test_the_guides_recipe_learns_adapters_beside_old_images() -> None:
    recipe = load_recipe(Path(instructions.__file__).parents[1] / "configs" / "finetune_lora.yaml")
    guide = (ROOT / "docs" / "finetune.md").read_text()
    assert recipe.lora is not None
    assert recipe.data.scenes > 0
    (source,) = recipe.data.sources
    assert source.reader == "own_masks"
    assert str(Path(source.file).parent) in guide
    assert recipe.model.checkpoint is not None
    assert recipe.model.checkpoint in guide
