"""Write a checkpoint folder in the published layout with seeded random float16 weights.

    python benchmarks/make_checkpoint.py --output DIR                 # 7B: 32 layers, two .bin shards, 14 GB
    python benchmarks/make_checkpoint.py --output DIR --layers 2      # full widths, 2 GB

One shard is in memory at a time. The values of a tensor depend only on the seed and its name, so all formats have the
same model.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from osprey_ros.cli._edge import command
from osprey_ros.decoding.prompt import MASK_TEXT, OSPREY_V1, POSITION_TEXT, QUESTIONS
from osprey_ros.strict_json import to_json
from osprey_sim import words
from osprey_torch.config import OSPREY_7B, OspreyConfig
from osprey_torch.tokenizer_files import SPACE, SPECIAL, llama_tokenizer
from osprey_torch.weight_layout import TOWER, parameter_shapes

FORMATS = ("bin", "safetensors")
MODEL_TYPES = ("osprey", "osprey-stage2")
OPEN_CLIP_FILE = "open_clip_pytorch_model.bin"

_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def write_checkpoint(
    config: OspreyConfig,
    folder: Path,
    *,
    tokenizer: Tokenizer | None = None,
    format: str = "bin",
    shards: int = 2,
    vision: str = "inside",
    model_type: str = "osprey",
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Write the folder: config.json, shards and their index, tokenizer.json, added_tokens.json, generation_config.json.

    Args:
        config: Sizes of the model.
        folder: Folder to write.
        tokenizer: By default `make_tokenizer(config)`.
        format: One of `FORMATS`.
        shards: Number of shards; 1 writes one file without an index.
        vision: Place of the vision tower: "inside" the shards, "beside" them in `open_clip_pytorch_model.bin`, which
            config.json then names, or "none".
        model_type: One of `MODEL_TYPES`.
        seed: Seed of the weights.
        progress: Called with the number of bytes of each tensor.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shapes = parameter_shapes(config) | _useless_shapes(config)
    if vision != "inside":
        tower = {name.removeprefix(TOWER): s for name, s in shapes.items() if name.startswith(TOWER)}
        shapes = {name: s for name, s in shapes.items() if not name.startswith(TOWER)}
        if vision == "beside":
            _write_file(folder / OPEN_CLIP_FILE, tower | {"logit_scale": ()}, seed, progress)
    stem, suffix = ("pytorch_model", "bin") if format == "bin" else ("model", "safetensors")
    parts = _split(shapes, shards)
    if len(parts) == 1:
        names = [f"{stem}.{suffix}"]
    else:
        names = [f"{stem}-{k:05d}-of-{len(parts):05d}.{suffix}" for k in range(1, len(parts) + 1)]
        index = {
            "metadata": {"total_size": sum(2 * math.prod(shape) for shape in shapes.values())},
            "weight_map": {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part},
        }
        _write_json(folder / f"{stem}.{suffix}.index.json", index)
    for name, part in zip(names, parts, strict=True):
        _write_file(folder / name, part, seed, progress)
    _write_json(folder / "config.json", _published_config(config, model_type, vision))
    generation = {"bos_token_id": config.bos_id, "eos_token_id": config.eos_id, "transformers_version": "4.31.0"}
    _write_json(folder / "generation_config.json", generation)
    (tokenizer or make_tokenizer(config)).save(str(folder / "tokenizer.json"))
    _write_json(folder / "added_tokens.json", {MASK_TEXT: config.mask_id, POSITION_TEXT: config.pos_id})


def make_tokenizer(config: OspreyConfig) -> Tokenizer:
    """Return a LLaMA tokenizer of the model's size, trained on the prompt template and the simulator's descriptions.

    It replaces the published vocabulary and splits the questions into about as many tokens. Made-up syllables fill the
    rest of the vocabulary; they can be generated but do not occur in prompts.

    Raises:
        ValueError: vocab_size has no room for pieces.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    room = config.vocab_size - len(SPECIAL) - len(_BYTES)
    if room <= 0:
        raise ValueError(f"vocab_size is {config.vocab_size}; use more than {len(SPECIAL) + len(_BYTES)}")
    alphabet = [SPACE, *(chr(code) for code in range(33, 127))]
    trainer = trainers.BpeTrainer(vocab_size=room, initial_alphabet=alphabet, min_frequency=1, show_progress=False)
    trained.train_from_iterator(_sentences(), trainer)
    model = json.loads(trained.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)[:room]
    known = set(pieces)
    merges = [(a, b) for a, b in model["merges"] if {a, b, a + b} <= known]
    for syllables in _syllables():
        if len(pieces) == room:
            break
        if syllables not in known:
            pieces.append(syllables)
    tokenizer = llama_tokenizer([*SPECIAL, *_BYTES, *pieces], merges)
    tokenizer.add_special_tokens([MASK_TEXT, POSITION_TEXT])
    return tokenizer


def _sentences() -> Iterable[str]:
    yield from (OSPREY_V1.system, OSPREY_V1.overview, f"{OSPREY_V1.user}: {OSPREY_V1.assistant}: Regarding")
    yield from QUESTIONS.values()
    for color in words.COLORS:
        for size in words.SIZES:
            for obj in words.CLASSES:
                yield f"a {size} {color} {obj} on the left side of a table, in front of the handle of a {obj}"
    yield from (f"the {part} of it is behind {table}" for part in words.PARTS for table in words.TABLES)


def _syllables() -> Iterable[str]:
    simple = [consonant + vowel for consonant in "bcdfghjklmnpqrstvwxyz" for vowel in "aeiou"]
    yield from (f"{SPACE}{first}{second}{third}" for first in simple for second in simple for third in simple)


def _useless_shapes(config: OspreyConfig) -> dict[str, tuple[int, ...]]:
    """Return the tensors in published shards that the model does not use: old buffers and the CLIP head."""
    width = config.vision_channels[-1]
    head = f"{TOWER}visual.head.mlp."
    return {
        **{
            f"model.layers.{i}.self_attn.rotary_emb.inv_freq": (config.head_dim // 2,) for i in range(config.num_layers)
        },
        f"{TOWER}visual.trunk.head.norm.weight": (width,),
        f"{TOWER}visual.trunk.head.norm.bias": (width,),
        f"{head}fc1.weight": (width, width),
        f"{head}fc1.bias": (width,),
        f"{head}fc2.weight": (width // 2, width),
    }


def _published_config(config: OspreyConfig, model_type: str, vision: str) -> dict[str, object]:
    """Return config.json as published: without mm_hidden_size, and with our part only where it differs."""
    data = config.to_json() | {
        "model_type": model_type,
        "mm_vision_tower": OPEN_CLIP_FILE if vision == "beside" else f"/weights/{OPEN_CLIP_FILE}",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "torch_dtype": "float16",
        "transformers_version": "4.31.0",
    }
    del data["mm_hidden_size"]
    usual = OSPREY_7B.with_vocabulary(config.vocab_size).to_json()["osprey"]
    own = {key: value for key, value in data.pop("osprey").items() if value != usual[key]}
    return data | ({"osprey": own} if own else {})


def _split(shapes: Mapping[str, tuple[int, ...]], count: int) -> list[dict[str, tuple[int, ...]]]:
    """Return names in order, cut into `count` parts of about the same size."""
    share = sum(math.prod(shape) for shape in shapes.values()) / count
    parts: list[dict[str, tuple[int, ...]]] = [{} for _ in range(count)]
    done = 0
    for name, shape in shapes.items():
        parts[min(count - 1, int(done / share))][name] = shape
        done += math.prod(shape)
    return parts


def _write_file(
    path: Path, shapes: Mapping[str, tuple[int, ...]], seed: int, progress: Callable[[int], object] | None
) -> None:
    tensors = {}
    for name, shape in shapes.items():
        tensors[name] = _random(name, shape, seed)
        if progress:
            progress(tensors[name].nbytes)
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        torch.save(tensors, path)


def _random(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Return random values of one tensor as float16: norms near 1, layer scales near 0.1, the rest near 0."""
    published = TOWER + name if name.startswith("visual.") else name
    generator = torch.Generator().manual_seed(zlib.crc32(published.encode(), seed))
    mean = 0.0
    if name.endswith(".gamma"):
        mean = 0.1  # with their initial 1e-6 the blocks would have no effect
    elif len(shape) == 1 and name.endswith("weight"):
        mean = 1.0  # norms are the only weights with one axis
    return torch.empty(shape).normal_(mean, 0.02, generator=generator).half()


def _write_json(path: Path, data: object) -> None:
    path.write_text(to_json(data, indent=2) + "\n")


@command("make_checkpoint")
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--layers", type=int, default=OSPREY_7B.num_layers, help="decoder layers (default 32)")
    parser.add_argument("--format", choices=FORMATS, default="bin")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument(
        "--no-vision", action="store_true", help="vision weights as an open_clip file beside the shards"
    )
    parser.add_argument("--model-type", choices=MODEL_TYPES, default="osprey")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    if arguments.output.exists() and any(arguments.output.iterdir()):
        parser.error(f"--output {arguments.output} is not empty; use another folder or remove it")
    config = replace(OSPREY_7B, num_layers=arguments.layers)
    total = sum(2 * math.prod(shape) for shape in (parameter_shapes(config) | _useless_shapes(config)).values())
    with tqdm(total=total, unit="B", unit_scale=True, desc=str(arguments.output)) as bar:
        write_checkpoint(
            config,
            arguments.output,
            format=arguments.format,
            shards=arguments.shards,
            vision="beside" if arguments.no_vision else "inside",
            model_type=arguments.model_type,
            seed=arguments.seed,
            progress=bar.update,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
