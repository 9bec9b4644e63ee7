"""Prepares training on views of real things: features on disk, a tokenizer with the kinds, and a model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import Dataset
from tqdm import tqdm

from osprey_ros.decoding.prompt import MASK_TEXT, PromptBuilder
from osprey_ros.errors import InputError
from osprey_ros.files import write_file
from osprey_torch.config import OspreyConfig
from osprey_torch.model import Osprey
from training.data import Item, Selection
from training.deadline import Deadline
from training.home.data import FeatureDataset, label_sizes
from training.home.dialogues import DialogueMaker
from training.home.features import FeatureStore, compute_features
from training.home.kinds import Kinds, load_kinds
from training.home.new_kinds import with_new_kinds
from training.home.photographs import load_photographs
from training.home.rooms import AsTheyAre, Composed, Rooms
from training.home.tower import write_tower
from training.home.views import View
from training.prepared import Prepared
from training.recipe import Recipe, Views
from training.start import load_tower, starting_model
from training.tokenizer import train_tokenizer_of_kinds

Source = Callable[[], Callable[[int], View]]


def prepare_views(
    recipe: Recipe, views: Views, config: OspreyConfig | None, folder: Path, workers: int, deadline: Deadline
) -> Prepared:
    """Compute the features that are missing and create the model. Raises InputError, BundleError and TimeIsUp.

    Args:
        recipe: The recipe.
        views: Its views.
        config: Of a model that starts from random weights; None if the recipe names a checkpoint.
        folder: Of the run.
        workers: Number of processes.
        deadline: Of this start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kinds = load_kinds(Path(views.kinds))
    fresh = config is not None
    model, tokenizer = _random(recipe, config, kinds, folder) if config is not None else _known(recipe, kinds)
    if not (folder / "tower").is_dir():
        write_tower(model.eval(), folder / "tower")
    stores = _stores(recipe, views, kinds, model.config, folder, workers, deadline)
    present = [(store, share) for store, share in zip(stores, views.shares, strict=True) if len(store) and share]
    if not present:
        raise InputError("data.views: no view has an object of a known kind; check the folders of the packs")
    if fresh:
        standardize(model, [store for store, _ in present])
    prompts = PromptBuilder(tokenizer, model.config.model_spec())

    def items(selection: Selection, seed: int) -> Dataset[Item]:
        own, shares = zip(*present, strict=True)
        return FeatureDataset(own, shares, model.config, prompts, kinds, selection, seed)

    count = sum(len(store) for store, _ in present)
    # A classifier of stage 0 starts the answers of a language model that has not learned anything.
    tokens = tuple(prompts.answer(name)[0] for name in kinds.facts) if fresh else ()
    return Prepared(model, tokenizer, count, items, kinds.tree, label_sizes(kinds), tokens)


def _random(recipe: Recipe, config: OspreyConfig, kinds: Kinds, folder: Path) -> tuple[Osprey, Tokenizer]:
    tokenizer = _tokenizer(kinds, folder / "tokenizer.json", config.vocab_size)
    mask_id = tokenizer.token_to_id(MASK_TEXT)
    assert mask_id is not None, "train_tokenizer_of_kinds adds <mask>"
    model = Osprey(config.with_vocabulary(mask_id))
    load_tower(model, recipe.model.tower)
    round_tower(model)
    return model, tokenizer


def _known(recipe: Recipe, kinds: Kinds) -> tuple[Osprey, Tokenizer]:
    model, tokenizer, new = with_new_kinds(*starting_model(recipe.model), kinds)
    known = f"{recipe.model.checkpoint}: {len(kinds.facts) - len(new)} kinds are known"
    print(f"{known}, new are {', '.join(new)}" if new else known, file=sys.stderr)
    return model, tokenizer


def round_tower(model: Osprey) -> None:
    """Round the tower to float16, so that a bundle can store it in half the size without another change."""
    with torch.no_grad():
        for tensor in model.model.vision_tower.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().float())


def standardize(model: Osprey, stores: list[FeatureStore]) -> None:
    """Scale the first weights of the mask extractor, so that each pooled feature starts with mean 0 and deviation 1."""
    rng = np.random.default_rng(0)
    views = [store[int(rng.integers(len(store)))] for store in stores for _ in range(min(600, len(store)))]
    extractor = model.mask_extractor
    parts = [(extractor, [view.pooled for view in views])]
    if model.config.crop_size:
        parts.append((extractor.crop, [view.crops for view in views]))  # type: ignore[arg-type]
    for part, pooled in parts:
        values = torch.from_numpy(np.concatenate(pooled).astype(np.float32))
        start = 0
        for level in ("res2", "res3", "res4", "res5"):
            linear = getattr(part, level)
            own = values[:, start : start + linear.in_features]
            start += linear.in_features
            with torch.no_grad():
                linear.weight.div_(own.std(0) + 1e-2)
                linear.bias.copy_(-(linear.weight @ own.mean(0)))


def _stores(
    recipe: Recipe,
    views: Views,
    kinds: Kinds,
    config: OspreyConfig,
    folder: Path,
    workers: int,
    deadline: Deadline,
) -> list[FeatureStore]:
    """Return the features of composed views, of the photographs as they are, and of rooms."""
    photographs = load_photographs(views.packs, kinds)
    every = photographs.scenes + photographs.single
    sources: list[tuple[str, Source, int]] = [
        ("photographs", AsTheyAre(every), len(every) if views.composed else 0),
        (
            "composed",
            Composed(photographs.scenes, photographs.single, views.cap, recipe.seed),
            views.composed if every else 0,
        ),
        ("rooms", Rooms(Path(views.kinds), tuple(map(Path, views.models)), views.tabletops), views.rooms),
    ]
    stores = {}
    for name, source, count in sources:
        own = folder / "features" / name
        with tqdm(total=count, desc=name, unit="view", mininterval=5, file=sys.stderr) as bar:

            def ready(number: int, bar: tqdm = bar, count: int = count, name: str = name) -> None:  # type: ignore[type-arg]
                bar.update(number)
                if bar.n < count:
                    deadline.check(f"while the features of {name} were computed")

            compute_features(own, folder / "tower", config, source, count, workers, ready)
        stores[name] = FeatureStore(own, config)
    return [stores[name] for name in ("composed", "photographs", "rooms")]


def _tokenizer(kinds: Kinds, path: Path, vocab_size: int) -> Tokenizer:
    if not path.is_file():
        texts = DialogueMaker(kinds, {}).texts()
        write_file(path, train_tokenizer_of_kinds(texts, vocab_size, tuple(kinds.facts)).to_str(pretty=True))
    return Tokenizer.from_file(str(path))
