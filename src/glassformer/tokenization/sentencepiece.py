"""SentencePiece models (`spiece.model`, `tokenizer.model`), read by hand from their protobuf.

Wire format: a message is a row of fields, each a varint `number << 3 | type` and a payload: a varint (0), eight bytes
(1), a varint length and as many bytes (2), or four bytes (5). Only these fields of `sentencepiece_model.proto` matter:

    ModelProto      1 pieces, 2 trainer_spec, 3 normalizer_spec
    SentencePiece   1 piece, 2 score, 3 type
    TrainerSpec     3 model_type, 35 byte_fallback, 40 unk_id, 41 bos_id, 42 eos_id, 45 unk_, 46 bos_, 47 eos_piece
    NormalizerSpec  2 precompiled_charsmap
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassformer.errors import BrokenFileError

SIZE_LIMIT = 64 * 2**20  # bytes; the largest in use, of 256,000 pieces, has 5 MB
PIECE_LIMIT = 1000  # characters; the cost of finding merges grows with the square

SPACE = "▁"  # what SentencePiece writes for a space
UNIGRAM, BPE = 1, 2
CONTROL, USER_DEFINED = 3, 4


@dataclass(frozen=True)
class Piece:
    """A token: its text, its score (a log probability in Unigram models) and its kind."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """What a tokenizer needs of a SentencePiece model.

    An id below 0 means that there is no such token.
    """

    pieces: list[Piece]
    algorithm: int
    byte_fallback: bool
    unk_id: int
    bos_id: int
    eos_id: int
    unk_piece: str
    bos_piece: str
    eos_piece: str
    charsmap: bytes


def read_model(path: str | os.PathLike[str]) -> SentencePieceModel:
    """Read a SentencePiece model.

    Args:
        path: The file.

    Raises:
        BrokenFileError: It is cut short, too large, or no SentencePiece model.

    Example:
        >>> read_model("spiece.model").pieces[2].text
        '<unk>'
    """
    size = os.path.getsize(path)
    if size > SIZE_LIMIT:
        raise BrokenFileError(f"{path} has {size} bytes, more than the {SIZE_LIMIT} allowed: is it a tokenizer at all?")
    try:
        return _model(Path(path).read_bytes())
    except (ValueError, IndexError, struct.error) as error:
        raise BrokenFileError(f"{path} is no complete SentencePiece model ({error}): fetch it again.") from error


def _model(data: bytes) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(data):
        if number == 1:
            pieces.append(_piece(_bytes(value)))
        elif number == 2:
            trainer.update(_fields(_bytes(value)))
        elif number == 3:
            normalizer.update(_fields(_bytes(value)))
    algorithm = trainer.get(3, UNIGRAM)
    unk_id = _int32(trainer.get(40, 0))
    if not pieces:
        raise ValueError("it holds no pieces")
    if algorithm not in (UNIGRAM, BPE):
        raise ValueError(f"its algorithm, number {algorithm}, is neither Unigram (1) nor BPE (2)")
    if unk_id >= len(pieces):
        raise ValueError(f"its unknown token has id {unk_id}, but there are {len(pieces)} pieces")
    return SentencePieceModel(
        pieces=pieces,
        algorithm=algorithm,
        byte_fallback=bool(trainer.get(35, 0)),
        unk_id=unk_id,
        bos_id=_int32(trainer.get(41, 1)),
        eos_id=_int32(trainer.get(42, 2)),
        unk_piece=_bytes(trainer.get(45, b"<unk>")).decode(),
        bos_piece=_bytes(trainer.get(46, b"<s>")).decode(),
        eos_piece=_bytes(trainer.get(47, b"</s>")).decode(),
        charsmap=_bytes(normalizer.get(2, b"")),
    )


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    text = _bytes(fields.get(1, b"")).decode()
    if len(text) > PIECE_LIMIT:
        raise ValueError(f"a piece has {len(text)} characters, more than {PIECE_LIMIT}")
    (score,) = struct.unpack("<f", _bytes(fields.get(2, b"\0\0\0\0")))
    return Piece(text, score, _int32(fields.get(3, 1)))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: its number and an integer, or bytes."""
    place, end = 0, len(data)
    while place < end:
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            number, place = _varint(data, place)
            yield key >> 3, number
            continue
        if kind == 2:
            length, place = _varint(data, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field has the unknown wire type {kind}")
        if length > end - place:
            raise ValueError(f"a field of {length} bytes has only {end - place}")
        yield key >> 3, data[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Seven bits a byte, low ones first; the high bit says that more follow."""
    value = data[place]
    if value < 0x80:
        return value, place + 1
    value &= 0x7F
    for shift in range(7, 70, 7):
        place += 1
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
    raise ValueError("a number has more than ten bytes")


def _int32(value: Any) -> int:
    """Negative numbers are written as unsigned numbers of 64 bits."""
    if not isinstance(value, int):
        raise ValueError("a number is expected where bytes are")
    return value - 2**64 if value >= 2**63 else value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("bytes are expected where a number is")
    return value
