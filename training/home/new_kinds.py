"""Gives a model of home one more token for each kind of a tree that it does not know."""

from __future__ import annotations

import json

import torch
from tokenizers import Tokenizer

from osprey_ros.decoding.prompt import MASK_TEXT
from osprey_ros.errors import InputError
from osprey_torch.model import Osprey
from training.home.kinds import Kinds
from training.tokenizer import SPACE, with_kind_tokens

_TABLES = ("model.embed_tokens.weight", "lm_head.weight")  # one row for each token


def with_new_kinds(model: Osprey, tokenizer: Tokenizer, kinds: Kinds) -> tuple[Osprey, Tokenizer, tuple[str, ...]]:
    """Return a model and a tokenizer in which each kind is one token, and the names of the new kinds.

    The rows of a new token start as the mean over the known kinds below its nearest parent, so that the model takes the
    new kind for something like them. All other weights are the same.

    Args:
        model: A model of home, with a token for each kind that it knows.
        tokenizer: Its tokenizer.
        kinds: The tree with the new kinds in it.

    Raises:
        InputError: The tokenizer has no tokens for kinds.
    """
    vocabulary = json.loads(tokenizer.to_str())["model"]["vocab"]
    token = {name: f"{SPACE}{name.replace(' ', SPACE)}" for name in kinds.facts}
    known = {name: vocabulary[text] for name, text in token.items() if text in vocabulary}
    if not known:
        raise InputError("the tokenizer of the checkpoint has no tokens for kinds; give a checkpoint of home")
    new = tuple(name for name in kinds.facts if name not in known)
    grown_tokenizer = with_kind_tokens(tokenizer, tuple(kinds.facts))
    if not new:
        return model, grown_tokenizer, ()
    mask_id = grown_tokenizer.token_to_id(MASK_TEXT)
    assert mask_id is not None, "with_kind_tokens keeps <mask>"
    grown = Osprey(model.config.with_vocabulary(mask_id))
    state = model.state_dict()
    for table in _TABLES:
        rows = state[table]
        added = [rows[_like(name, kinds, known)].mean(0) for name in new]
        state[table] = torch.cat([rows, torch.stack(added)])
    grown.load_state_dict(state)
    return grown, grown_tokenizer, new


def _like(name: str, kinds: Kinds, known: dict[str, int]) -> list[int]:
    """Return the tokens of the known kinds below the nearest parent that has any, or of all known kinds."""
    for parent in kinds.ancestors(name):
        below = [number for other, number in known.items() if kinds.tree.covers(parent, other)]
        if below:
            return below
    return list(known.values())
