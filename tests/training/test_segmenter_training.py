"""Training of the segmenter: images, prompts, and a run of a few steps from nothing to a checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lite0_weights import write_lite0_weights
from pack_files import write_pack
from safetensors.torch import load_file

from osprey_ros.errors import InputError
from osprey_ros.segmenter.spec import BOTTOM_RIGHT, OBJECT, TOP_LEFT
from osprey_torch.small_segmenter import SmallSegmenter, SmallSegmenterConfig, Tower
from training.segmenter.__main__ import main
from training.segmenter.images import IGNORED, LEAST_PIXELS, Simulated, fit, photographs
from training.segmenter.objective import losses
from training.segmenter.prompts import depths, objectness, sample_prompts

SIZE = {"height": 96, "width": 128, "fine_channels": 8, "coarse_channels": 8, "prompt_channels": 16}


def write_recipe(folder: Path, **changes: Any) -> Path:
    recipe: Mapping[str, Any] = {
        "name": "tiny",
        "tower": str(write_lite0_weights(folder / "lite0.pth")),
        "images": {"tabletops": 4, "shares": [1, 0, 0, 0]},
        "steps": 3,
        "whole_images": 1,
        "prompts": 3,
        "model": SIZE,
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(dict(recipe)))
    return path


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    config = str(write_recipe(tmp_path))
    arguments = ["--config", config, "--workers", "1"]
    assert main([*arguments, "--output", str(tmp_path / "whole")]) == 0
    shutil.copytree(tmp_path / "whole/features", tmp_path / "stopped/features")
    stopped = [*arguments, "--output", str(tmp_path / "stopped"), "--minutes", "0.0001"]
    assert [main(stopped) for _ in range(3)] == [3, 3, 0]  # time is up after each step
    whole, parts = (load_file(tmp_path / name / "checkpoint/model.safetensors") for name in ("whole", "stopped"))
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
    config_file = json.loads((tmp_path / "whole/checkpoint/config.json").read_text())
    assert config_file["model_type"] == "osprey_segmenter"
    assert SmallSegmenterConfig.from_json(config_file) == SmallSegmenterConfig(**SIZE)


def test_it_learns(tmp_path: Path) -> None:
    config = write_recipe(tmp_path, steps=60, images={"tabletops": 2, "shares": [1, 0, 0, 0]}, learning_rate=0.01)
    assert main(["--config", str(config), "--output", str(tmp_path / "run"), "--workers", "1"]) == 0
    first, last = (json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines())
    assert (first["step"], last["step"]) == (50, 60)
    assert last["mask"] < 0.9 * first["mask"]


def test_a_run_of_another_recipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_recipe(tmp_path, steps=1)
    run = ["--config", str(config), "--output", str(tmp_path / "run"), "--workers", "1"]
    assert main(run) == 0
    write_recipe(tmp_path, steps=2)
    assert main(run) == 2
    assert "another recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"tower": "missing.pth"}, "missing.pth cannot be read"),
        ({"images": {}}, "give tabletops, rooms, composed or photographs"),
        ({"images": {"composed": 3}}, "composed and photographs need packs"),
        ({"steps": 0}, "steps is 0"),
        ({"model": {"height": 100}}, "height is 100; it must be a multiple of 32"),
        ({"speed": 3}, "unknown keys speed"),
    ],
)
def test_recipes_that_are_not_possible(
    changes: dict[str, Any], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(write_recipe(tmp_path, **changes)), "--output", str(tmp_path / "run")]) == 2
    assert text in capsys.readouterr().err


def test_images_fit_the_input_with_their_ids() -> None:
    image = np.full((60, 30, 3), 200, np.uint8)
    ids = np.zeros((60, 30), np.uint8)
    ids[10:50, 5:25], ids[0, 0] = 7, 9
    labeled = fit(image, ids, (96, 128))
    assert labeled.pixels.shape == (96, 128, 3)
    assert (labeled.pixels[:, :48] == 200).all()
    assert (labeled.ids[:, 48:] == IGNORED).all()
    assert set(np.unique(labeled.ids[:, :48])) == {0, 7, IGNORED}  # 9 has too few pixels
    assert (labeled.ids == 7).sum() == 64 * 32
    assert LEAST_PIXELS > 3


def test_simulated_images_have_each_visible_object() -> None:
    image = Simulated((), 1.0, (240, 320))()(0)
    numbers = set(np.unique(image.ids)) - {0, IGNORED}
    assert len(numbers) >= 3
    assert image.pixels.shape == (240, 320, 3)


def test_photographs_are_composed_or_as_they_are(tmp_path: Path) -> None:
    images = [("a.png", "train", ["mug", "jar"]), ("b.png", "train", ["mug"]), ("c.png", "test", ["jar"])]
    pack, absent = write_pack(tmp_path / "pack", images), tmp_path / "absent"
    found = photographs([(pack, False), (absent, True)], (96, 128))
    assert len(found) == 2
    image = found()(3)
    assert image.ids.shape == (96, 128)
    assert np.array_equal(image.ids, found()(3).ids)
    plain = replace(found, composed=False)()
    assert {len(set(np.unique(plain(n).ids)) - {0, IGNORED}) for n in range(2)} == {1, 2}


def test_prompts_lie_on_their_objects() -> None:
    ids = np.zeros((96, 128), np.uint8)
    ids[20:60, 30:80], ids[70:90, 100:120] = 1, 2
    depth = depths(ids)
    prompts = sample_prompts(ids, depth, 60, np.random.default_rng(0))
    assert prompts is not None
    kinds = set()
    for coords, labels, target in zip(prompts.coords, prompts.labels, prompts.targets, strict=True):
        number = 1 if target.sum() > 100 else 2
        assert target.sum() * 16 == (ids == number).sum()
        for (x, y), label in zip(coords, labels, strict=True):
            if label == OBJECT:
                assert ids[int(y), int(x)] == number
            elif label == 0:
                assert ids[int(y), int(x)] != number
        kinds |= set(labels.tolist())
        if TOP_LEFT in labels:
            left, top = coords[labels == TOP_LEFT][0]
            right, bottom = coords[labels == BOTTOM_RIGHT][0]
            assert left < right
            assert top < bottom
    assert kinds == {-1, 0, 1, 2, 3}
    assert sample_prompts(np.zeros_like(ids), {}, 3, np.random.default_rng(0)) is None


def test_objectness_is_largest_inside() -> None:
    ids = np.zeros((96, 128), np.uint8)
    ids[16:64, 32:96], ids[80:96] = 1, IGNORED
    target, weight = objectness(ids, depths(ids), 0.1)
    assert target.shape == (12, 16)
    assert target[4:6, 7:9].min() > 0.9
    assert target[:2].max() == 0
    assert weight[0, 0] == pytest.approx(0.1)
    assert weight[5, 7] == 1
    assert weight[11].max() == 0


def test_the_loss_is_least_for_the_true_mask() -> None:
    torch.manual_seed(0)
    model = SmallSegmenter(SmallSegmenterConfig(**SIZE))
    encoded = model.encode(torch.zeros(1, 3, 96, 128))
    coords, labels = torch.full((1, 1, 1, 2), 40.0), torch.ones(1, 1, 1, dtype=torch.int64)
    found = model.decode(encoded, coords, labels)
    target = torch.zeros(1, 1, 24, 32)
    target[..., 5:15, 5:15] = 1
    nothing = torch.zeros(1, 12, 16)
    known = torch.ones(1, 24, 32)
    true = found._replace(logits=(target[:, :, None] * 20 - 10).expand(1, 1, 3, 24, 32))
    wrong, right = (losses(encoded, one, target, known, nothing, nothing) for one in (found, true))
    assert right.mask < wrong.mask
    assert right.iou == 1


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(InputError, match="the weights lack"):
        Tower().load_lite0({})
