"""Reads the vocabulary of a SentencePiece model file (`tokenizer.model`) and turns its scores into BPE merges.

The file is a protocol buffer; the four fields needed here are read directly, which spares a dependency.
Field numbers: sentencepiece_model.proto of google/sentencepiece.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from osprey_torch.errors import CheckpointError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of ModelProto
_TEXT, _SCORE, _KIND = 1, 2, 3  # fields of a piece
_MODEL_TYPE = 3  # field of the trainer's part
_BPE = 2  # value of it
_CHARACTER_MAP = 2  # field of the normalizer's part

NORMAL = 1  # the kind of a piece that is merged from others; the rest are special tokens and single bytes


@dataclass(frozen=True)
class Piece:
    """One token: its text ("▁" for a space), its score (the higher the earlier it is merged) and its kind."""

    text: str
    score: float
    kind: int


def read_pieces(path: Path) -> list[Piece]:
    """All pieces of a BPE model, in order of id.

    Raises:
        CheckpointError: the file is damaged, or another kind of tokenizer than LLaMA's.
    """
    try:
        fields = list(_fields(path.read_bytes()))
        pieces = [_piece(value) for field, value in fields if field == _PIECES]
        trainer = dict(_fields(b"".join(value for field, value in fields if field == _TRAINER)))
        normalizer = dict(_fields(b"".join(value for field, value in fields if field == _NORMALIZER)))
    except (ValueError, TypeError, IndexError, struct.error) as error:
        raise CheckpointError(f"{path} is not a SentencePiece model ({error}); download it again") from error
    if not pieces:
        raise CheckpointError(f"{path} is not a SentencePiece model: it has no pieces; download it again")
    if trainer.get(_MODEL_TYPE) != _BPE or normalizer.get(_CHARACTER_MAP):
        raise CheckpointError(f"{path} is not LLaMA's kind of SentencePiece model: byte-pair encoding, text as it is")
    return pieces


def merges_of(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """The merges that build the normal pieces from two others, best score first, then by the ids of the two."""
    ids = {piece.text: number for number, piece in enumerate(pieces)}
    ranked = []
    for piece in pieces:
        if piece.kind != NORMAL:
            continue
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in ids and right in ids:
                ranked.append((-piece.score, ids[left], ids[right], left, right))
    return [(left, right) for *_, left, right in sorted(ranked)]


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    return Piece(
        text=fields[_TEXT].decode("utf-8"),
        score=struct.unpack("<f", fields.get(_SCORE, b"\0\0\0\0"))[0],
        kind=fields.get(_KIND, NORMAL),
    )


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message: integers as int, everything else as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield field, value
            continue
        if wire == _BYTES:
            length, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + length > len(data):
            raise ValueError(f"it ends inside a field at byte {at}")
        yield field, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        shift += 7
        if byte < 128:
            return value, at
