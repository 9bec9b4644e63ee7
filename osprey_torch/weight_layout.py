"""Lists the tensors of checkpoint folders and open_clip files and checks them against the model; reads headers only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from osprey_ros.errors import InputError
from osprey_torch.backbone_weights import list_backbone_weights
from osprey_torch.config import OspreyConfig
from osprey_torch.json_files import read_json
from osprey_torch.model import Osprey
from osprey_torch.tensor_files import StoredTensor, list_file
from osprey_torch.tokenizer_files import MOST_SPARE_ROWS

CONFIG = "config.json"
# (index of shards, file without shards), in the order in which they are looked for.
WEIGHT_FILES = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)
VISION = "model.vision_tower."  # what comes before the names of the vision tower in a checkpoint
CROP = "mask_extractor.crop."  # what comes before the names of the part for crops
TOWER = f"{VISION}vision_tower."  # what comes before open_clip's own names

# What the weights are called in open_clip's own repositories; looked for where a folder is given.
_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_MOST_NAMED = 20  # tensors in an error
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# A row for each token.
_VOCABULARY_ROWS = ("model.embed_tokens.weight", "lm_head.weight")
EMBEDDING_TABLE, OUTPUT_LAYER = _VOCABULARY_ROWS
_TRUNK = "visual.trunk."
_TRUNK_HEAD = "visual.trunk.head."


def weight_file_names(folder: Path) -> list[str]:
    """Return the weight files that the folder should have: the shards of its index, else the one file that is there.

    Safetensors come before .bin. Empty if there is neither an index nor a file.
    """
    for index, single in WEIGHT_FILES:
        if (folder / index).is_file():
            table = read_json(folder / index).get("weight_map")
            names = set(table.values()) if isinstance(table, dict) else set()
            # An index names files of its own folder and nothing else.
            if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
                raise InputError(f"{folder / index} is no index of shards: it needs a weight_map, names to files")
            return sorted(names)
        if (folder / single).is_file():
            return [single]
    return []


def list_weights(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a checkpoint folder, without those that the model does not use. Raises InputError."""
    names = weight_file_names(folder)
    if not names:
        raise InputError(f"{folder}: no model.safetensors and no pytorch_model.bin (nor an index of shards)")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: the index names shards that are not there: {', '.join(missing)}; fetch them")
    found: dict[str, StoredTensor] = {}
    for name in names:
        found |= list_file(folder / name)
    return {name: tensor for name, tensor in found.items() if not _is_unused(name)}


def list_vision_weights(
    folder: Path, config: OspreyConfig, configured: object, given: Path | None
) -> dict[str, StoredTensor]:
    """Return the vision tower of a weights file, under the names that it has in a published checkpoint.

    given: the file, or the folder it lies in; else `configured`, which is `mm_vision_tower` of config.json. It is an
    open_clip state dictionary, or weights of the timm model that the configuration names.
    Raises InputError if the file is missing or does not fit.
    """
    path = _open_clip_file(folder, config, configured, given)
    if config.vision_backbone is not None:
        return {VISION + name: tensor for name, tensor in list_backbone_weights(config, path).items()}
    found = {TOWER + name: tensor for name, tensor in list_file(path).items()}
    trunk = {name: tensor for name, tensor in found.items() if not _is_unused(name)}
    if not trunk:
        raise InputError(f"{path} has no {_TRUNK}*: it is not an open_clip model with a ConvNeXt trunk")
    return trunk


def without_spare_rows(tensors: Mapping[str, StoredTensor], config: OspreyConfig) -> dict[str, StoredTensor]:
    """Return the tensors with as many rows of the vocabulary as the model uses; a few more may be stored."""
    size = config.vocab_size
    return {
        name: tensor.head(size)
        if name in _VOCABULARY_ROWS and tensor.shape and size < tensor.shape[0] <= size + MOST_SPARE_ROWS
        else tensor
        for name, tensor in tensors.items()
    }


def with_tied_embeddings(tensors: Mapping[str, StoredTensor], config: OspreyConfig) -> dict[str, StoredTensor]:
    """Return the tensors with the embedding table as output layer, where the model ties them and stores one."""
    found = dict(tensors)
    if config.tied_embeddings and EMBEDDING_TABLE in found:
        found[OUTPUT_LAYER] = found[EMBEDDING_TABLE]
    return found


def parameter_shapes(config: OspreyConfig) -> dict[str, tuple[int, ...]]:
    """Return the published name and shape of every parameter of the model; no weights are made."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Osprey(config).state_dict().items()}


def check_shapes(
    folder: Path, config: OspreyConfig, found: Mapping[str, StoredTensor], optional: tuple[str, ...] = ()
) -> None:
    """Raise InputError with the names that are missing, unexpected, or of the wrong shape or type.

    optional: beginnings of names that may be missing.
    """
    expected = parameter_shapes(config)
    missing = [name for name in expected if name not in found and not name.startswith(optional)]
    lines = [f"missing: {name} {expected[name]}" for name in missing]
    lines += [f"unexpected: {name} in {tensor.path.name}" for name, tensor in found.items() if name not in expected]
    lines += [
        f"wrong shape: {name} is {found[name].shape}, {CONFIG} says {shape}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    lines += [
        f"wrong type: {name} is {_name(found[name].dtype)}, not float32, float16 or bfloat16"
        for name in expected
        if name in found and found[name].dtype not in _DTYPES
    ]
    if lines:
        more = f"; and {len(lines) - _MOST_NAMED} more" if len(lines) > _MOST_NAMED else ""
        raise InputError(f"{folder}: weights do not fit {CONFIG}: {'; '.join(lines[:_MOST_NAMED])}{more}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_unused(name: str) -> bool:
    """Return whether a tensor is a buffer of old transformers, or a part of CLIP other than the trunk of its tower."""
    inside = name.removeprefix(TOWER)
    if inside == name:
        return name.endswith(".rotary_emb.inv_freq")
    return not inside.startswith(_TRUNK) or inside.startswith(_TRUNK_HEAD)


def _open_clip_file(folder: Path, config: OspreyConfig, configured: object, given: Path | None) -> Path:
    chosen = given or (configured if isinstance(configured, str) and configured else None)
    if chosen is not None:
        # What the user gives counts from where the user is; an absolute path stays what it is either way.
        path = Path(chosen) if given else folder / chosen
        candidates = [path / name for name in _OPEN_CLIP_FILES] if path.is_dir() else [path]
        for candidate in candidates:
            if candidate.is_file():
                return candidate
        if given:
            wanted = " or ".join(str(candidate) for candidate in candidates)
            raise InputError(f"the file with the vision weights is not there: {wanted}")
    model = "open_clip's convnext_large_d_320" if config.vision_backbone is None else config.vision_backbone
    raise InputError(
        f"{folder}: the vision tower's weights are not in this checkpoint, and mm_vision_tower of {CONFIG} "
        f"({configured!r}) is not a file here: give the weights file of {model} with --vision-weights "
        "(in a training recipe: model.vision_weights)"
    )
