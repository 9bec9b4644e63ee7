"""Training: what is true of a region, what each stage moves, int4 rounding, and going on after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TINY
from tokenizers import Tokenizer

from osprey_ros.decoding.prompt import PromptBuilder
from osprey_ros.errors import InputError
from osprey_sim.dialogues import all_texts, dialogues
from osprey_torch.checkpoint import load_checkpoint
from osprey_torch.config import OspreyConfig
from osprey_torch.model import Osprey
from osprey_torch.quantize import quantize_linear
from training.cpu import prepare_for_cpu
from training.data import SceneDataset, Selection, batches
from training.int4_aware import int4_weights, settle_on_int4
from training.objective import Objective
from training.prepared import Prepared
from training.recipe import DataSources, ModelStart, Recipe, load_recipe
from training.runs import claim
from training.stages import GROUPS, Stage, freeze_all_but, group_parameters
from training.store import SceneStore, render_scenes
from training.tokenizer import train_tokenizer
from training.trainer import Trainer

SCENES = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SceneStore:
    return render_scenes(tmp_path_factory.mktemp("scenes"), "train", SCENES, 64, workers=1, progress=lambda _: None)


@pytest.fixture(scope="module")
def tokenizer(store: SceneStore) -> Tokenizer:
    texts = [text for i in range(len(store)) for facts in store.facts(i) for text in all_texts(facts)]
    return train_tokenizer(texts, vocab_size=300)


@pytest.fixture(scope="module")
def config(tokenizer: Tokenizer) -> OspreyConfig:
    return TINY.with_vocabulary(tokenizer.token_to_id("<mask>"))


def test_rendered_scenes_are_kept_and_not_rendered_again(store: SceneStore) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in store.folder.iterdir()}
    done: list[int] = []
    again = render_scenes(store.folder, "train", SCENES, 64, workers=1, progress=done.append)
    assert sum(done) == SCENES == len(again)
    assert {path: path.stat().st_mtime_ns for path in store.folder.iterdir()} == stamps


def test_facts_match_the_id_images(store: SceneStore) -> None:
    for index in range(len(store)):
        _, instances, parts = store.images(index)
        for facts in store.facts(index):
            ids = instances if facts.kind == "object" else parts
            assert np.count_nonzero(ids == facts.id) == facts.area > 0


def test_yes_and_no_are_true_and_both_occur(store: SceneStore) -> None:
    rng = np.random.default_rng(0)
    answers = set()
    for index in range(len(store)):
        for facts in store.facts(index):
            for question, answer, _ in dialogues(facts, rng):
                if question.startswith("Is "):
                    asked = question.split()[-1].rstrip("?")
                    assert (answer == "yes") == (asked == facts.category)
                    answers.add(answer)
    assert answers == {"yes", "no"}


def test_tokenizer_spells_every_text_and_gives_it_back(store: SceneStore, tokenizer: Tokenizer, config) -> None:
    prompts = PromptBuilder(tokenizer, config.model_spec())
    for facts in store.facts(0):
        for _, answer, _ in dialogues(facts, np.random.default_rng(0)):
            ids = prompts.answer(answer)
            assert 0 not in ids, "an unknown token"
            assert prompts.decode(ids) == answer


def test_groups_hold_every_parameter_once_and_freezing_goes_by_group(config: OspreyConfig) -> None:
    model = Osprey(config)
    groups = group_parameters(model)
    assert sum(len(g) for g in groups.values()) == len(list(model.parameters()))
    for name in GROUPS:
        assert {id(p) for p in freeze_all_but(model, (name,))} == {id(p) for p in groups[name]}
        assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in groups[name]}
    with pytest.raises(ValueError, match="towers"):
        Stage("x", ("towers",), Selection(1), 1, 1e-3, steps=1)


def test_settled_weights_lose_nothing_in_int4(config: OspreyConfig) -> None:
    model = Osprey(config)
    weight = model.model.layers[0].mlp.down_proj.weight
    before = weight.detach().clone()
    with int4_weights(model, enabled=True):
        rounded = weight.detach().clone()
        assert not torch.equal(rounded, before)
    assert torch.equal(weight, before), "the exact weights are back"
    settle_on_int4(model)
    assert torch.equal(weight, rounded)
    quantized = quantize_linear(weight.detach().numpy())
    np.testing.assert_allclose(quantized.dequantize(), weight.detach().numpy(), atol=1e-7)


def _recipe(*stages: Stage, **values: Any) -> Recipe:
    return Recipe("tiny", ModelStart(preset="nano"), DataSources(scenes=SCENES), stages, **values)


def _prepared(store: SceneStore, config: OspreyConfig, tokenizer: Tokenizer) -> Prepared:
    torch.manual_seed(0)
    spec = config.model_spec()
    prompts = PromptBuilder(tokenizer, spec)
    return Prepared(
        Osprey(config),
        tokenizer,
        len(store),
        lambda selection, seed: SceneDataset(store, spec, prompts, selection, seed),
    )


def test_a_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    stage = Stage("x", ("projector",), Selection(1, questions=1), 1, 1e-3, steps=1)
    claim(tmp_path, _recipe(stage))
    claim(tmp_path, _recipe(stage))
    with pytest.raises(InputError, match="another recipe"):
        claim(tmp_path, _recipe(stage, seed=2))
    # The note is written at once, so that processes that claim the same run always read all of it.
    (note,) = tmp_path.iterdir()
    written = note.stat().st_mtime_ns, note.stat().st_ino
    claim(tmp_path, _recipe(stage))
    assert (note.stat().st_mtime_ns, note.stat().st_ino) == written


class _Stopping(Trainer):
    """Stops in the middle of its second stage, as a kill would."""

    calls = 0

    def _loss(self, model, batch):
        self.calls += 1
        if self.calls == 4:
            raise KeyboardInterrupt
        return super()._loss(model, batch)


@pytest.mark.parametrize("stop", ["inside a stage", "between stages"])
def test_a_stopped_run_ends_with_the_weights_of_an_uninterrupted_one(
    store: SceneStore, config: OspreyConfig, tokenizer: Tokenizer, tmp_path: Path, stop: str
) -> None:
    recipe = _recipe(
        Stage("0", ("vision", "mask_extractor"), Selection(4, flip=True), 2, 1e-3, steps=2),
        Stage("3", ("projector", "language_model"), Selection(3, questions=2), 2, 1e-3, steps=3, int4_aware=True),
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    Trainer(recipe, _prepared(store, config, tokenizer), whole).run(save_every=1e9)
    # With nothing saved inside a stage, the run goes on from the end of the stage before.
    seconds = 0 if stop == "inside a stage" else 1e9
    with pytest.raises(KeyboardInterrupt):
        _Stopping(recipe, _prepared(store, config, tokenizer), stopped).run(save_every=seconds)
    progress = json.loads((stopped / "progress.json").read_text())
    assert (progress["stage"], progress["step"]) == (1, 1 if stop == "inside a stage" else 0)
    Trainer(recipe, _prepared(store, config, tokenizer), stopped).run(save_every=0)
    expected, _ = load_checkpoint(whole / "checkpoint")
    found, _ = load_checkpoint(stopped / "checkpoint")
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=0, atol=0, msg=name)
    assert list(whole.glob("**/events.out.tfevents*")), "losses for TensorBoard"


def test_accumulated_batches_are_parts_of_the_same_step(store: SceneStore, config: OspreyConfig, tokenizer) -> None:
    dataset = _prepared(store, config, tokenizer).items(Selection(2), 3)
    whole = next(iter(batches(dataset, 1, 2, 4, workers=0)))
    shared = {"first": 1, "steps": 2, "batch_size": 4, "workers": 0, "processes": 2, "accumulated": 2}
    parts = [list(batches(dataset, **shared, process=process)) for process in (0, 1)]
    # Two processes take turns in each of the two small batches.
    found = torch.cat([parts[process][small].pixels for small in (0, 1) for process in (0, 1)])
    torch.testing.assert_close(found, whole.pixels, rtol=0, atol=0)


CONFIGS = Path(__file__).parents[2] / "training" / "configs"


def _loss_and_gradients(model: Osprey, batch: Any, heads: dict[str, torch.Tensor], bf16: bool) -> torch.Tensor:
    """The loss, then all gradients, in one vector."""
    objective = Objective(model)
    objective.heads.load_state_dict(heads)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss, _ = objective(batch)
    loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat([loss.detach()[None], *gradients])


@pytest.mark.parametrize("questions", [0, 2])
def test_what_is_quicker_on_a_cpu_learns_the_same(
    store: SceneStore, config: OspreyConfig, tokenizer: Tokenizer, questions: int
) -> None:
    prepared = _prepared(store, config, tokenizer)
    (batch,) = batches(prepared.items(Selection(3, questions=questions), 0), 0, 1, 2, workers=0)
    plain, names = prepared.model, set(prepared.model.state_dict())
    heads = Objective(plain).heads.state_dict()
    exact, rough = (_loss_and_gradients(plain, batch, heads, bf16) for bf16 in (False, True))
    prepare_for_cpu(plain)
    assert set(plain.state_dict()) == names
    torch.testing.assert_close(_loss_and_gradients(plain, batch, heads, False), exact, rtol=1e-5, atol=1e-7)
    mended = _loss_and_gradients(plain, batch, heads, True)
    assert not torch.equal(mended, rough), "something of it is computed in another precision"
    assert torch.linalg.norm(mended - exact) < 0.05 * torch.linalg.norm(exact[1:])


def test_the_papers_stages_train_what_the_paper_trains() -> None:
    for size in ("0.5b", "1.5b", "3b", "7b"):
        trained = [load_recipe(CONFIGS / f"osprey_{size}_stage{n}.yaml").stages[0].trains for n in (1, 2, 3)]
        assert trained == [("projector",), ("mask_extractor",), ("projector", "mask_extractor", "language_model")]
    names = [stage.name for stage in load_recipe(CONFIGS / "nano.yaml").stages]
    assert names == ["0-regions", "1-alignment", "2-masks", "3-instructions"]


GOOD = """
name: tiny
model:
  preset: nano
data:
  scenes: 8
stages:
  - name: a
    trains: [projector]
    selection: {max_regions: 2, questions: 1}
    steps: 3
    batch_size: 2
    learning_rate: 1.0e-3
"""


@pytest.mark.parametrize(
    ("part", "replacement", "message"),
    [
        ("steps: 3", "steps: 3\n    stepz: 3", r"stages\[0\]: unknown keys stepz; known are name"),
        ("scenes: 8", "scenes: 0", "give scenes, a number above 0, or a list"),
        ("scenes: 8", "scenes: 8\n  scenes_weight: 0", "scenes_weight is 0: it must be above 0"),
        (
            "scenes: 8",
            "sources: [{reader: own_masks, file: m.json, images: p, weight: 0}]",
            r"weight of m\.json is 0: it must be above 0",
        ),
        ("preset: nano", "preset: nano\n  checkpoint: x", "one of preset, checkpoint and llm, not"),
        ("preset: nano", "llm: x", "an llm needs vision_weights"),
        ("preset: nano", "preset: nano\n  vision_weights: x", "vision_weights go with llm or checkpoint"),
        ("[projector]", "[projektor]", "projektor.*expected names out of"),
        ("steps: 3", "steps: 3\n    epochs: 1", "either steps or epochs"),
        ("name: tiny", "name: tiny\nprecision: fp8", "precision is 'fp8'"),
        ("name: tiny", "", "name missing"),
        ("learning_rate: 1.0e-3", "learning_rate: fast", r"stages\[0\]: learning_rate is 'fast': it must be a number"),
        ("learning_rate: 1.0e-3", "learning_rate: 0", "stage a: learning_rate is 0: it must be above 0"),
        ("batch_size: 2", "batch_size: 2.5", r"stages\[0\]: batch_size is 2.5: it must be a whole number"),
        ("batch_size: 2", "batch_size: 0", "stage a: batch_size is 0: it must be above 0"),
        ("questions: 1", "flip: 1", r"selection: flip is 1: it must be true or false"),
        ("name: tiny", "name: tiny\ngradient_accumulation: 0", "gradient_accumulation is 0: it must be 1 or more"),
        ("stages:", "stages: [", "is not YAML"),
    ],
)
def test_recipes_that_cannot_be_used_say_why(tmp_path: Path, part: str, replacement: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(GOOD)
    assert load_recipe(path).stages[0].learning_rate == 1e-3
    path.write_text(GOOD.replace("1.0e-3", "1e-3"))  # a text, by YAML's rules
    assert load_recipe(path).stages[0].learning_rate == 1e-3
    path.write_text(GOOD.replace(part, replacement))
    with pytest.raises(InputError, match=message):
        load_recipe(path)


@pytest.mark.parametrize("change", ["flip: true", "zoom: 2", "recolor: 0.5", "recolour: 0.5", "weights: {part: 2}"])
def test_images_of_data_sets_alone_are_not_changed(tmp_path: Path, change: str) -> None:
    path = tmp_path / "recipe.yaml"
    changed = GOOD.replace("questions: 1", f"questions: 1, {change}")
    sources = "sources: [{reader: own_masks, file: masks.json, images: photos}]"
    path.write_text(changed.replace("scenes: 8", sources))
    with pytest.raises(InputError, match="stage a: flip, zoom, recolor and weights are for simulated scenes"):
        load_recipe(path)
    path.write_text(changed.replace("scenes: 8", f"scenes: 8\n  {sources}"))
    assert load_recipe(path).data.scenes == 8
