"""Fetches a checkpoint from the Hugging Face hub: only the files that are read, resumed where a download broke off."""

from __future__ import annotations

import errno
import logging
import re
from pathlib import Path

from osprey_ros.errors import InputError
from osprey_ros.file_errors import os_reason
from osprey_torch.companion_files import COMPANIONS
from osprey_torch.weight_layout import CONFIG, WEIGHT_FILES, weight_file_names

log = logging.getLogger(__name__)

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "added_tokens.json")
_SMALL_FILES = (CONFIG, *_TOKENIZERS, *COMPANIONS, *(index for index, _ in WEIGHT_FILES))


def is_hub_id(source: str) -> bool:
    """Return whether the text has the form "org/name" of a model on the hub."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source) is not None


def fetch_checkpoint(repository: str) -> Path:
    """Bring the checkpoint of a hub model into the hub's cache and return its folder there.

    What the cache has is not fetched again. HF_HOME and HF_HUB_OFFLINE mean what they mean to every user of the hub.

    Raises:
        InputError: no such model, no network and not in the cache, or no weights in it.
    """
    # Imported here: a checkpoint that lies in a folder needs no hub.
    import huggingface_hub

    def fetch(names: tuple[str, ...] | list[str], revision: str | None = None) -> Path:
        try:
            return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(names)))
        except Exception as error:  # the hub's errors and those of its HTTP client have no base in common
            log.debug("the hub: %s", error)
            raise InputError(
                f"{repository} is neither a folder here nor to be had from the hub: {_reason(error)}"
            ) from error

    folder = fetch(_SMALL_FILES)
    commit = folder.name  # the large files come from the same commit, even if the model is updated meanwhile
    if not (folder / CONFIG).is_file():
        raise InputError(f"{repository} on the hub has no {CONFIG}: it is not a checkpoint in the published layout")
    if any((folder / index).is_file() for index, _ in WEIGHT_FILES):
        fetch(weight_file_names(folder), commit)
        return folder
    for _, single in WEIGHT_FILES:
        fetch([single], commit)
        if (folder / single).is_file():
            return folder
    raise InputError(f"{repository} on the hub has no weights that are read here (safetensors or .bin)")


def _reason(error: Exception) -> str:
    """Return why a download failed, and the remedy."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "its access is restricted; accept its terms on the hub and log in (hf auth login)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no public model has this name; check the name, or log in (hf auth login) if it is private"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return f"the cache (HF_HOME) cannot be written: {os_reason(error)}"
    return (
        "the download failed; check the name and the network (HF_HUB_OFFLINE must not be set), or give a folder; "
        "the same command continues a download that broke off"
    )
