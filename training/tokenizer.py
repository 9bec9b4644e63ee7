"""The small model's own tokenizer: byte-pair encoding over the simulator's language, with LLaMA's special tokens."""

from __future__ import annotations

import string
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from osprey_ros.decoding.prompt import MASK_TEXT, OSPREY_V1, POSITION_TEXT

SPECIAL = ("<unk>", "<s>", "</s>")  # ids 0, 1, 2 as in LLaMA


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train on `texts` and the template's words. `<mask>` and `<pos>` get the two ids behind the trained vocabulary."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(True)]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    template = " ".join((OSPREY_V1.system, OSPREY_V1.user, OSPREY_V1.overview, OSPREY_V1.assistant, "Regarding"))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=list(string.ascii_letters + string.digits + string.punctuation + "\n▁"),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator([template] * 10 + list(texts), trainer)
    tokenizer.add_special_tokens([MASK_TEXT, POSITION_TEXT])
    return tokenizer
