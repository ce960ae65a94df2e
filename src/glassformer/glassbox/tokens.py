"""Tokens: as the vocabulary writes them, and as a person reads them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SPACE, NEWLINE, TAB, EMPTY = "·", "↵", "⇥", "∅"
_CONTINUES = re.compile(r"##(?=\w)")  # WordPiece: goes on with the word before
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # SentencePiece: a byte that has no piece
_MARKS = {" ": SPACE, "▁": SPACE, "\n": NEWLINE, "\t": TAB, "\r": "\\r"}


def names_of(ids: Iterable[int], tokenizer: Any) -> list[str]:
    """The tokens of ids; their numbers where there is no tokenizer, or it has none for them."""
    ids = list(ids)
    if tokenizer is None:
        return [str(token) for token in ids]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return [str(number) if token is None else str(token) for number, token in zip(ids, tokens)]


def tokens_of(ids: Tensor | None, tokenizer: Any, rows: int, length: int) -> list[list[str]]:
    """The tokens that were read, (B, T), as the vocabulary writes them; their places where vectors were given."""
    if ids is None:
        return [[str(place) for place in range(length)] for _ in range(rows)]
    return [names_of(row, tokenizer) for row in ids.tolist()]


def _byte_alphabet() -> dict[str, int]:
    """The character that byte-level BPE writes for each byte: itself if it can be seen, else one from U+0100 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(0x100 + place): byte for place, byte in enumerate(unseen)}


_BYTES = _byte_alphabet()


def readable(tokens: Iterable[Any]) -> list[str]:
    r"""What a person reads in the place of tokens.

    A space is "·", a line's end "↵", a tab "⇥", and nothing at all "∅"; a piece that goes on with a WordPiece word
    begins with "-"; bytes that are no whole character, and characters that cannot be seen, are written "\xe2" and
    "\u200b". Any string is taken, and special tokens stay as they are.

    Args:
        tokens: of one text, as `convert_ids_to_tokens` gives them. They are read together, since some vocabularies
            write letters that others use for bytes.

    Returns:
        As many strings.

    Example:
        >>> readable(["She", "Ġhad", "Ċ"]), readable(["play", "##ing"]), readable(["▁der", "▁"])
        (['She', '·had', '↵'], ['play', '-ing'], ['·der', '·'])
    """
    pieces = ["" if token is None else str(token) for token in tokens]
    wordpiece = any(_CONTINUES.match(piece) for piece in pieces)
    bytelevel = not wordpiece and any(mark in piece for piece in pieces for mark in "ĠĊ")
    bytelevel = bytelevel and not any("▁" in piece for piece in pieces)
    return [_read(piece, wordpiece, bytelevel) for piece in pieces]


def _read(piece: str, wordpiece: bool, bytelevel: bool) -> str:
    if byte := _BYTE.fullmatch(piece):
        return _marked(_decoded(bytes([int(byte[1], 16)])))
    if wordpiece:
        piece = _CONTINUES.sub("-", piece, count=1) if _CONTINUES.match(piece) else piece
    elif piece and not piece.isascii() and all(character in _BYTES for character in piece):
        raw = bytes(_BYTES[character] for character in piece)
        # One letter alone, as "é", may be a byte or itself; two that make a whole character are hardly chance.
        piece = _decoded(raw) if bytelevel else _whole(raw) or piece
    return _marked(piece)


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", errors="backslashreplace")


def _whole(raw: bytes) -> str | None:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _marked(piece: str) -> str:
    """Spaces and what else cannot be seen made visible."""
    if not piece:
        return EMPTY
    text = "".join(_MARKS.get(character) or _seen(character) for character in piece)
    return "◌" + text if unicodedata.category(text[0]).startswith("M") else text


def _seen(character: str) -> str:
    if unicodedata.category(character)[0] in "CZ":  # controls, directions, surrogates, unassigned; separators
        return escaped(character)
    return character


def escaped(character: str) -> str:
    r"""A character by its number, as in "\u200b"."""
    return (
        character.encode("ascii", "backslashreplace").decode() if ord(character) > 0x7F else f"\\x{ord(character):02x}"
    )
