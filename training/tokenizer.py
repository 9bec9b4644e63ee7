"""The small model's own tokenizer: byte-pair encoding over the simulator's language, with LLaMA's special tokens."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from osprey_ros.decoding.prompt import MASK_TEXT, OSPREY_V1, POSITION_TEXT

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
    space = "▁"
    names = [name.replace(" ", space) for name in kinds]
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    parts = rf"{space}(?:{longest_first})(?![A-Za-z])"
    words = rf"{space}?[A-Za-z]+|[0-9]|{space}|[^A-Za-z0-9{space}]"
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", space)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"{parts}|{words}"), "isolated")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    # Kinds need no merges.
    whole = re.compile(rf"\b(?:{longest_first.replace(space, ' ')})\b")
    tokenizer.train_from_iterator(_TEMPLATE + [whole.sub("", text) for text in texts], _trainer(vocab_size))
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for name in names:
        vocabulary.setdefault(space + name, len(vocabulary))
    state["model"]["ignore_merges"] = True  # a word that is in the vocabulary is one token
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_special_tokens([MASK_TEXT, POSITION_TEXT])
    return tokenizer


def _trainer(vocab_size: int) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=list(string.ascii_letters + string.digits + string.punctuation + "\n▁"),
        min_frequency=2,
        show_progress=False,
    )
