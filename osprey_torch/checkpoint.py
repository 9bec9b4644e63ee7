"""Read and write checkpoints in the published Hugging Face folder layout. Pickled code is never executed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from osprey_torch.config import OspreyConfig
from osprey_torch.model import Osprey

# In published shards, used by nothing here: buffers of old transformers and the CLIP head behind the trunk.
_UNUSED = ("rotary_emb.inv_freq", ".visual.head.", ".visual.trunk.head.")


class CheckpointError(Exception):
    """A checkpoint folder cannot be read; the message names what is wrong and where."""


def save_checkpoint(model: Osprey, tokenizer: Tokenizer, folder: Path) -> None:
    """Write config.json, model.safetensors (fp32), tokenizer.json and generation_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    generation = {"bos_token_id": config.bos_id, "eos_token_id": config.eos_id, "do_sample": False}
    (folder / "config.json").write_text(json.dumps(config.to_json(), indent=1) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))
    state = {name: tensor.detach().float().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def load_checkpoint(folder: Path) -> tuple[Osprey, Tokenizer]:
    """Load a folder in the published layout as an fp32 model in evaluation mode.

    Raises:
        CheckpointError: a file is missing, or parameters are missing, unexpected or of the wrong shape: all are named.
    """
    folder = Path(folder)
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: no {name} in this checkpoint folder")
    try:
        config = OspreyConfig.from_json(json.loads((folder / "config.json").read_text()))
    except KeyError as error:
        raise CheckpointError(f"{folder / 'config.json'}: the key {error} is missing") from error
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{folder / 'tokenizer.json'} is not a tokenizer: {error}") from error
    state = _read_weights(folder)
    state = {name: tensor.float() for name, tensor in state.items() if not any(part in name for part in _UNUSED)}
    model = Osprey(config)
    _check_names(folder, model.state_dict(), state)
    model.load_state_dict(state)
    return model.eval(), tokenizer


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the folder: one safetensors file, or the shards that an index names (safetensors or .bin)."""
    for index_name, single in (
        ("model.safetensors.index.json", "model.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin"),
    ):
        if (folder / index_name).is_file():
            shards = _shards(folder / index_name)
        elif (folder / single).is_file():
            shards = [single]
        else:
            continue
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(f"{folder}: the index names shards that are not there: {', '.join(missing)}")
        state: dict[str, torch.Tensor] = {}
        for name in shards:
            state |= _read_file(folder / name)
        return state
    raise CheckpointError(f"{folder}: no model.safetensors and no pytorch_model.bin (nor an index of shards)")


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of shards: it needs a weight_map of names to files") from error


def _read_file(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read, download it again: {error}") from error


def _check_names(folder: Path, expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    lines = [f"missing: {name} {tuple(expected[name].shape)}" for name in expected if name not in found]
    lines += [f"unexpected: {name}" for name in found if name not in expected]
    lines += [
        f"wrong shape: {name} is {tuple(found[name].shape)}, config.json says {tuple(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    if lines:
        raise CheckpointError(f"{folder}: weights do not fit config.json\n  " + "\n  ".join(lines))
