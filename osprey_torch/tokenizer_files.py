"""Reads the tokenizer of a checkpoint folder, with `<mask>` and `<pos>` behind the vocabulary.

Osprey was trained with the *fast* LLaMA tokenizer of transformers 4.31 (its code sets `use_fast=True` everywhere):
byte-pair encoding, "▁" before each piece of text between two added tokens, and no stripping of spaces around an added
token. "of <mask><pos>. Using" therefore becomes "▁of", "▁" before the mask and "▁.", "▁Using" after the position. The
slow tokenizer of 4.31 and the tokenizers of newer versions differ in this.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec  # type: ignore[attr-defined]
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from osprey_ros.decoding.prompt import IMAGE_TEXT, MASK_TEXT, OSPREY_V1, POSITION_TEXT, QUESTIONS
from osprey_ros.errors import InputError
from osprey_ros.file_errors import LFS_POINTER, is_lfs_pointer, os_reason, read_text
from osprey_ros.strict_json import to_json
from osprey_torch.config import OspreyConfig
from osprey_torch.json_files import read_json

log = logging.getLogger(__name__)

SPACE = "▁"  # stands for a space in the vocabulary
MOST_SPARE_ROWS = 514  # two for <mask> and <pos>, and padding to a multiple of 512
SPECIAL = ("<unk>", "<s>", "</s>")

_AGAIN = "download it again"
_BYTE = "<0x0A>"  # a piece that LLaMA's vocabulary has, and that of the small model has not
# Added tokens of LLaMA's tokenizer: neither normalized nor do they take spaces from the text around them.
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def read_tokenizer(folder: Path, config: OspreyConfig) -> Tokenizer:
    """Read `tokenizer.json`, else `tokenizer.model` (SentencePiece), and the tokens of `added_tokens.json`.

    Truncation and padding are switched off. A tokenizer of LLaMA's kind that splits the known questions in another
    way than the published one is corrected, with a warning.

    Raises:
        InputError: no such file, one that is damaged, or ids of `<mask>`, `<pos>`, `<s>` and `</s>` that are not the
            model's.
    """
    tokenizer, path = _load(folder)
    _check_ids(tokenizer, path, config)
    return tokenizer


def read_vocabulary(folder: Path, config: OspreyConfig, ids_given: bool) -> tuple[Tokenizer, OspreyConfig]:
    """Return the tokenizer as `read_tokenizer` does, and the configuration without spare rows of the vocabulary.

    Embedding tables may have rows for `<mask>` and `<pos>`, or be padded: those rows are never used.

    Args:
        ids_given: Whether config.json itself has the ids of `<mask>` and `<pos>`; they must be the tokenizer's then.
    """
    tokenizer, path = _load(folder)
    mask, position = (tokenizer.token_to_id(text) for text in (MASK_TEXT, POSITION_TEXT))
    assert mask is not None, "_load adds it"
    assert position is not None, "_load adds it"
    if not ids_given and 0 <= config.vocab_size - mask <= MOST_SPARE_ROWS:
        config = replace(config, mask_id=mask, pos_id=position)
    _check_ids(tokenizer, path, config)
    used = min(config.mask_id, config.pos_id)
    if used < config.vocab_size:
        log.info("vocabulary: %d of %d rows are used, the others are spare", used, config.vocab_size)
        config = replace(config, vocab_size=used)
    return tokenizer, config


def _load(folder: Path) -> tuple[Tokenizer, Path]:
    """Return the tokenizer of a folder with all added tokens, and its file."""
    path, model = folder / "tokenizer.json", folder / "tokenizer.model"
    if path.is_file():
        tokenizer = _published(_read_json(path), path)
        _compare(tokenizer, path, model)
    elif model.is_file():
        path = model
        tokenizer = llama_tokenizer(*_read_sentencepiece(model))
    else:
        raise InputError(f"{folder}: no tokenizer.json and no tokenizer.model in this checkpoint folder")
    _add_tokens(tokenizer, folder)
    tokenizer.add_special_tokens([MASK_TEXT, POSITION_TEXT])  # also replaces the flags of those already there
    return tokenizer, path


def _check_ids(tokenizer: Tokenizer, path: Path, config: OspreyConfig) -> None:
    """Raise InputError if tokens of the template have other ids than in config.json."""
    for text, expected in ((MASK_TEXT, config.mask_id), (POSITION_TEXT, config.pos_id)):
        found = tokenizer.token_to_id(text)
        if found != expected:
            raise InputError(
                f"{path} gives {text} the id {found}, config.json (vocab_size {config.vocab_size}) expects {expected}: "
                "tokenizer and weights are of different models"
            )
    ends = (config.eos_id, *config.extra_eos_ids)
    for key, text, ids in (("bos_token_id", SPECIAL[1], (config.bos_id,)), ("eos_token_id", SPECIAL[2], ends)):
        found = tokenizer.token_to_id(text)
        if found is not None and found not in ids:
            raise InputError(
                f"{path.with_name('config.json')}: {key} is {', '.join(map(str, ids))}, but {path.name} gives {text} "
                f"the id {found}: write {found}"
            )


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


def _read_json(path: Path) -> Tokenizer:
    """Read `tokenizer.json` without the truncation and padding that another program may have left in it."""
    text = read_text(path, InputError, _AGAIN)
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"{path} is not a tokenizer of the library tokenizers; {_AGAIN}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _published(tokenizer: Tokenizer, path: Path) -> Tokenizer:
    """Return a tokenizer with LLaMA's vocabulary as the published one splits text; another one is returned as it is."""
    data: dict[str, Any] = json.loads(tokenizer.to_str())
    pieces = data["model"].get("vocab")
    if data["model"]["type"] != "BPE" or not isinstance(pieces, dict) or not {SPACE, _BYTE} <= pieces.keys():
        return tokenizer
    reference = json.loads(llama_tokenizer([*SPECIAL, SPACE], []).to_str())
    data["added_tokens"] = [{**token, **_FLAGS} for token in data["added_tokens"]]
    data["model"] = {**reference["model"], "vocab": pieces, "merges": data["model"]["merges"]}
    data |= {key: reference[key] for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder")}
    published = Tokenizer.from_str(to_json(data))
    question = _different_question(tokenizer, published)
    if question is None:
        return tokenizer
    log.warning(
        "%s splits %r in another way than the tokenizer of the training (transformers 4.31); it is corrected in the "
        "bundle",
        path,
        question,
    )
    return published


def _compare(tokenizer: Tokenizer, path: Path, model: Path) -> None:
    """Raise InputError if a readable SentencePiece model beside LLaMA's tokenizer gives other tokens."""
    if not model.is_file() or tokenizer.token_to_id(_BYTE) is None:
        return
    try:
        other = llama_tokenizer(*_read_sentencepiece(model))
    except InputError as error:
        log.info("not compared: %s", error)
        return
    question = _different_question(tokenizer, other)
    if question is not None:
        raise InputError(
            f"{path} and {model.name} give different tokens for {question!r}: they are of different models; "
            f"remove {path.name}, or download both again"
        )


def _different_question(first: Tokenizer, second: Tokenizer) -> str | None:
    """Return the first known text of prompts for which two tokenizers give different tokens."""
    both = [Tokenizer.from_str(tokenizer.to_str()) for tokenizer in (first, second)]
    for tokenizer in both:
        tokenizer.add_special_tokens([MASK_TEXT, POSITION_TEXT])
    texts = (*QUESTIONS.values(), *OSPREY_V1.overview.split(IMAGE_TEXT), f"{OSPREY_V1.system} {OSPREY_V1.user}: ")
    return next((text for text in texts if _tokens(both[0], text) != _tokens(both[1], text)), None)


def _tokens(tokenizer: Tokenizer, text: str) -> list[int | str]:
    """Return token ids, with `<mask>` and `<pos>` as text: their ids depend on other added tokens."""
    encoded = tokenizer.encode(text, add_special_tokens=False)
    region = (MASK_TEXT, POSITION_TEXT)
    return [token if token in region else number for token, number in zip(encoded.tokens, encoded.ids, strict=True)]


def _read_sentencepiece(path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the pieces of a SentencePiece BPE model in order of id, and its merges.

    The file has no merges: each normal piece is merged from two other pieces, those with the best score first.

    Raises:
        InputError: the file is damaged or another kind of tokenizer than LLaMA's.
    """
    model = ModelProto()
    try:
        if is_lfs_pointer(path):
            raise InputError(f"{path} {LFS_POINTER}")
        model.ParseFromString(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {os_reason(error)}") from error
    except DecodeError as error:
        raise InputError(f"{path} is not a SentencePiece model; {_AGAIN}") from error
    if not model.pieces:
        raise InputError(f"{path} is not a SentencePiece model: it has no pieces; {_AGAIN}")
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


def _add_tokens(tokenizer: Tokenizer, folder: Path) -> None:
    """Add the tokens of `added_tokens.json`, else of `tokenizer_config.json`, each at its id."""
    path, newer = folder / "added_tokens.json", folder / "tokenizer_config.json"
    added: dict[str, Any] = {}
    if path.is_file():
        added = read_json(path)
    elif newer.is_file():
        path = newer
        table = read_json(path).get("added_tokens_decoder") or {}
        try:
            added = {token["content"]: int(number) for number, token in table.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: added_tokens_decoder is not a table of ids and tokens; {_AGAIN}") from error
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in added.values()):
        raise InputError(f"{path} is not a table of texts and ids; {_AGAIN}")
    for text, expected in sorted(added.items(), key=lambda item: item[1]):
        if tokenizer.token_to_id(text) != expected:
            tokenizer.add_special_tokens([text])
        found = tokenizer.token_to_id(text)
        if found != expected:
            raise InputError(f"{path} gives {text!r} the id {expected}, but the tokenizer beside it gives {found}")
