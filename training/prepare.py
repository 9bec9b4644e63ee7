"""Prepares a run: data on disk, a tokenizer, a model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.utils.data import Dataset
from tqdm import tqdm

from osprey_ros.bundle.hash_cache import sha256_of
from osprey_ros.decoding.prompt import MASK_TEXT, PromptBuilder
from osprey_ros.errors import InputError
from osprey_ros.files import write_file
from osprey_sim.dialogues import all_texts
from osprey_torch.companion_files import read_kinds
from osprey_torch.config import OSPREY_HOME, OSPREY_NANO, OspreyConfig
from osprey_torch.model import Osprey
from osprey_torch.readers.mixture import Mixture, Source
from osprey_torch.readers.records import Record, Skipped
from osprey_torch.readers.registry import READERS
from osprey_torch.readers.shards import Shards, write_shards
from osprey_torch.readers.usable import usable_records
from training.data import Item, SceneDataset, Selection
from training.deadline import Deadline
from training.home.prepare import prepare_views
from training.mixed_data import MixedDataset
from training.prepared import Prepared
from training.recipe import ModelStart, Recipe, RecordSource
from training.record_data import RecordDataset
from training.start import load_tower, starting_model, with_tower
from training.store import SceneStore, render_scenes
from training.tokenizer import train_tokenizer

PRESETS = {"nano": OSPREY_NANO, "home": OSPREY_HOME}


def prepare(recipe: Recipe, folder: Path, workers: int, deadline: Deadline = Deadline()) -> Prepared:  # noqa: B008
    """Render or read the data, train a tokenizer if there is none, and create the model. Existing files are kept.

    Raises InputError, InputError or InputError for what cannot be used, and TimeIsUp.
    """
    torch.manual_seed(recipe.seed)
    for source in recipe.data.sources:
        if source.reader not in READERS:
            raise InputError(f"data: unknown reader {source.reader!r}; known are {', '.join(READERS)}")
    views = recipe.data.views
    if views is not None:
        if recipe.model.llm is not None:
            raise InputError("data.views: views need a preset, such as home, or a checkpoint or bundle of home")
        config = _preset(recipe.model) if recipe.model.preset is not None else None
        return prepare_views(recipe, views, config, folder, workers, deadline)
    store = None
    if recipe.model.preset is not None and recipe.data.scenes:
        config = _preset(recipe.model)
        store = _scenes(recipe, folder, config.image_size, workers, deadline)
        tokenizer = _tokenizer(store, folder / "tokenizer.json", config.vocab_size)
        mask_id = tokenizer.token_to_id(MASK_TEXT)
        assert mask_id is not None, "train_tokenizer adds <mask>"
        model = Osprey(config.with_vocabulary(mask_id))
        load_tower(model, recipe.model.tower)
    else:
        model, tokenizer = starting_model(recipe.model)
        if recipe.data.scenes:
            store = _scenes(recipe, folder, model.config.image_size, workers, deadline)
    shards = [_shards(source, folder / "records" / f"{n}-{source.reader}", recipe.data.strict)
              for n, source in enumerate(recipe.data.sources)]  # fmt: skip
    sources = [Source(s.reader, records, s.weight) for s, records in zip(recipe.data.sources, shards, strict=True)]
    spec = model.config.model_spec()
    prompts = PromptBuilder(tokenizer, spec)

    def items(selection: Selection, seed: int) -> Dataset[Item]:
        parts: list[tuple[Dataset[Item], float]] = []
        if store is not None:
            parts.append((SceneDataset(store, spec, prompts, selection, seed), recipe.data.scenes_weight))
        if sources:
            records = RecordDataset(Mixture(sources, seed), spec, prompts, selection.of_records(), recipe.max_length)
            parts.append((records, sum(source.weight for source in sources)))
        return MixedDataset(parts, seed) if len(parts) > 1 else parts[0][0]

    image_count = sum(len(records) for records in shards) + (0 if store is None else len(store))
    kinds = None if recipe.model.checkpoint is None else read_kinds(Path(recipe.model.checkpoint))
    return Prepared(model, tokenizer, image_count, items, kinds)


def _preset(start: ModelStart) -> OspreyConfig:
    if start.preset not in PRESETS:
        raise InputError(f"model: unknown preset {start.preset!r}; known are {', '.join(PRESETS)}")
    return with_tower(PRESETS[start.preset], start.tower, start.shape)


def _scenes(recipe: Recipe, folder: Path, image_size: int, workers: int, deadline: Deadline) -> SceneStore:
    data = recipe.data
    with tqdm(total=data.scenes, desc="scenes", unit="scene", mininterval=5, file=sys.stderr) as bar:

        def ready(count: int) -> None:
            bar.update(count)
            if bar.n < data.scenes:
                deadline.check("while scenes were rendered")

        scenes = folder / "scenes"
        return render_scenes(scenes, "train", data.scenes, image_size, workers, ready, data.scene_size)


def _tokenizer(store: SceneStore, path: Path, vocab_size: int) -> Tokenizer:
    if not path.is_file():
        texts = (text for i in range(min(len(store), 3000)) for facts in store.facts(i) for text in all_texts(facts))
        write_file(path, train_tokenizer(texts, vocab_size).to_str(pretty=True))
    return Tokenizer.from_file(str(path))


def _shards(source: RecordSource, folder: Path, strict: bool) -> Shards:
    """Return the records of a source: read now, or by an earlier start of this run from the same file.

    Raises InputError for a file that has changed since, and for one without any record.
    """
    file = Path(source.file)
    try:
        content = sha256_of(file)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    if (folder / "index.json").is_file():
        shards = Shards(folder)
        if shards.source != content:
            raise InputError(
                f"{file} is not the file any more that this run has read: give another --output, or remove {folder} to "
                "go on with the new one"
            )
        if shards.skipped:
            print(
                f"{file}: {len(shards)} records as they were read before, without the {shards.skipped} that could not "
                f"be used then; remove {folder} to read again",
                file=sys.stderr,
            )
        return shards
    skipped = Skipped(strict=strict)
    records = READERS[source.reader](file, Path(source.images), skipped)
    usable = _with_images(records, skipped, file)
    shown = tqdm(usable, desc=source.reader, unit="record", file=sys.stderr)
    shards = write_shards(shown, folder, skipped, content)
    print(f"{source.file}: {len(shards)} records; {skipped.summary()}", file=sys.stderr)
    return shards


def _with_images(records: Iterator[Record], skipped: Skipped, file: Path) -> Iterator[Record]:
    """Return the records whose image can be read and whose masks fit it.

    Raises InputError at the end if there was none.
    """
    usable = 0
    for record in usable_records(records, skipped):
        usable += 1
        yield record
    if not usable:
        raise InputError(f"{file} has no record that can be used; {skipped.summary()}")
