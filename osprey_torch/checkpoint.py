"""Reads checkpoints in the published Hugging Face folder layout tensor by tensor, and writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import Tokenizer

from osprey_ros.bundle.manifest import KINDS
from osprey_ros.errors import InputError, StorageError
from osprey_ros.files import completed_file, write_file, write_json
from osprey_ros.kinds.tree import KindTree
from osprey_ros.strict_json import to_json
from osprey_torch.companion_files import read_kinds, with_companions
from osprey_torch.config import OspreyConfig
from osprey_torch.hub import fetch_checkpoint, is_hub_id
from osprey_torch.json_files import read_json
from osprey_torch.model import Osprey
from osprey_torch.tensor_files import StoredTensor, map_file, read_stored
from osprey_torch.tokenizer_files import read_vocabulary
from osprey_torch.weight_layout import (
    CONFIG,
    OUTPUT_LAYER,
    TOWER,
    check_shapes,
    list_vision_weights,
    list_weights,
    with_tied_embeddings,
    without_spare_rows,
)

_IDENTITY_VALUES = 1 << 12  # of each parameter


@dataclass(frozen=True)
class Checkpoint:
    """An Osprey checkpoint whose names and shapes have been checked and whose weights are read one by one.

    folder: where the files lie. tensors: where each parameter of the model lies in them. files: all weight files.
    kinds: the tree of kinds of `kinds.json`, None without this file.
    """

    folder: Path
    config: OspreyConfig
    tokenizer: Tokenizer
    tensors: Mapping[str, StoredTensor]
    files: tuple[Path, ...]
    kinds: KindTree | None = None

    @classmethod
    def open(cls, source: Path | str, vision_weights: Path | None = None) -> Checkpoint:
        """Open a folder in the published layout, or a model on the hub ("org/name"); reads headers only.

        vision_weights: an open_clip state dictionary (.bin or .safetensors, or the folder it lies in), or weights of
        the timm model that config.json names (see `osprey_torch.backbone_weights`). Its trunk is used instead of one
        inside the checkpoint. Without it and without vision weights in the checkpoint, the path `mm_vision_tower` of
        config.json is tried, absolute or from the folder.

        Raises:
            InputError: a file is missing or damaged, or parameters are missing, unexpected or of the wrong shape:
                all of them are named.
        """
        folder = Path(source)
        if not folder.is_dir():
            if not is_hub_id(str(source)):
                raise InputError(f"{source}: no such folder, and not the id of a model on the hub (org/name)")
            folder = fetch_checkpoint(str(source))
        data = read_json(folder / CONFIG)
        tokenizer, config = read_vocabulary(folder, config_from_json(data, folder / CONFIG), ids_given(data))
        config = with_companions(folder, config, tokenizer)
        tensors = list_weights(folder)
        if vision_weights is not None or not any(name.startswith(TOWER) for name in tensors):
            others = {name: tensor for name, tensor in tensors.items() if not name.startswith(TOWER)}
            tensors = others | list_vision_weights(folder, config, data.get("mm_vision_tower"), vision_weights)
        tensors = with_tied_embeddings(without_spare_rows(tensors, config), config)
        check_shapes(folder, config, tensors)
        files = tuple(sorted({tensor.path for tensor in tensors.values()}))
        return cls(folder, config, tokenizer, tensors, files, read_kinds(folder))

    @property
    def names(self) -> frozenset[str]:
        """Names of all parameters of the model, as published."""
        return frozenset(self.tensors)

    def read_tensor(self, name: str) -> torch.Tensor:
        """Read one parameter in its stored type. Nothing is cached."""
        return read_stored(self.tensors[name])

    def read(self, name: str) -> np.ndarray:
        """Read one parameter as float32. Nothing is cached. Raises InputError for values that are not finite."""
        array: np.ndarray = read_stored(self.tensors[name], torch.float32).numpy()
        check_finite(name, array, self.tensors[name].path)
        return array

    @property
    def digest(self) -> str:
        """SHA-256 over configuration, tokenizer, tree of kinds, and the type, shape and first values of each parameter.

        It is fast to compute and differs between any two checkpoints whose parameters training has changed. It does not
        cover every byte.
        """
        digest = hashlib.sha256(to_json(self.config.to_json(), sort_keys=True).encode())
        digest.update(self.tokenizer.to_str().encode())
        digest.update(self.kinds.to_json().encode() if self.kinds is not None else b"")
        for path in self.files:
            mapped = map_file(path)
            for name, stored in sorted(self.tensors.items()):
                if stored.path == path:
                    digest.update(f"{name} {stored.dtype} {stored.shape}\n".encode())
                    values = mapped[stored.name].reshape(-1)[:_IDENTITY_VALUES].contiguous()
                    digest.update(values.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def config_from_json(data: dict[str, Any], path: Path) -> OspreyConfig:
    """Return `OspreyConfig.from_json(data)`. Raises InputError with the name of the file, `path`."""
    try:
        return OspreyConfig.from_json(data)
    except KeyError as error:
        raise InputError(f"{path}: the key {error} is missing") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}") from error


def ids_given(data: dict[str, Any]) -> bool:
    """Return whether a `config.json` has ids for `<mask>` and `<pos>`, as those written by `save_checkpoint`."""
    own = data.get("osprey")
    return isinstance(own, dict) and own.get("mask_id") is not None


def check_finite(name: str, array: np.ndarray, path: Path) -> None:
    """Raise InputError if a weight, float32, has NaN or infinite values."""
    # The sum is not finite if a value is not; it needs no copy of the array.
    with np.errstate(over="ignore", invalid="ignore"):
        total = array.sum()
    if not np.isfinite(total) and not np.isfinite(array).all():
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        raise InputError(
            f"{path}: {name} has {bad} of {array.size} values that are not finite (NaN or infinity): the training "
            "diverged or overflowed; use an earlier checkpoint, or download it again"
        )


def save_checkpoint(
    model: Osprey,
    tokenizer: Tokenizer,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    state: Mapping[str, torch.Tensor] | None = None,
    kinds: KindTree | None = None,
) -> None:
    """Write config.json, model.safetensors, tokenizer.json, generation_config.json and, for a tree, kinds.json.

    state: the weights under their published names, where they are not `model.state_dict()`: gathered from devices.
    kinds: the tree of kinds. Without one, a kinds.json that is in the folder stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    generation = {"bos_token_id": config.bos_id, "eos_token_id": config.eos_id, "do_sample": False}
    write_json(folder / CONFIG, config.to_json())
    write_json(folder / "generation_config.json", generation)
    write_file(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    if kinds is not None:
        write_file(folder / KINDS, kinds.to_json())
    weights = model.state_dict() if state is None else state
    if config.tied_embeddings:
        weights = {name: tensor for name, tensor in weights.items() if name != OUTPUT_LAYER}
    stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.items()}
    path = folder / "model.safetensors"
    try:
        with completed_file(path) as partial:
            save_file(stored, partial, metadata={"format": "pt"})
    except SafetensorError as error:
        raise StorageError(f"{path} cannot be written; free some space, or write to another disk") from error


def load_checkpoint(source: Path | str, vision_weights: Path | None = None) -> tuple[Osprey, Tokenizer]:
    """Load a whole checkpoint as an fp32 model in evaluation mode; arguments and errors as `Checkpoint.open`."""
    checkpoint = Checkpoint.open(source, vision_weights)
    model = Osprey(checkpoint.config)
    for name, parameter in model.state_dict().items():  # each shares its memory with the model's own
        parameter.copy_(torch.from_numpy(checkpoint.read(name)))
    return model.eval(), checkpoint.tokenizer
