"""Files beside config.json: those that transformers reads must agree with the model; a tree of kinds is optional."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from osprey_ros.bundle.manifest import KINDS
from osprey_ros.errors import BundleError, InputError
from osprey_ros.file_errors import read_text
from osprey_ros.kinds.tree import KindTree
from osprey_torch.config import OspreyConfig
from osprey_torch.config_values import numbers, positive_number, token_ids
from osprey_torch.json_files import read_json

log = logging.getLogger(__name__)

GENERATION, TOKENIZER, PREPROCESSOR = "generation_config.json", "tokenizer_config.json", "preprocessor_config.json"
COMPANIONS = (GENERATION, TOKENIZER, PREPROCESSOR, KINDS)
_RESCALE = 1 / 255  # of pixel values before they are normalized


def with_companions(folder: Path, config: OspreyConfig, tokenizer: Tokenizer) -> OspreyConfig:
    """Return the configuration with the end tokens of generation_config.json, after all companion files were checked.

    Raises InputError with file and key for a value that is invalid or that another value contradicts.
    """
    if (path := folder / GENERATION).is_file():
        config = _checked(path, lambda data: _generation(data, config))
    if (path := folder / TOKENIZER).is_file():
        _checked(path, lambda data: _tokenizer(data, config, tokenizer))
    if (path := folder / PREPROCESSOR).is_file():
        _checked(path, lambda data: _preprocessor(data, config, path))
    return config


def read_kinds(folder: Path) -> KindTree | None:
    """Return the tree of kinds of a checkpoint folder, None if it has none. Raises InputError if it is invalid."""
    path = folder / KINDS
    if not path.exists():
        return None
    text = read_text(path, InputError, "correct it, or remove the file")
    try:
        return KindTree.from_json(text)
    except BundleError as error:
        raise InputError(f"{path} is not a tree of kinds: {error}") from error


def _checked(path: Path, check: Any) -> Any:
    """Return what ``check`` returns for the JSON object of a file. Raises InputError with the name of the file."""
    data = read_json(path)
    try:
        return check(data)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _generation(data: Mapping[str, Any], config: OspreyConfig) -> OspreyConfig:
    known = (config.eos_id, *config.extra_eos_ids)
    (start, *_), ends = token_ids(data, "bos_token_id", [config.bos_id]), token_ids(data, "eos_token_id", known)
    if start != config.bos_id:
        raise ValueError(f"bos_token_id is {start}, but config.json says {config.bos_id}: correct one of them")
    if max(ends) >= config.vocab_size:
        raise ValueError(
            f"eos_token_id is {data['eos_token_id']!r}, but the vocabulary ends at {config.vocab_size - 1}"
        )
    if config.eos_id not in ends:
        raise ValueError(
            f"eos_token_id is {data['eos_token_id']!r}, without {config.eos_id} of config.json: correct one of them"
        )
    return replace(config, extra_eos_ids=(*config.extra_eos_ids, *(end for end in ends if end not in known)))


def _tokenizer(data: Mapping[str, Any], config: OspreyConfig, tokenizer: Tokenizer) -> None:
    for key, ids in (("bos_token", (config.bos_id,)), ("eos_token", (config.eos_id, *config.extra_eos_ids))):
        value = data.get(key)
        text = value.get("content") if isinstance(value, dict) else value
        if text is None:
            continue
        if not isinstance(text, str):
            raise ValueError(f"{key} is {value!r}: it must be the text of a token")
        found = tokenizer.token_to_id(text)
        if found not in ids:
            raise ValueError(f"{key} is {text!r} with the id {found}, config.json says {ids[0]}: correct one of them")


def _preprocessor(data: Mapping[str, Any], config: OspreyConfig, path: Path) -> None:
    remedy = "correct it, or remove the file"
    for key, expected in (("image_mean", config.image_mean), ("image_std", config.image_std)):
        found = numbers(data, key, 3)
        if found is not None and not np.allclose(found, expected, rtol=1e-3):
            raise ValueError(f"{key} is {list(found)}, but the model has {list(expected)}: {remedy}")
    if abs(positive_number(data, "rescale_factor", _RESCALE) - _RESCALE) > 1e-6:
        raise ValueError(f"rescale_factor is {data['rescale_factor']!r} and not 1/255: {remedy}")
    size = data.get("size")
    edges = list(size.values()) if isinstance(size, dict) else [size]
    if size is not None and any(edge != config.image_size for edge in edges):
        log.warning("%s: size is %s and not used: the model takes %d pixels", path, size, config.image_size)
