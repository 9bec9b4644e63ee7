"""Augmentation of images and choice of dialogues: still true, half yes and half no, and by weight."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny import TINY
from tokenizers import Tokenizer

from osprey_ros.decoding.prompt import MASK, QUESTIONS, PromptBuilder
from osprey_ros.errors import InputError
from osprey_sim.catalog import CLASSES, COLORS
from osprey_sim.dialogues import (
    COLOR_QUESTION,
    KINDS,
    PAIR_QUESTION,
    PLACED,
    RELATION_QUESTION,
    RegionFacts,
    all_texts,
    dialogues,
)
from osprey_sim.words import RELATIONS
from osprey_torch.checkpoint import load_checkpoint
from osprey_torch.config import OSPREY_NANO
from osprey_torch.model import Osprey
from training import train
from training.data import CATEGORIES, LABELS, NO_LABEL, Item, SceneDataset, Selection
from training.recipe import load_recipe, recipe_from_mapping
from training.runs import TIME_IS_UP
from training.store import SceneStore, render_scenes
from training.tokenizer import train_tokenizer

ROOT = Path(__file__).parents[2]
SCENES = 4


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SceneStore:
    return render_scenes(tmp_path_factory.mktemp("scenes"), "train", SCENES, 64, workers=1, progress=lambda _: None)


@pytest.fixture(scope="module")
def tokenizer(store: SceneStore) -> Tokenizer:
    texts = [text for i in range(len(store)) for facts in store.facts(i) for text in all_texts(facts)]
    return train_tokenizer(texts, vocab_size=300)


def _dataset(store: SceneStore, tokenizer: Tokenizer, selection: Selection) -> SceneDataset:
    spec = TINY.with_vocabulary(tokenizer.token_to_id("<mask>")).model_spec()
    return SceneDataset(store, spec, PromptBuilder(tokenizer, spec), selection, seed=1)


def _words(item: Item, tokenizer: Tokenizer) -> str:
    assert item.sequence is not None
    return tokenizer.decode([int(token) for token in item.sequence.tokens if token >= 0])


def _colors(item: Item) -> dict[int, np.ndarray]:
    """Mean pixel of each region whose category no other region has, by category."""
    side = item.masks[0].shape[-1]
    small = item.pixels.reshape(3, side, 64 // side, side, 64 // side).mean((2, 4))
    counts = Counter(item.labels["category"])
    return {
        label: small[:, mask > 0].mean(1)
        for label, mask in zip(item.labels["category"], item.masks[0], strict=True)
        if counts[label] == 1 and mask.sum() >= 8
    }


LARGE = 150  # pixels, so that a region's mean does not hang on its edge


def test_masks_stay_on_their_regions(store: SceneStore, tokenizer: Tokenizer) -> None:
    plain = _dataset(store, tokenizer, Selection(99, LARGE))
    changed = _dataset(store, tokenizer, Selection(99, LARGE, flip=True, zoom=1.6))
    compared, enlarged = 0, 0
    for number in range(6 * SCENES):
        before, after = _colors(plain[number]), _colors(changed[number])
        enlarged += set(changed[number].labels["size"]) == {NO_LABEL}
        for label in set(before) & set(after):
            np.testing.assert_allclose(after[label], before[label], atol=0.35, err_msg=CATEGORIES[label])
            compared += 1
    assert compared > 20
    assert 3 <= enlarged <= 21
    # The same number is the same item, whatever came before it.
    np.testing.assert_array_equal(changed[5].pixels, changed[5].pixels)


def test_words_of_changed_images_are_still_true(store: SceneStore, tokenizer: Tokenizer) -> None:
    dataset = _dataset(store, tokenizer, Selection(6, questions=9, flip=True, zoom=1.6))
    sized = [QUESTIONS["short"][:20], QUESTIONS["detailed"][:20]]
    kinds = set()
    for number in range(6 * SCENES):
        item = dataset[number]
        text = _words(item, tokenizer)
        plain = QUESTIONS["detailed"][:20] in text
        enlarged = set(item.labels["size"]) == {NO_LABEL}
        if enlarged:
            assert not any(question in text for question in sized)
            assert " small " not in text
            assert " large " not in text
        if not plain:
            assert not any(f" {relation} " in text for relation in RELATIONS)
        assert "What color is" in text or "category" in text
        kinds.add((enlarged, plain))
    assert kinds == {(False, True), (False, False), (True, False)}, "as it was, mirrored, enlarged"


def test_recolored_images_keep_their_shapes_and_lose_their_colors(store: SceneStore, tokenizer: Tokenizer) -> None:
    plain = _dataset(store, tokenizer, Selection(99, LARGE))
    other = _dataset(store, tokenizer, Selection(99, LARGE, questions=9, recolor=1))
    mean, std = (np.asarray(v)[:, None, None] for v in (TINY.image_mean, TINY.image_std))
    for number in range(SCENES):
        before, after = (dataset[number].pixels * std + mean for dataset in (plain, other))
        assert np.abs(before - after).max() > 0.1
        np.testing.assert_allclose(np.sort(before, axis=0), np.sort(after, axis=0), atol=1e-5)
        assert set(other[number].labels["color"]) == {NO_LABEL}
        assert other[number].labels["category"] == plain[number].labels["category"]
        text = _words(other[number], tokenizer)
        assert "category" in text
        assert not any(f" {color} " in f"{text} " for color in COLORS)


def test_position_tokens_are_asked_for_the_place(store: SceneStore, tokenizer: Tokenizer) -> None:
    dataset = _dataset(store, tokenizer, Selection(99, LARGE, flip=True, zoom=1.6))
    for number in range(3 * SCENES):
        item = dataset[number]
        for grid, column, row in zip(item.positions, item.labels["column"], item.labels["row"], strict=True):
            rows, columns = np.nonzero(grid)
            if not len(rows):  # too small for the grid
                assert column == row == NO_LABEL
                continue
            assert column == int((columns.mean() + 0.5) / grid.shape[1] * 12)
            assert row == int((rows.mean() + 0.5) / grid.shape[0] * 12)


def test_pairs_name_both_regions(store: SceneStore, tokenizer: Tokenizer) -> None:
    """The answer's words are those of the second region that the sample points at."""
    dataset = _dataset(store, tokenizer, Selection(99, LARGE, questions=1, weights={"category": 1e-6, "pair": 1e6}))
    question = PAIR_QUESTION.replace("<mask><pos>", "").split()[0]
    pairs = 0
    for number in range(SCENES):
        item = dataset[number]
        assert item.sequence is not None
        for branch in range(1, int(item.sequence.branches.max()) + 1):
            rows = item.sequence.branches == branch
            tokens, named = item.sequence.tokens[rows], item.sequence.region[rows]
            text = tokenizer.decode([int(token) for token in tokens if token >= 0])
            if "relative" not in text:
                continue
            assert text.startswith(question)
            first, second = named[tokens == MASK]
            assert first != second
            category, color = (LABELS[name][item.labels[name][second]] for name in ("category", "color"))
            assert text.endswith(f"{color} {category}")
            pairs += 1
    assert pairs > 5


def test_brightness_changes_light_alone(store: SceneStore, tokenizer: Tokenizer) -> None:
    plain = _dataset(store, tokenizer, Selection(99, LARGE))
    lit = _dataset(store, tokenizer, Selection(99, LARGE, brightness=0.3))
    mean, std = (np.asarray(v)[:, None, None] for v in (TINY.image_mean, TINY.image_std))
    factors = []
    for number in range(3 * SCENES):
        before, after = (dataset[number].pixels * std + mean for dataset in (plain, lit))
        dark = before < 0.6  # what is not cut off at white
        factors.append(float((after[dark] / before[dark]).mean()))
        np.testing.assert_array_equal(plain[number].masks[0].sum(), lit[number].masks[0].sum())
    assert min(factors) > 0.68
    assert max(factors) < 1.32
    assert max(factors) - min(factors) > 0.2


def _object(name: str, **values: str) -> RegionFacts:
    detailed = "a red thing on the left side of a plain table, behind a blue bowl"
    parts = CLASSES[name].parts
    facts = RegionFacts("object", 1, 500, name, f"a red {name}", detailed, "red", "medium", parts, "plain")
    return replace(facts, **values)  # type: ignore[arg-type]


def _said(*arguments: Any, **options: Any) -> dict[str, str]:
    """Answers of a region's dialogues, by question."""
    return {question: answer for question, answer, _ in dialogues(*arguments, **options)}


def test_as_many_answers_are_yes_as_no() -> None:
    rng = np.random.default_rng(0)
    said: dict[str, Counter[str]] = {"Is": Counter(), "Does": Counter()}
    near, beside = 0, (_object("bowl", id=2), _object("duck", id=3))
    for _ in range(200):
        for name in CLASSES:
            for question, answer, _ in dialogues(_object(name), rng, beside=beside):
                first = question.split()[0]
                if first in said:
                    said[first][answer] += 1
                    near += first == "Is" and answer == "no" and question.split()[-1] in ("bowl?", "duck?")
    for counts in said.values():
        assert counts["yes"] / counts.total() == pytest.approx(0.5, abs=0.02)
    # Half of the absent classes are in the image, so that the image alone is not enough to answer.
    assert near / said["Is"]["no"] == pytest.approx(0.5 + 0.5 * 2 / 23, abs=0.06)


def test_kinds_are_drawn_by_weight() -> None:
    rng = np.random.default_rng(0)
    first: Counter[str] = Counter()
    for _ in range(2000):
        told = dialogues(_object("mug"), rng, {"relation": 4, "short": 0})
        assert QUESTIONS["short"] not in [dialogue.question for dialogue in told]
        first[told[0].question] += 1
    # Weights 4 for the place and 1 for each of the five others that are left.
    assert first[RELATION_QUESTION] / 2000 == pytest.approx(4 / 9, abs=0.04)
    assert first[COLOR_QUESTION] / 2000 == pytest.approx(1 / 9, abs=0.03)
    assert _said(_object("mug"), rng)[RELATION_QUESTION] == "behind a blue bowl"
    alone = _object("mug", detailed="a red mug with a handle on a plain table")
    assert RELATION_QUESTION not in _said(alone, rng), "nothing stands near enough to be named"
    silent = _said(_object("mug"), rng, {"relation": 0})
    assert RELATION_QUESTION not in silent
    assert silent[QUESTIONS["detailed"]] == "a red thing on the left side of a plain table"


def test_pairs_are_made_of_objects_that_are_there() -> None:
    rng = np.random.default_rng(0)
    mug = _object("mug", relations=(("behind", 2), ("to the left of", 3), ("in front of", 4)))
    others = [_object("bowl", id=2), _object("duck", id=3), _object("lamp", id=5)]
    asked = {(d.answer, d.other) for _ in range(40) for d in dialogues(mug, rng, beside=others) if d.other}
    assert asked == {("behind a red bowl", 2), ("to the left of a red duck", 3)}
    assert len(dialogues(mug, rng, beside=others)) == len(KINDS)
    assert PAIR_QUESTION not in _said(mug, rng), "none of them is shown"
    assert PAIR_QUESTION not in _said(mug, rng, without=PLACED, beside=others)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"zoom": 0.5}, "zoom is 0.5"),
        ({"brightness": 1}, "brightness is 1"),
        ({"recolor": 2}, "recolor is 2"),
        ({"weights": {"shape": 1}}, "shape.*expected category, short"),
        ({"weights": {"part": -1}}, "none below 0"),
        ({"weights": {"category": 0}}, "some for category"),
    ],
)
def test_selections_that_cannot_be_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Selection(3, questions=1, **values)


RECIPE = {
    "name": "tiny",
    "model": {"preset": "nano", "shape": {
        name: list(v) if isinstance(v, tuple) else v
        for name, v in vars(TINY).items() if name not in ("image_mean", "image_std", "mask_id", "pos_id")
    } | {"vocab_size": 300, "max_positions": 400}},
    "data": {"scenes": 4, "scene_size": [96, 72]},
    "stages": [
        {"name": "0", "trains": ["vision", "mask_extractor"], "steps": 2, "batch_size": 2, "learning_rate": 1e-3,
         "selection": {"max_regions": 4, "min_area": 4, "flip": True, "zoom": 1.5, "brightness": 0.2,
                       "recolor": 0.3}},
        {"name": "3", "trains": ["projector", "language_model"], "steps": 1, "batch_size": 2, "learning_rate": 1e-3,
         "selection": {"max_regions": 3, "min_area": 4, "questions": 2, "weights": {"relation": 3}}},
    ],
}  # fmt: skip


def test_a_run_in_slices_ends_where_one_without_a_stop_does(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    arguments = ["--config", str(path), "--workers", "1", "--output"]
    assert train.main([*arguments, str(tmp_path / "whole")]) == 0
    shutil.copytree(tmp_path / "whole" / "scenes", tmp_path / "sliced" / "scenes")
    stops = []
    for _ in range(6):
        status = train.main([*arguments, str(tmp_path / "sliced"), "--minutes", "1e-9"])
        if status == 0:
            break
        assert status == TIME_IS_UP
        progress = json.loads((tmp_path / "sliced" / "progress.json").read_text())
        stops.append((progress["stage"], progress["step"]))
    assert stops == [(0, 1), (0, 2), (1, 1)]
    expected, found = (load_checkpoint(tmp_path / run / "checkpoint")[0].state_dict() for run in ("whole", "sliced"))
    assert found["lm_head.weight"].shape[1] == TINY.hidden_size
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=name)
    ids = np.load(next((tmp_path / "whole" / "scenes").glob("*-instances.npy")))
    assert ids.shape == (4, 72, 96)


def test_two_processes_learn_what_one_learns_of_two_halves(tmp_path: Path) -> None:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    running = {}
    for run, launched, accumulated in (("two", launcher, 1), ("halves", [], 2)):
        path = tmp_path / f"{run}.yaml"
        path.write_text(yaml.safe_dump({**RECIPE, "log_every": 1, "gradient_accumulation": accumulated}))
        script = ["-m", "training.train", "--config", str(path), "--workers", "1", "--output", str(tmp_path / run)]
        command = [sys.executable, *launched, *script]
        running[run] = subprocess.Popen(command, env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        told = {run: process.communicate(timeout=600)[1] for run, process in running.items()}
    finally:
        for process in running.values():
            process.terminate()  # the launcher ends its processes then
            process.wait(60)
    assert [process.returncode for process in running.values()] == [0, 0], told
    assert told["two"].count("on 2 x cpu") == told["halves"].count("on 1 x cpu") == 1
    two, halves = (
        [json.loads(line)["loss"] for line in (tmp_path / run / "log.jsonl").read_text().splitlines()] for run in told
    )
    assert len(two) == 3
    assert two == pytest.approx(halves, rel=1e-5)
    expected, found = (load_checkpoint(tmp_path / run / "checkpoint")[0].state_dict() for run in told)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5, msg=name)


def test_a_shape_that_cannot_be_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shape, message in (({"widths": 3}, "model.shape: .*widths"), ({"image_size": 100}, "multiple of")):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**RECIPE, "model": {"preset": "nano", "shape": shape}}))
        assert train.main(["--config", str(path), "--output", str(tmp_path / message[:4])]) == 2
        assert capsys.readouterr().err
    with pytest.raises(InputError, match="shape goes with preset"):
        recipe_from_mapping({**RECIPE, "model": {"checkpoint": "x", "shape": {"image_size": 64}}})


def test_the_wide_nano_keeps_within_its_bounds() -> None:
    recipe = load_recipe(Path(train.__file__).parent / "configs" / "nano_gpu.yaml")
    shape = {name: tuple(v) if isinstance(v, list) else v for name, v in recipe.model.shape.items()}
    model = Osprey(replace(OSPREY_NANO, **shape))
    assert sum(p.numel() for p in model.parameters()) <= 12e6
