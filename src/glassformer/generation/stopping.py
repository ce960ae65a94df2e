"""Stopping criteria: each says of every row, (B,), whether it is finished, by its ids so far, (B, T)."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import torch
from torch import Tensor

from glassformer.errors import GenerationError
from glassformer.generation.config import token_list

Scores = tuple[Tensor, ...] | None

_BYTE = "<0x[0-9A-Fa-f]{2}>"


class StoppingCriteria:
    """What every criterion is: a call from ids (B, T), and the scores so far if they are kept, to booleans (B,)."""

    def __call__(self, input_ids: Tensor, scores: Scores, **kwargs: Any) -> Any:
        """Which rows are finished: a tensor (B,), or one bool for all."""
        raise TypeError(f"{type(self).__name__} has no __call__: give it one, from (input_ids, scores) to booleans.")


class MaxLengthCriteria(StoppingCriteria):
    """Finished at `max_length` tokens, a decoder-only model's prompt included."""

    def __init__(self, max_length: int, max_position_embeddings: int | None = None) -> None:
        self.max_length = max_length
        self.max_position_embeddings = max_position_embeddings

    def __call__(self, input_ids: Tensor, scores: Scores, **kwargs: Any) -> Tensor:
        """All rows (B,) at once."""
        return _all(input_ids, self.reached(input_ids))

    def reached(self, input_ids: Tensor) -> bool:
        """Whether ids (B, T) have the length."""
        return input_ids.shape[1] >= self.max_length


class MaxTimeCriteria(StoppingCriteria):
    """Finished after `max_time` seconds since `initial_timestamp` (of `time.time()`), by default since it was made."""

    def __init__(self, max_time: float, initial_timestamp: float | None = None) -> None:
        self.max_time = max_time
        self.initial_timestamp = time.time() if initial_timestamp is None else initial_timestamp

    def __call__(self, input_ids: Tensor, scores: Scores, **kwargs: Any) -> Tensor:
        """All rows (B,) at once."""
        return _all(input_ids, self.reached(input_ids))

    def reached(self, input_ids: Tensor) -> bool:
        """Whether the time is over, whatever the ids (B, T)."""
        return time.time() - self.initial_timestamp > self.max_time


AT_ONCE = (MaxLengthCriteria, MaxTimeCriteria)  # finish all rows together, so that one bool, `reached`, says it


class EosTokenCriteria(StoppingCriteria):
    """Finished where the last token is an end.

    Args:
        eos_token_id: one id, or several.
    """

    def __init__(self, eos_token_id: int | list[int] | Tensor) -> None:
        self.eos_token_id = torch.tensor(token_list(eos_token_id))

    def __call__(self, input_ids: Tensor, scores: Scores, new_token_length: int = 1, **kwargs: Any) -> Tensor:
        """The rows (B,) with an end among the last `new_token_length` tokens."""
        if self.eos_token_id.device != input_ids.device:
            self.eos_token_id = self.eos_token_id.to(input_ids.device)
        return torch.isin(input_ids[:, -new_token_length:], self.eos_token_id).any(dim=-1)


class StopStringCriteria(StoppingCriteria):
    """Finished where the last token completes one of some strings, wherever tokens begin and end in it.

    Compared is what each token adds to the text, in bytes where the tokenizer's tokens are pieces of UTF-8.

    Args:
        tokenizer: the model's tokenizer.
        stop_strings: one string, or several.

    Raises:
        GenerationError: a stop string is empty.
    """

    def __init__(self, tokenizer: Any, stop_strings: str | list[str]) -> None:
        self.stop_strings = (stop_strings,) if isinstance(stop_strings, str) else tuple(stop_strings)
        if not self.stop_strings or "" in self.stop_strings:
            raise GenerationError(f"stop_strings is {stop_strings!r}: give one or more strings, none of them empty.")
        self._targets = [string.encode() for string in self.stop_strings]
        self._longest = max(map(len, self._targets))
        self._pieces = _Pieces(tokenizer)

    def __call__(self, input_ids: Tensor, scores: Scores, **kwargs: Any) -> Tensor:
        """The rows (B,) that a stop string ends in the last token of."""
        rows = input_ids[:, -self._longest :].tolist()
        return torch.tensor([self._stops(row) for row in rows], dtype=torch.bool, device=input_ids.device)

    def _stops(self, row: list[int]) -> bool:
        pieces = [self._pieces[token] for token in row]
        text = b"".join(pieces)
        before = len(text) - len(pieces[-1])  # a match must end after this
        return any(text.find(target, max(0, before - len(target) + 1)) >= 0 for target in self._targets)


class _Pieces(dict[int, bytes]):
    """What each token adds to a text, found on first use."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._bytes_of = _byte_reader(tokenizer)
        # The first token of a text may be written differently, so each is looked at after another.
        self._before = tokenizer.convert_ids_to_tokens(tokenizer("abcdef", add_special_tokens=False)["input_ids"])
        self._text_before = tokenizer.convert_tokens_to_string(self._before)

    def __missing__(self, token_id: int) -> bytes:
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        piece = b"\xff"  # for an id that is no token: a byte that no text has
        if token is not None:
            raw = self._bytes_of(token)
            if raw is None:
                text = self._tokenizer.convert_tokens_to_string([*self._before, token])
                raw = text.removeprefix(self._text_before).encode()
            piece = raw
        self[token_id] = piece
        return piece


def _byte_reader(tokenizer: Any) -> Any:
    """A function from a token to the bytes it stands for, or None where it stands for its text."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    state = decoder.__getstate__() if decoder is not None else b"null"
    kinds = _decoder_kinds(json.loads(state)) if isinstance(state, (bytes, str)) else set()
    if "ByteFallback" in kinds:
        return lambda token: bytes([int(token[3:5], 16)]) if re.fullmatch(_BYTE, token) else None
    if "ByteLevel" in kinds:
        table = _byte_level_table()
        return lambda token: bytes(table[c] for c in token) if all(c in table for c in token) else None
    return lambda token: None


def _decoder_kinds(state: Any) -> set[str]:
    if isinstance(state, dict):
        own = {state["type"]} if isinstance(state.get("type"), str) else set()
        return own.union(*(_decoder_kinds(value) for value in state.values()))
    return set().union(*map(_decoder_kinds, state)) if isinstance(state, list) else set()


def _byte_level_table() -> dict[str, int]:
    """The byte of every letter of the byte-level alphabet: printable ones are themselves, others follow from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


class StoppingCriteriaList(list[Any]):
    """Criteria of which any one finishes a row."""

    def __call__(self, input_ids: Tensor, scores: Scores, **kwargs: Any) -> Tensor:
        """The rows (B,) that some criterion finishes."""
        done: Any = False
        for criterion in self:
            at_once = type(criterion) in AT_ONCE
            hit = criterion.reached(input_ids) if at_once else criterion(input_ids, scores, **kwargs)
            done = done | hit if done is not False else hit
        return done if isinstance(done, Tensor) and done.dim() else _all(input_ids, bool(done))

    @property
    def max_length(self) -> int | None:
        """The length at which the criteria stop at the latest, in tokens, or None."""
        return next((criterion.max_length for criterion in self if isinstance(criterion, MaxLengthCriteria)), None)


def _all(input_ids: Tensor, finished: bool) -> Tensor:
    return torch.full((input_ids.shape[0],), finished, dtype=torch.bool, device=input_ids.device)
