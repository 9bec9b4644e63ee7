"""Reads the tokenizer of a checkpoint folder, with `<mask>` and `<pos>` at the two ids after the vocabulary.

Osprey was trained with the *fast* LLaMA tokenizer of transformers 4.31 (its code sets `use_fast=True` everywhere):
byte-pair encoding, "▁" before each piece of text between two added tokens, and no stripping of spaces around an added
token. "of <mask><pos>. Using" therefore becomes "▁of", "▁" before the mask and "▁.", "▁Using" after the position. The
slow tokenizer of 4.31 and the tokenizers of newer versions differ in this.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError
from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec  # type: ignore[attr-defined]
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from osprey_ros.decoding.prompt import MASK_TEXT, POSITION_TEXT
from osprey_ros.errors import InputError
from osprey_torch.config import OspreyConfig

SPACE = "▁"  # stands for a space in the vocabulary
SPECIAL = ("<unk>", "<s>", "</s>")


def read_tokenizer(folder: Path, config: OspreyConfig) -> Tokenizer:
    """Read `tokenizer.json`, else `tokenizer.model` (SentencePiece), and `added_tokens.json` where there is one.

    Raises:
        InputError: no such file, one that is damaged, or ids of `<mask>` and `<pos>` that are not the model's.
    """
    path, model = folder / "tokenizer.json", folder / "tokenizer.model"
    if path.is_file():
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise InputError(f"{path} is not a tokenizer: {error}; download it again") from error
    elif model.is_file():
        path = model
        tokenizer = llama_tokenizer(*_read_sentencepiece(model))
    else:
        raise InputError(f"{folder}: no tokenizer.json and no tokenizer.model in this checkpoint folder")
    _add_tokens(tokenizer, folder / "added_tokens.json")
    tokenizer.add_special_tokens([MASK_TEXT, POSITION_TEXT])  # those already there are left as they are
    for text, expected in ((MASK_TEXT, config.mask_id), (POSITION_TEXT, config.pos_id)):
        found = tokenizer.token_to_id(text)
        if found != expected:
            raise InputError(
                f"{path} gives {text} the id {found}, config.json (vocab_size {config.vocab_size}) expects {expected}: "
                "tokenizer and weights are of different models"
            )
    return tokenizer


def llama_tokenizer(pieces: Sequence[str], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """Return LLaMA's tokenizer for merges and a vocabulary in order of id: `<unk>`, `<s>`, `</s>`, 256 bytes, words."""
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges), unk_token=SPECIAL[0], fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIAL])
    return tokenizer


def _read_sentencepiece(path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the pieces of a SentencePiece BPE model in order of id, and its merges.

    The file has no merges: each normal piece is merged from two other pieces, those with the best score first.

    Raises:
        InputError: the file is damaged or another kind of tokenizer than LLaMA's.
    """
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"{path} is not a SentencePiece model ({error}); download it again") from error
    if not model.pieces:
        raise InputError(f"{path} is not a SentencePiece model: it has no pieces; download it again")
    if model.trainer_spec.model_type != TrainerSpec.BPE or model.normalizer_spec.precompiled_charsmap:
        raise InputError(f"{path} is not LLaMA's kind of SentencePiece model: byte-pair encoding, text as it is")
    ids = {piece.piece: number for number, piece in enumerate(model.pieces)}
    ranked = []
    for piece in model.pieces:
        if piece.type == ModelProto.SentencePiece.NORMAL:
            for cut in range(1, len(piece.piece)):
                left, right = piece.piece[:cut], piece.piece[cut:]
                if left in ids and right in ids:
                    ranked.append((-piece.score, ids[left], ids[right], left, right))
    return list(ids), [(left, right) for *_, left, right in sorted(ranked)]


def _add_tokens(tokenizer: Tokenizer, path: Path) -> None:
    """Add the tokens of `added_tokens.json` (text to id), each at its id."""
    if not path.is_file():
        return
    try:
        added = sorted(json.loads(path.read_text()).items(), key=lambda item: item[1])
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is not a table of texts and ids: {error}") from error
    for text, expected in added:
        tokenizer.add_special_tokens([text])
        found = tokenizer.token_to_id(text)
        if found != expected:
            raise InputError(f"{path} gives {text!r} the id {expected}, but the tokenizer beside it gives {found}")
