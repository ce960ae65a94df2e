"""Choices: what the scores of a call come to: the likeliest tokens or classes, with their probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...heads import MaskedLM, MultipleChoice, NextSentencePrediction
from ..tokens import names_of

TOP = 5
SCORES = ("logits", "start_logits", "end_logits", "next_sentence_logits", "mc_logits")
FOLLOWS = ("follows", "random")


@dataclass(frozen=True)
class Candidates:
    """The likeliest of what was to be chosen among, the best first.

    Attributes:
        name: of the scores, "logits".
        call: of the model, from 0.
        row: of the batch.
        position: of the token in the scores of that call; None where a whole text is judged.
        labels: tokens or classes, at most five.
        probabilities: theirs.
    """

    name: str
    call: int
    row: int
    position: int | None
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]


def choices_of(
    model: Any, records: Mapping[str, Sequence[Tensor]], ids: Sequence[Tensor], tokenizer: Any = None
) -> list[Candidates]:
    """What the recorded scores come to.

    A language model chooses at the last token that is not padding; at the mask tokens, where there are any, and at
    every token otherwise, if it fills gaps.

    Args:
        model: whose scores they are.
        records: the scores of every call, by name.
        ids: what the model read, (B, T), a call; the decoder's where there are two.
        tokenizer: for the tokens' text; their numbers if None.
    """
    config = getattr(model, "config", None)
    found: list[Candidates] = []
    for name in SCORES:
        calls = records.get(name, ())
        for call, scores in enumerate(calls):
            read = ids[call] if len(ids) == len(calls) and len(ids[call]) == len(scores) else None
            if scores.shape[-1] < 2 or scores.dim() not in (2, 3):
                continue
            if scores.dim() == 2:
                places: list[tuple[int, int | None]] = [(row, None) for row in range(len(scores))]
            else:
                places = _places(model, config, scores, read, tokenizer)
            rows = [row for row, _ in places]
            at = scores[rows] if scores.dim() == 2 else scores[rows, [position for _, position in places]]
            several = scores.dim() == 2 and getattr(config, "problem_type", None) == "multi_label_classification"
            at = at.detach().float()
            best = (at.sigmoid() if several else at.softmax(-1)).topk(min(TOP, scores.shape[-1]), dim=-1)
            for (row, position), indices, shares in zip(places, best.indices.tolist(), best.values.tolist()):
                row_ids = read[row] if read is not None else None
                labels = _labels(model, config, name, scores, indices, row_ids, tokenizer)
                found.append(Candidates(name, call, row, position, tuple(labels), tuple(shares)))
    return found


def _places(
    model: Any, config: Any, scores: Tensor, ids: Tensor | None, tokenizer: Any
) -> list[tuple[int, int | None]]:
    """The rows and positions at which something is chosen, of scores (B, T, ...)."""
    rows, length = scores.shape[:2]
    gaps = getattr(tokenizer, "mask_token_id", None)
    words = scores.shape[-1] == getattr(config, "vocab_size", None)
    if not words or isinstance(model, MaskedLM):
        masked = (ids == gaps).nonzero().tolist() if ids is not None and gaps is not None and words else []
        return [(row, place) for row, place in masked] or [(r, p) for r in range(rows) for p in range(length)]
    last = [length - 1] * rows
    pad = getattr(config, "pad_token_id", None)
    if ids is not None and pad is not None and ids.shape[1] == length:
        last = [int(row.nonzero()[-1]) if row.any() else length - 1 for row in ids != pad]
    return list(enumerate(last))


def _labels(
    model: Any, config: Any, name: str, scores: Tensor, indices: list[int], ids: Tensor | None, tokenizer: Any
) -> list[str]:
    """What the indices of scores stand for."""
    if name == "mc_logits" or isinstance(model, MultipleChoice):
        return [f"choice {index}" for index in indices]
    if name == "next_sentence_logits" or isinstance(model, NextSentencePrediction):
        return [FOLLOWS[index] for index in indices]
    if name in ("start_logits", "end_logits"):
        return [f"token {index}" for index in indices] if ids is None else names_of(ids[indices].tolist(), tokenizer)
    names = getattr(config, "id2label", None) or {}
    if len(names) == scores.shape[-1] and scores.shape[-1] != getattr(config, "vocab_size", None):
        return [str(names.get(index, index)) for index in indices]
    return names_of(indices, tokenizer)
