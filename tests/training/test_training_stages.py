"""The paper's three stages at tiny size, from an LLM and a CLIP file over data sets on disk to words of a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import SampleImage, TinyModel, up_to
from PIL import Image
from safetensors.torch import save_file
from tiny import TINY

from export.build import build_bundle
from osprey_ros.decoding.prompt import MASK, POSITION, QUESTIONS, PromptBuilder
from osprey_ros.describer import Describer
from osprey_ros.errors import InputError
from osprey_torch.checkpoint import load_checkpoint
from osprey_torch.model import Osprey
from osprey_torch.readers.mixture import Mixture, Source
from osprey_torch.readers.records import Record, Turn
from osprey_torch.readers.segmentation import Segmentation
from training import train
from training.data import Selection
from training.prepare import prepare
from training.recipe import ModelStart, load_recipe
from training.record_data import RecordDataset
from training.start import model_from_llm, starting_model
from training.tokenizer import train_tokenizer
from training.trainer import Trainer

SIZE = (40, 30)
SQUARE = [[4, 4, 20, 4, 20, 20, 4, 20]]
TEXTS = [*QUESTIONS.values(), "a red cup.", "cup", "There are 2 regions in the sample: region1, region2. No, the bowl"]
TRUNK = "model.vision_tower.vision_tower."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An LLM, a CLIP file and three data sets, each in the layout in which users have them."""
    root = tmp_path_factory.mktemp("data")
    tokenizer = train_tokenizer(TEXTS * 4, vocab_size=300)
    # A family with all that LLaMA has not: grouped heads, biases, one table for both ends.
    config = replace(
        TINY.with_vocabulary(tokenizer.token_to_id("<mask>")), kv_heads=2, language_model="qwen2", tied_embeddings=True
    )
    torch.manual_seed(0)
    state = Osprey(config).state_dict()
    (root / "llm").mkdir()
    others = (TRUNK, "mask_extractor", "model.mm_proj", "lm_head")
    own = {name: t for name, t in state.items() if not name.startswith(others)}
    save_file(own, root / "llm" / "model.safetensors")
    (root / "llm" / "config.json").write_text(json.dumps({**config.to_json(), "model_type": "qwen2"}))
    tokenizer.save(str(root / "llm" / "tokenizer.json"))
    clip = {name.removeprefix(TRUNK): t for name, t in state.items() if name.startswith(TRUNK)}
    torch.save(
        {**clip, "visual.head.proj.weight": torch.zeros(2), "text.positional": torch.zeros(2)}, root / "clip.bin"
    )

    rng = np.random.default_rng(0)
    (root / "imgs").mkdir()
    images, annotations, pairs, talks = [], [], [], []
    for number in range(1, 7):
        name = f"{number:012d}.jpg"
        Image.fromarray(rng.integers(0, 255, (*SIZE[::-1], 3), np.uint8)).save(root / "imgs" / name)
        images.append({"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "segmentation": SQUARE})
        turns = [{"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": "a red cup."}]
        pairs.append({"image": name, "conversations": turns})
        turns = [
            {"from": "human", "value": "What is <region1>?"},
            {"from": "gpt", "value": "a red cup."},
            {"from": "human", "value": "And <region2>?"},
            {"from": "gpt", "value": "No, the bowl"},
        ]
        size = {"width": SIZE[0], "height": SIZE[1]}
        masks = [{"segmentation": SQUARE}] * 2
        talks.append({"file_name": f"COCO_train2014_{name}", **size, "annotation": masks, "conversations": turns})
    # One image is missing: its record is omitted and counted.
    pairs.append({**pairs[0], "image": "missing.jpg"})
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cup"}]}
    for name, data in (("pairs", pairs), ("coco", coco), ("talks", talks)):
        (root / f"{name}.json").write_text(json.dumps(data))
    return root


def _recipe(path: Path, folder: Path, model: dict[str, str], sources: dict[str, str], trains: list[str]) -> Path:
    """Writes a recipe of four steps."""
    stage = {"name": "s", "trains": trains, "selection": {"max_regions": 3, "questions": 1}}
    stage |= {"steps": 4, "batch_size": 2, "learning_rate": 1e-2}
    listed = [
        {"reader": reader, "file": str(folder / file), "images": str(folder / "imgs")}
        for reader, file in sources.items()
    ]
    recipe = {"name": path.stem, "model": model, "data": {"sources": listed}, "stages": [stage], "log_every": 1}
    path.write_text(yaml.safe_dump({**recipe, "gradient_checkpointing": True, "max_length": 200}))
    return path


def _losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_three_stages_from_data_sets_to_a_bundle(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], sample: SampleImage
) -> None:
    start = {"llm": str(folder / "llm"), "vision_weights": str(folder / "clip.bin")}
    stages: list[tuple[dict[str, str], dict[str, str], list[str]]] = [
        (start, {"image_text_pairs": "pairs.json"}, ["projector"]),
        ({"checkpoint": str(tmp_path / "1" / "checkpoint")}, {"coco_instances": "coco.json"}, ["mask_extractor"]),
        (
            {"checkpoint": str(tmp_path / "2" / "checkpoint")},
            {"conversations": "talks.json", "coco_instances": "coco.json"},
            ["projector", "mask_extractor", "language_model"],
        ),
    ]
    for number, (model, sources, trains) in enumerate(stages, 1):
        recipe = _recipe(tmp_path / f"stage{number}.yaml", folder, model, sources, trains)
        assert train.main(["--config", str(recipe), "--output", str(tmp_path / str(number))]) == 0
        losses = _losses(tmp_path / str(number))
        assert len(losses) == 4
        assert np.isfinite(losses).all()
        if number == 1:
            told = capsys.readouterr().err
            assert "pairs.json: 6 records; 1 records or single masks were skipped" in told
            assert "missing.jpg does not exist" in told
    # What the language model has learnt is in the words of the engines: it knew nothing but noise before.
    build_bundle(tmp_path / "3" / "checkpoint", tmp_path / "bundle", verify=False)
    describer = Describer(tmp_path / "bundle")
    rgb, ids = sample.rgb, sample.ids
    describer.set_image(rgb)
    assert len(describer.describe(ids, config=up_to(3))) == len(np.unique(ids)) - 1


@pytest.mark.parametrize("lora", ["", "lora: {rank: 2, dropout: 0.3}\n"])
def test_a_stopped_stage_has_the_losses_of_an_uninterrupted_one(folder: Path, tmp_path: Path, lora: str) -> None:
    class Stopping(Trainer):
        def _log(self, **values: Any) -> None:
            super()._log(**values)
            if values["step"] == 2:
                raise KeyboardInterrupt

    start = {"llm": str(folder / "llm"), "vision_weights": str(folder / "clip.bin")}
    trains = ["projector", "mask_extractor", "language_model"]
    path = _recipe(tmp_path / "r.yaml", folder, start, {"conversations": "talks.json"}, trains)
    path.write_text(path.read_text() + lora)
    recipe = load_recipe(path)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for run in (whole, stopped):
        run.mkdir()
    Trainer(recipe, prepare(recipe, whole, 1), whole).run(save_every=1e9)
    with pytest.raises(KeyboardInterrupt):
        Stopping(recipe, prepare(recipe, stopped, 1), stopped).run(save_every=0)
    Trainer(recipe, prepare(recipe, stopped, 1), stopped).run(save_every=0)
    # Step 2 was logged and not saved: it is made again, to the same loss.
    losses = _losses(stopped)
    assert losses[2] == losses[3]
    assert losses[:3] + losses[4:] == _losses(whole)


def test_adapters_learn_beside_a_frozen_language_model_and_are_merged(folder: Path, tmp_path: Path) -> None:
    start = {"llm": str(folder / "llm"), "vision_weights": str(folder / "clip.bin")}
    path = _recipe(tmp_path / "r.yaml", folder, start, {"own_masks": "coco.json"}, ["language_model"])
    path.write_text(path.read_text() + "lora: {rank: 2, targets: [q_proj, down_proj]}\n")
    assert train.main(["--config", str(path), "--output", str(tmp_path / "run")]) == 0
    before = model_from_llm(folder / "llm", folder / "clip.bin")[0].state_dict()
    after = load_checkpoint(tmp_path / "run" / "checkpoint")[0].state_dict()
    # The parts that an LLM lacks are random and tell nothing here.
    changed = {name for name in before if "mask_" not in name and "projector" not in name}
    changed = {name for name in changed if not torch.equal(before[name], after[name])}
    layers = range(TINY.num_layers)
    assert changed == {
        f"model.layers.{n}.{part}.weight" for n in layers for part in ("self_attn.q_proj", "mlp.down_proj")
    }
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) == 2


def test_simulated_scenes_stand_beside_data_sets(folder: Path, tmp_path: Path) -> None:
    start = {"llm": str(folder / "llm"), "vision_weights": str(folder / "clip.bin")}
    path = _recipe(tmp_path / "r.yaml", folder, start, {"own_masks": "coco.json"}, ["language_model"])
    data = yaml.safe_load(path.read_text())
    data["data"] |= {"scenes": 4, "scene_size": [96, 72], "scenes_weight": 3}
    data["stages"][0]["selection"] |= {"flip": True, "min_area": 4, "weights": {"class": 2}}
    path.write_text(yaml.safe_dump(data))
    assert train.main(["--config", str(path), "--output", str(tmp_path / "run")]) == 0
    losses = _losses(tmp_path / "run")
    assert len(losses) == 4
    assert np.isfinite(losses).all()

    recipe = load_recipe(path)
    prepared = prepare(recipe, tmp_path / "run", 1)
    assert prepared.image_count == 4 + 6
    items = prepared.items(recipe.stages[0].selection, 1)
    scenes = [n for n in range(80) if items[n].labels]  # those of data sets have words alone
    assert len(scenes) / 80 == pytest.approx(3 / 4, abs=0.12)
    again = prepared.items(recipe.stages[0].selection, 1)
    assert [n for n in range(80) if again[n].labels] == scenes
    np.testing.assert_array_equal(items[7].pixels, again[7].pixels)


def test_records_that_break_while_they_are_used_are_left_out(folder: Path) -> None:
    _, tokenizer = model_from_llm(folder / "llm", folder / "clip.bin")
    spec = TINY.with_vocabulary(tokenizer.token_to_id("<mask>")).model_spec()
    good = Segmentation(SQUARE, SIZE[1], SIZE[0])
    speck = Segmentation([[10.1, 10.1, 10.3, 10.1, 10.3, 10.3]], SIZE[1], SIZE[0])
    image = folder / "imgs" / f"{1:012d}.jpg"
    turns = ((Turn(f"What is <mask><pos>{' beside a red cup' * 9} beside <mask><pos>?", "cup", (0, 1)),),)
    records = [Record(image, masks, turns, f"record {n}") for n, masks in enumerate([(good, good), (good, speck)])]
    prompts = PromptBuilder(tokenizer, spec)

    def dataset(records: list[Record], max_length: int = 200) -> RecordDataset:
        mixture = Mixture([Source("x", records, 1)], 0)
        return RecordDataset(mixture, spec, prompts, Selection(3, questions=1), max_length)

    mixed = dataset(records)
    with pytest.warns(UserWarning, match=r"record 1: no pixel of its masks \[1\] is left at the scales of the model"):
        assert all(len(mixed[n].positions) == 2 for n in range(6))
    with pytest.warns(UserWarning, match="left out"), pytest.raises(InputError, match="100 records in turn"):
        dataset(records[1:])[0]
    # A dialogue may be cut off anywhere, between the two tokens of a region, too.
    ids, _ = prompts.dialogue([(turns[0][0].question, turns[0][0].answer)])
    last_mask = len(ids) - 1 - ids[::-1].index(MASK)
    cut = dataset(records[:1], spec.image_tokens + last_mask)[0].sequence
    assert cut is not None
    assert (cut.tokens == MASK).sum() == (cut.tokens == POSITION).sum() == 1


def test_an_llm_that_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "llm").mkdir()
    for file in (folder / "llm").iterdir():
        (tmp_path / "llm" / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "llm" / "config.json"
    data = json.loads(config.read_text())
    config.write_text(json.dumps({**data, "num_hidden_layers": 3, "intermediate_size": 80}))
    with pytest.raises(
        InputError, match=r"(?s)missing: model\.layers\.2.*wrong shape: model\.layers\.0\.mlp"
    ) as caught:
        model_from_llm(tmp_path / "llm", folder / "clip.bin")
    assert "mask_extractor" not in str(caught.value)
    config.write_text(json.dumps({**data, "rope_scaling": {"type": "dynamic", "factor": 2.0}}))
    with pytest.raises(InputError, match=r"config\.json: rope_scaling is .*'dynamic'"):
        model_from_llm(tmp_path / "llm", folder / "clip.bin")
    config.write_text(json.dumps({**data, "model_type": "gpt2"}))
    with pytest.raises(InputError, match="model_type is 'gpt2'"):
        model_from_llm(tmp_path / "llm", folder / "clip.bin")


def test_errors_name_a_data_file_without_images_or_with_changes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    (mine / "imgs").mkdir(parents=True)
    (mine / "coco.json").write_bytes((folder / "coco.json").read_bytes())
    start = {"llm": str(folder / "llm"), "vision_weights": str(folder / "clip.bin")}
    path = _recipe(tmp_path / "r.yaml", mine, start, {"own_masks": "coco.json"}, ["mask_extractor"])
    command = ["--config", str(path), "--output", str(tmp_path / "run")]
    assert train.main(command) == 2
    assert "coco.json has no record that can be used; 6 records" in (told := capsys.readouterr().err)
    assert "000000000001.jpg does not exist" in told
    # Now the images exist: the same command reads them and continues.
    for name in ("000000000001.jpg", "000000000002.jpg"):
        (mine / "imgs" / name).write_bytes((folder / "imgs" / name).read_bytes())
    assert train.main(command) == 0
    assert "coco.json: 2 records; 4 records" in capsys.readouterr().err
    assert train.main(command) == 0
    assert "2 records as they were read before, without the 4" in capsys.readouterr().err
    coco = json.loads((mine / "coco.json").read_text())
    coco["categories"][0]["name"] = "mug"
    (mine / "coco.json").write_text(json.dumps(coco))
    assert train.main(command) == 2
    assert "coco.json is not the file any more that this run has read" in capsys.readouterr().err


def test_unknown_readers_and_presets_are_refused(folder: Path, tmp_path: Path, capsys) -> None:
    start = {"llm": str(folder / "llm"), "vision_weights": str(folder / "clip.bin")}
    path = _recipe(tmp_path / "r.yaml", folder, start, {"imagenet": "x.json"}, ["projector"])
    assert train.main(["--config", str(path), "--output", str(tmp_path / "run")]) == 2
    assert "unknown reader 'imagenet'; known are image_text_pairs" in capsys.readouterr().err
    recipe = load_recipe(path)
    scenes = replace(recipe.data, scenes=1, sources=())
    unknown = replace(recipe, data=scenes, model=replace(recipe.model, llm=None, vision_weights=None, preset="mini"))
    with pytest.raises(InputError, match="unknown preset 'mini'; known are nano"):
        prepare(unknown, tmp_path, 1)


def test_a_bundle_is_a_start_with_the_weights_of_its_checkpoint(tiny_model: TinyModel) -> None:
    model, tokenizer = starting_model(ModelStart(checkpoint=str(tiny_model.bundle)))
    wanted, same = load_checkpoint(tiny_model.checkpoint)
    assert model.config == wanted.config
    assert tokenizer.get_vocab() == same.get_vocab()
    pixels = torch.rand(1, 3, model.config.image_size, model.config.image_size, generator=torch.manual_seed(0))
    with torch.no_grad():  # the bundle has folded some weights of the tower into others
        maps, wanted_maps = model.model.vision_tower(pixels), wanted.model.vision_tower(pixels)
    for found, level in zip(maps, wanted_maps, strict=True):
        torch.testing.assert_close(found, level, rtol=1e-4, atol=1e-4)
    for name, weight in wanted.state_dict().items():
        if not name.startswith("model.vision_tower."):
            torch.testing.assert_close(model.state_dict()[name], weight)
    with pytest.raises(InputError, match="is a bundle, which has a tower; leave out vision_weights"):
        starting_model(ModelStart(checkpoint=str(tiny_model.bundle), vision_weights="clip.bin"))
