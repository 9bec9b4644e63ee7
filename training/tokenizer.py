"""The small model's own tokenizer: byte-pair encoding over the simulator's language, with LLaMA's special tokens."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from osprey_ros.decoding.prompt import MASK_TEXT, OSPREY_V1, POSITION_TEXT

SPACE = "▁"  # in place of a space in a token
SPECIAL = ("<unk>", "<s>", "</s>")  # ids 0, 1, 2 as in LLaMA
_TEMPLATE = [" ".join((OSPREY_V1.system, OSPREY_V1.user, OSPREY_V1.overview, OSPREY_V1.assistant, "Regarding"))] * 10


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train on `texts` and the template's words. `<mask>` and `<pos>` get the two ids behind the trained vocabulary."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(True)]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer.train_from_iterator(_TEMPLATE + list(texts), _trainer(vocab_size))
    tokenizer.add_special_tokens([MASK_TEXT, POSITION_TEXT])
    return tokenizer


def train_tokenizer_of_kinds(texts: Iterable[str], vocab_size: int, kinds: Sequence[str]) -> Tokenizer:
    """As `train_tokenizer`, with one token for each kind as it stands behind a space, such as " coffee mug".

    vocab_size: without the kinds. A kind is not one token where it only begins a word.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = _split_at_kinds(kinds)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    # Kinds need no merges.
    whole = re.compile(rf"\b(?:{_longest_first(kinds)})\b")
    tokenizer.train_from_iterator(_TEMPLATE + [whole.sub("", text) for text in texts], _trainer(vocab_size))
    return with_kind_tokens(tokenizer, kinds)


def with_kind_tokens(tokenizer: Tokenizer, kinds: Sequence[str]) -> Tokenizer:
    """Return a tokenizer with one token for each kind, those it does not have behind the others.

    Its other tokens keep their ids, except `<mask>` and `<pos>`, which get the two ids behind the vocabulary.

    Args:
        tokenizer: Of `train_tokenizer_of_kinds`.
        kinds: All kinds, also those that it has.
    """
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for name in kinds:
        vocabulary.setdefault(SPACE + name.replace(" ", SPACE), len(vocabulary))
    state["model"]["ignore_merges"] = True  # a word that is in the vocabulary is one token
    state["added_tokens"] = [one for one in state["added_tokens"] if one["content"] not in (MASK_TEXT, POSITION_TEXT)]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.pre_tokenizer = _split_at_kinds(kinds)
    tokenizer.add_special_tokens([MASK_TEXT, POSITION_TEXT])
    return tokenizer


def _split_at_kinds(kinds: Sequence[str]) -> pre_tokenizers.PreTokenizer:
    parts = rf"{SPACE}(?:{_longest_first(kinds).replace(' ', SPACE)})(?![A-Za-z])"
    words = rf"{SPACE}?[A-Za-z]+|[0-9]|{SPACE}|[^A-Za-z0-9{SPACE}]"
    return pre_tokenizers.Split(Regex(f"{parts}|{words}"), "isolated")


def _longest_first(kinds: Sequence[str]) -> str:
    """Return a pattern that matches the names of kinds, with spaces in them."""
    escaped = (re.escape(name).replace(r"\ ", " ") for name in sorted(kinds, key=len, reverse=True))
    return "|".join(escaped)


def _trainer(vocab_size: int) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=list(string.ascii_letters + string.digits + string.punctuation + "\n▁"),
        min_frequency=2,
        show_progress=False,
    )
