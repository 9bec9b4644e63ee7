"""Training on views of real things: packs, features of a frozen tower, words with one token for each kind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from osprey_ros.decoding.prompt import QUESTIONS, PromptBuilder
from osprey_ros.errors import InputError
from osprey_torch.checkpoint import load_checkpoint
from osprey_torch.config import OSPREY_HOME
from osprey_torch.model import Osprey
from training.deadline import Deadline, TimeIsUp
from training.home.dialogues import DialogueMaker, place, relation
from training.home.features import FeatureStore, ObjectFacts, compute_features
from training.home.kinds import KINDS as KINDS_FILE
from training.home.kinds import load_kinds
from training.home.new_kinds import with_new_kinds
from training.home.prepare import standardize
from training.home.rooms import RoomSource
from training.home.tower import FrozenTower, write_tower
from training.home.views import Thing, View, ViewSource
from training.objective import Objective, seed_answers
from training.prepare import prepare
from training.recipe import ModelStart, Recipe, load_recipe, recipe_from_mapping
from training.start import with_tower
from training.tokenizer import train_tokenizer, train_tokenizer_of_kinds
from training.trainer import Trainer

KINDS = ("banana", "coffee mug", "hammer")
SHAPE = {"image_size": 64, "crop_size": 32, "hidden_size": 32, "num_heads": 2, "num_layers": 1, "mask_channels": 16}


class Squares:
    """A photograph of two squares."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds

    def load(self) -> View:
        image = np.full((96, 128, 3), 200, np.uint8)
        things = []
        for number, kind in enumerate(self.kinds):
            mask = np.zeros((96, 128), bool)
            mask[20:60, 10 + 50 * number : 50 + 50 * number] = True
            image[mask] = (220, 20, 20) if number == 0 else (20, 40, 200)
            things.append(Thing(kind, mask))
        return View(image, tuple(things))


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A pack of six photographs with two objects each; one object is of a held-out kind."""
    folder = tmp_path / "pack"
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 255, (60, 80, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
        images.append({"id": number, "file_name": f"images/{number}.png", "width": 80, "height": 60})
        for left, category in ((5, 1 + number % 2), (45, 3)):
            polygon = [left, 10, left + 30, 10, left + 30, 40, left, 40]
            own = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
            annotations.append(own | {"segmentation": [polygon], "area": 900, "iscrowd": 0})
    names = (*KINDS[:2], "cell phone")
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(data))
    return folder


def recipe_of(pack: Path, **views: Any) -> Recipe:
    stage = {"name": "regions", "trains": ["mask_extractor"], "selection": {"max_regions": 4}, "steps": 2}
    words = {"name": "words", "trains": ["projector", "mask_extractor", "language_model"], "steps": 2}
    return recipe_from_mapping(
        {
            "name": "small",
            "model": {"preset": "home", "shape": SHAPE, "tower": {"name": "test_resnet"}},
            "data": {
                "views": {
                    "composed": 4,
                    "packs": [
                        {"folder": str(pack), "source": "generated", "license": "none"},
                        {"folder": str(pack / "absent"), "source": "nowhere", "license": "none"},
                    ],
                }
                | views
            },
            "precision": "bf16",
            "stages": [
                stage | {"batch_size": 2, "learning_rate": 1e-3},
                words | {"selection": {"max_regions": 3, "questions": 2}, "batch_size": 2, "learning_rate": 1e-3},
            ],
        }
    )


def test_home_learns_from_packs_and_skips_absent_ones(
    pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe, run = recipe_of(pack), tmp_path / "run"
    prepared = prepare(recipe, run, workers=1)
    said = capsys.readouterr().err
    assert "absent: training goes on without this pack (nowhere)" in said
    assert "left out: a kind is held out" in said
    files = {path: path.stat().st_mtime_ns for path in (run / "features").rglob("*.npz")}
    assert {path.parent.name for path in files} == {"photographs", "composed"}
    Trainer(recipe, prepared, run).run(save_every=60)
    model, tokenizer = load_checkpoint(run / "checkpoint")
    assert model.config.crop_size == 32
    assert (run / "checkpoint" / "kinds.json").is_file()
    builder = PromptBuilder(tokenizer, model.config.model_spec())
    assert all(len(builder.answer(kind)) == 2 for kind in KINDS)  # the kind and the end
    # A second start computes nothing again.
    prepare(recipe, run, workers=1)
    assert files == {path: path.stat().st_mtime_ns for path in (run / "features").rglob("*.npz")}


def test_a_recipe_of_views_has_a_frozen_tower(pack: Path) -> None:
    recipe = recipe_of(pack)
    with pytest.raises(InputError, match="stage regions: views are for a frozen tower"):
        replace(recipe, stages=(replace(recipe.stages[0], trains=("vision",)),))
    with pytest.raises(InputError, match="composed views need packs"):
        recipe_of(pack, packs=[])
    with pytest.raises(InputError, match="shares are"):
        recipe_of(pack, shares=[1.0])


def test_the_recipe_of_home_is_valid() -> None:
    recipe = load_recipe(Path("training/configs/home.yaml"))
    views = recipe.data.views
    assert views is not None
    assert all(pack.source and pack.license for pack in views.packs)


@pytest.fixture
def tower(tmp_path: Path) -> tuple[Osprey, FrozenTower]:
    torch.manual_seed(0)
    recipe = recipe_of(tmp_path)
    model = Osprey(with_tower(OSPREY_HOME, recipe.model.tower, SHAPE)).eval()
    write_tower(model, tmp_path / "tower")
    return model, FrozenTower(tmp_path / "tower", model.config)


def test_cached_features_give_the_tokens_of_the_model(tower: tuple[Osprey, FrozenTower]) -> None:
    model, frozen = tower
    view = Squares(*KINDS[:2]).load()
    masks = np.stack([thing.mask for thing in view.things])
    found = frozen(view.image, masks)
    assert found is not None
    from osprey_ros.regions.regions import regions_from_masks
    from osprey_ros.vision.preprocess import normalize_and_square, resize_shortest_edge

    spec = model.config.model_spec()
    pixels = normalize_and_square(resize_shortest_edge(view.image, spec.image_size), spec).reshape(1, 3, 64, 64)
    pooling = regions_from_masks(masks).pooling_masks(spec.feature_sizes)
    with torch.no_grad():
        features, _ = model.encode_image(torch.from_numpy(pixels))
        expected, _ = model.encode_regions(
            features, [torch.from_numpy(level) for level in pooling], torch.from_numpy(found.positions).float()
        )
        splits = np.cumsum(model.config.vision_channels)[:-1]
        levels = [torch.from_numpy(level.astype(np.float32)) for level in np.split(found.pooled, splits, axis=1)]
        tokens = model.mask_extractor.mask_tokens(levels)
    assert torch.allclose(tokens, expected, atol=5e-3 * float(expected.abs().max()))
    assert found.crops.shape == found.pooled.shape
    assert found.level.shape == features[3][0].shape


def test_features_survive_a_stop(tower: tuple[Osprey, FrozenTower], tmp_path: Path) -> None:
    config = tower[0].config
    done: list[int] = []

    def stop(count: int) -> None:
        done.append(count)
        Deadline(0.0).check("in a test")

    arguments = (tmp_path / "features", tmp_path / "tower", config, Views(), 102, 1)
    with pytest.raises(TimeIsUp):
        compute_features(*arguments, stop)
    compute_features(*arguments, done.append)
    store = FeatureStore(tmp_path / "features", config)
    assert len(store) == 102
    assert sorted(done[1:]) == [2, 100]
    assert store[101].facts[0] == ObjectFacts("banana", "red", (0.0781, 0.2083, 0.3906, 0.625), 0.130208)
    assert store[101].positions.shape == (1, 28, 28)


class Views:
    """A source of views for another process."""

    def __call__(self) -> Any:
        return lambda number: Squares("banana").load()


def test_views_are_functions_of_their_number_and_their_masks_fit() -> None:
    source = ViewSource([Squares(*KINDS[:2])], [Squares("hammer")], cap=40, seed=3)
    kinds = set()
    for number in range(30):
        view = source.view(number)
        again = source.view(number)
        assert np.array_equal(view.image, again.image)
        assert view.image.dtype == np.uint8
        assert all(thing.mask.shape == view.image.shape[:2] and thing.mask.any() for thing in view.things)
        kinds |= {thing.kind for thing in view.things}
    assert kinds == set(KINDS)


def test_the_first_weights_make_standard_features(tower: tuple[Osprey, FrozenTower], tmp_path: Path) -> None:
    model = tower[0]
    compute_features(tmp_path / "f", tmp_path / "tower", model.config, Noise(), 20, 1, lambda _: None)
    store = FeatureStore(tmp_path / "f", model.config)
    before = model.mask_extractor.res5.weight.detach().clone()
    standardize(model, [store])
    pooled = torch.from_numpy(np.concatenate([view.pooled for view in (store[n] for n in range(20))])).float()
    own = pooled[:, -model.config.vision_channels[3] :]
    expected = ((own - own.mean(0)) / (own.std(0) + 1e-2)) @ before.T
    with torch.no_grad():
        assert torch.allclose(model.mask_extractor.res5(own), expected, atol=0.2 * float(expected.abs().max()))


class Noise:
    def __call__(self) -> Any:
        def view(number: int) -> View:
            image = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
            return View(image, (Thing("banana", np.ones((64, 64), bool)),))

        return view


def test_every_kind_is_one_token_and_texts_survive() -> None:
    kinds = ("cup", "coffee mug", "pen", "pencil case")
    tokenizer = train_tokenizer_of_kinds(["a red coffee mug with a handle"] * 5, 200, kinds)
    lead = len(tokenizer.encode("ASSISTANT:", add_special_tokens=False).ids)
    for kind in kinds:
        assert len(tokenizer.encode(f"ASSISTANT: {kind}", add_special_tokens=False).ids) == lead + 1
    for text in ("ASSISTANT: a red coffee mug, a cupboard and 2 pencil cases", "coffee mugs"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text
    assert "▁cup" not in tokenizer.encode("a cupboard", add_special_tokens=False).tokens


def test_dialogues_are_true_of_the_tree() -> None:
    kinds = load_kinds()
    maker, rng = DialogueMaker(kinds, {}), np.random.default_rng(0)
    facts = [
        ObjectFacts("coffee mug", "red", (0.0, 0.0, 0.2, 0.2), 0.04),
        ObjectFacts("banana", "yellow", (0.7, 0.0, 0.9, 0.2), 0.04),
    ]
    found: dict[str, set[str]] = {}
    for _ in range(60):
        for question, answer, _other in maker.of(facts, 0, rng, 9):
            found.setdefault(question, set()).add(answer)
    assert found[QUESTIONS["category"]] == {"coffee mug"}
    assert found[QUESTIONS["short"]] == {"a red coffee mug"}
    (text,) = found[QUESTIONS["detailed"]]
    assert text.startswith("a red coffee mug with a handle")
    assert text.endswith("at the top left of the image")
    assert found["Where is <mask><pos> relative to <mask><pos>?"] == {"left of a yellow banana"}
    assert found["Is <mask><pos> a cup?"] == {"yes"}
    assert found["Is <mask><pos> a container?"] == {"yes"}
    assert all(answers in ({"yes"}, {"no"}) for question, answers in found.items() if question.startswith("Is "))
    assert place((0.4, 0.4, 0.6, 0.6)) == "in the middle of the image"
    assert relation((0, 0, 1, 1), (0, 0, 1, 1)) is None


def test_rooms_are_views_with_known_kinds() -> None:
    kinds = load_kinds()
    source = RoomSource(kinds, [Path("absent")], tabletops=0.5)
    views = [source.view(number) for number in range(2)]
    assert any(view.things for view in views)
    for view in views:
        assert all(thing.kind in kinds and thing.kind not in kinds.held_out for thing in view.things)
        assert all(view.color(thing) == thing.color for thing in view.things)


def test_objects_of_other_views_are_asked_for_their_category_only(pack: Path, tmp_path: Path) -> None:
    recipe = recipe_of(pack)
    prepared = prepare(recipe, tmp_path / "run", workers=1)
    item = prepared.items(replace(recipe.stages[1].selection, foreign=5), 5)[0]
    own = prepared.items(recipe.stages[1].selection, 5)[0]
    assert item.sequence is not None
    assert own.sequence is not None
    assert len(item.positions) == len(own.positions) + 5 == len(item.features.pooled[0])  # type: ignore[union-attr]
    asked = [number for number in range(1, int(item.sequence.branches.max()) + 1)]
    answers = [item.sequence.targets[item.sequence.branches == number] for number in asked[-5:]]
    kinds = {prepared.category_tokens[list(load_kinds().facts).index(kind)] for kind in KINDS}
    assert all({int(token) for token in answer if token >= 0} <= kinds | {2} for answer in answers)


def test_the_language_model_starts_with_the_classifier(pack: Path, tmp_path: Path) -> None:
    prepared = prepare(recipe_of(pack), tmp_path / "run", workers=1)
    objective = Objective(prepared.model, prepared.labels)
    seed_answers(prepared.model, objective.heads, prepared.category_tokens)
    tokens = torch.randn(4, prepared.model.config.hidden_size)
    head = objective.heads.heads["category"]
    with torch.no_grad():
        expected = head(objective.heads.norm(tokens)) - head.bias
        centered = tokens - tokens.mean(-1, keepdim=True)
        found = prepared.model.lm_head(centered / centered.std(-1, unbiased=False, keepdim=True))
    assert torch.allclose(found[:, list(prepared.category_tokens)], expected, atol=1e-3)


def test_crops_are_dropped_for_half_of_the_images(pack: Path, tmp_path: Path) -> None:
    recipe = recipe_of(pack)
    prepared = prepare(recipe, tmp_path / "run", workers=1)
    items = prepared.items(recipe.stages[1].selection, 5)
    cropped = [items[number].features.cropped for number in range(40)]  # type: ignore[union-attr]
    assert 8 < sum(cropped) < 32
    objective = Objective(prepared.model, prepared.labels)
    assert objective.heads.heads["category"].out_features == len(load_kinds().facts)


def test_a_model_of_home_goes_on_with_new_kinds(pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = recipe_of(pack)
    Trainer(first, prepare(first, tmp_path / "first", workers=1), tmp_path / "first").run(save_every=60)
    old, old_tokenizer = load_checkpoint(tmp_path / "first" / "checkpoint")
    own = tmp_path / "kinds.yaml"
    added = "  snow globe: {parent: decoration}\n  torc: {parent: jewelry}\n"
    own.write_text(f"{KINDS_FILE.read_text().rstrip()}\n{added}")
    annotations = (pack / "annotations.json").read_text()
    (pack / "annotations.json").write_text(annotations.replace('"banana"', '"snow globe"'))
    again = recipe_of(pack, kinds=str(own))
    words = replace(again.stages[1], int4_aware=True)
    again = replace(again, model=ModelStart(checkpoint=str(tmp_path / "first" / "checkpoint")), stages=(words,))
    capsys.readouterr()
    prepared = prepare(again, tmp_path / "again", workers=1)
    assert "649 kinds are known, new are snow globe, torc" in capsys.readouterr().err

    model, tokenizer = prepared.model, prepared.tokenizer
    known, count = old_tokenizer.get_vocab(), old.config.vocab_size
    assert {token: number for token, number in tokenizer.get_vocab().items() if number < count} == {
        token: number for token, number in known.items() if number < count
    }
    builder = PromptBuilder(tokenizer, model.config.model_spec())
    kinds = load_kinds(own)
    assert {len(builder.answer(name)) for name in kinds.facts} == {2}
    assert builder.answer("snow globe")[0] == count
    assert (model.config.vocab_size, model.config.mask_id, model.config.pos_id) == (count + 2, count + 2, count + 3)
    below = [builder.answer(name)[0] for name in kinds.facts if kinds.tree.covers("decoration", name)]
    siblings = [number for number in below if number != count]
    for name, weight in model.state_dict().items():
        before = old.state_dict()[name]
        assert torch.equal(weight[: len(before)], before)
        if len(weight) > len(before):
            assert torch.allclose(weight[count], before[siblings].mean(0))
    Trainer(again, prepared, tmp_path / "again").run(save_every=60)
    trained, _ = load_checkpoint(tmp_path / "again" / "checkpoint")
    assert len(trained.lm_head.weight) == count + 2
    assert "snow globe" in json.loads((tmp_path / "again" / "checkpoint" / "kinds.json").read_text())["kinds"]


def test_new_kinds_need_a_model_with_tokens_for_kinds() -> None:
    tokenizer = train_tokenizer(["a red mug"] * 5, 200)
    model = Osprey(replace(OSPREY_HOME, **SHAPE, vocab_size=200, mask_id=200, pos_id=201, vision_backbone=None))
    with pytest.raises(InputError, match="no tokens for kinds; give a checkpoint of home"):
        with_new_kinds(model, tokenizer, load_kinds())


def test_the_recipe_for_kinds_of_your_own_is_the_guides() -> None:
    root = Path(__file__).resolve().parents[2]
    recipe, guide = load_recipe(root / "training/configs/finetune_home.yaml"), (root / "docs/finetune.md").read_text()
    views = recipe.data.views
    assert views is not None
    assert recipe.model.checkpoint is not None
    assert (root / recipe.model.checkpoint / "manifest.json").is_file()
    assert recipe.stages[-1].int4_aware  # osprey build takes int4 then
    for path in (views.kinds, f"build/{recipe.name}/checkpoint", recipe.model.checkpoint):
        assert path in guide
    assert [pack.folder.partition("/")[0] for pack in views.packs] == ["my_data", "my_data"]
