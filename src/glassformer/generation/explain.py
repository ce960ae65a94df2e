"""`explain_generation`: why these tokens. Every score before and after every processor, and where each setting is from.

The processors of an ordinary call are replaced by ones that look on; nothing of this is there when nobody asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from glassformer.errors import GenerationError
from glassformer.generation.config import DEFAULTS, SETTINGS, GenerationConfig, GenerationMode
from glassformer.generation.generate import begin
from glassformer.generation.processors import LogitsProcessor, LogitsProcessorList

_HOW = {GenerationMode.GREEDY_SEARCH: "greedy", GenerationMode.SAMPLE: "sampled"}

Text = Callable[[int], "str | None"]


@dataclass(frozen=True)
class Setting:
    """A setting of the call.

    Attributes:
        name: of the setting.
        value: as it acted.
        source: "call" for a keyword, "generation_config" for the object given to the call; "generation_config.json", or
            "config.json" where the model's settings were made from that; "default"; or "not set".
    """

    name: str
    value: Any
    source: str


@dataclass(frozen=True)
class Change:
    """What a processor did to the score of one token; -inf forbids it."""

    token_id: int
    token: str | None
    before: float
    after: float


@dataclass(frozen=True)
class Stage:
    """One processor's part in the choice of one token.

    Attributes:
        processor: the name of its class.
        parameters: its own attributes, as far as they are plain values.
        scores: (V,), after it.
        changed: how many scores it changed.
        forbidden: how many of them it put at -inf.
        changes: those of the best tokens among them, by the score before.
    """

    processor: str
    parameters: dict[str, Any]
    scores: Tensor
    changed: int
    forbidden: int
    changes: list[Change]


@dataclass(frozen=True)
class Candidate:
    """A token that was likely before the processors or after them.

    Attributes:
        token_id: of the token.
        token: its text, or None without a tokenizer.
        logit: the model's score.
        scores: after every processor, in their order.
        model_probability: softmax of the model's scores.
        probability: softmax of the last scores.
        chosen: whether it came next.
    """

    token_id: int
    token: str | None
    logit: float
    scores: list[float]
    model_probability: float
    probability: float
    chosen: bool


@dataclass(frozen=True)
class Choice:
    """How one token of one row came about.

    Attributes:
        row: of the batch.
        step: from 0.
        token_id: of the token chosen.
        token: its text, or None without a tokenizer.
        how: "greedy" for the best score; "sampled" for a draw by probability.
        probability: with which it came, after the processors.
        rank: its place by probability, from 1.
        possible: how many tokens could have come.
        logits: (V,), as the model gave them.
        stages: the processors, in their order.
        candidates: the best tokens before and after the processors, by probability.
    """

    row: int
    step: int
    token_id: int
    token: str | None
    how: str
    probability: float
    rank: int
    possible: int
    logits: Tensor
    stages: list[Stage]
    candidates: list[Candidate]


@dataclass(frozen=True)
class GenerationExplanation:
    """What `explain_generation` found; `print` shows it as a table.

    Attributes:
        sequences: (B, T), the ids that `generate` returns.
        settings: every setting, those of the call first.
        rows: for each row its choices, a token each.
        finish_reason: of every row, as in `generate`.
    """

    sequences: Tensor
    settings: list[Setting]
    rows: list[list[Choice]]
    finish_reason: list[str | None]

    def to_dict(self, full: bool = False) -> dict[str, Any]:
        """Everything as JSON can hold it, where None stands for -inf.

        Args:
            full: also the scores of the whole vocabulary, before and after every processor.
        """
        plain: dict[str, Any] = _plain(self, full)
        return plain

    def table(self, width: int | None = None) -> str:
        """The explanation as text of at most `width` columns; the terminal's if not given."""
        from glassformer.generation.explain_table import table

        return table(self, width)

    def __str__(self) -> str:
        return self.table()


@torch.no_grad()
def explain_generation(
    model: Any,
    inputs: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    *,
    tokenizer: Any = None,
    top: int = 5,
    **kwargs: Any,
) -> GenerationExplanation:
    """Generate as `generate` does, and tell of every token why it came.

    Args:
        model: the model.
        inputs: token ids (B, T), as in `generate`.
        generation_config: settings, as in `generate`.
        tokenizer: for the texts of tokens, and for `stop_strings`.
        top: how many candidates are shown a token, before and after the processors, and how many changes a processor.
        **kwargs: what else `generate` takes; greedy decoding and sampling can be explained.

    Returns:
        The tokens, which are those of `generate`, with their reasons.

    Raises:
        GenerationError: as in `generate`; or the strategy is another.

    Example:
        >>> why = model.explain_generation(ids, tokenizer=tokenizer, do_sample=True, top_p=0.9, max_new_tokens=3)
        >>> print(why)
        >>> why.rows[0][0].candidates[0].probability
    """
    if top < 1:
        raise GenerationError(f"top is {top}: give the number of candidates to show, at least 1.")
    if kwargs.pop("streamer", None) is not None:
        raise GenerationError("explain_generation() takes no streamer: leave it out.")
    run = begin(model, inputs, generation_config, tokenizer=tokenizer, **kwargs)
    if run.mode not in _HOW:
        raise GenerationError(
            f"{run.mode.value} cannot be explained token by token, only greedy decoding and sampling: leave out the "
            "setting that asks for it."
        )
    seen: list[Tensor] = []
    processors = list(run.processors)
    run.processors[:] = [_Watch(None, seen), *(_Watch(processor, seen) for processor in processors)]
    names = [(type(processor).__name__, _parameters(processor)) for processor in processors]
    text = _text_of(tokenizer)
    rows: list[list[Choice]] = [[] for _ in run.feed.ids]
    ended = [False] * len(rows)
    for step, tokens in enumerate(run.steps):
        for row, token in enumerate(tokens.tolist()):
            if not ended[row]:
                scores = [stage[row] for stage in seen]
                rows[row].append(_choice(row, step, token, _HOW[run.mode], scores, names, text, top))
        ended = [reason is not None for reason in run.finish.reasons]
        seen.clear()
    settings = _sources(model, generation_config, run.settings, kwargs)
    return GenerationExplanation(run.feed.ids, settings, rows, list(run.finish.reasons))


class _Watch(LogitsProcessor):
    """A processor, or none, whose scores are noted."""

    def __init__(self, processor: Any, seen: list[Tensor]) -> None:
        self._run = LogitsProcessorList([] if processor is None else [processor])
        self._seen = seen

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # A processor of one's own may write into the scores that it gets.
        scores = self._run(input_ids, scores.clone() if len(self._run) else scores)
        self._seen.append(scores)
        return scores


def _choice(
    row: int,
    step: int,
    token: int,
    how: str,
    scores: list[Tensor],
    names: list[tuple[str, dict[str, Any]]],
    text: Text,
    top: int,
) -> Choice:
    """The choice of a token, from the scores (V,) of the model and after every processor."""
    first, last = scores[0].softmax(-1), scores[-1].softmax(-1)
    stages = [
        Stage(name, parameters, after, *_difference(before, after, text, top))
        for (name, parameters), before, after in zip(names, scores, scores[1:])
    ]
    count = min(top, len(first))
    shown = {token, *first.topk(count).indices.tolist(), *last.topk(count).indices.tolist()}
    by_probability = sorted(shown, key=lambda one: (-float(last[one]), -float(first[one])))
    candidates = [
        Candidate(
            token_id=one,
            token=text(one),
            logit=float(scores[0][one]),
            scores=[float(after[one]) for after in scores[1:]],
            model_probability=float(first[one]),
            probability=float(last[one]),
            chosen=one == token,
        )
        for one in by_probability
    ]
    return Choice(
        row=row,
        step=step,
        token_id=token,
        token=text(token),
        how=how,
        probability=float(last[token]),
        rank=1 + int((last > last[token]).sum()),
        possible=int((last > 0).sum()),
        logits=scores[0],
        stages=stages,
        candidates=candidates,
    )


def _difference(before: Tensor, after: Tensor, text: Text, top: int) -> tuple[int, int, list[Change]]:
    """How many scores (V,) are others, how many of them are -inf, and the best tokens among them."""
    other = before != after
    changed = int(other.sum())
    best = before.masked_fill(~other, -math.inf).topk(min(top, changed)).indices.tolist()
    changes = [Change(token, text(token), float(before[token]), float(after[token])) for token in best]
    return changed, int((other & (after == -math.inf)).sum()), changes


def _sources(model: Any, given: GenerationConfig | None, settings: GenerationConfig, kwargs: Any) -> list[Setting]:
    """Every setting with its value and where it is from, those that somebody set first."""
    own = model.generation_config
    file = "config.json" if own._from_model_config else "generation_config.json"

    def source(name: str) -> str:
        if kwargs.get(name) is not None:
            return "call"
        if given is not None and getattr(given, name, None) is not None:
            return "generation_config"
        if getattr(own, name, None) is not None:
            return file
        return "default" if name in DEFAULTS else "not set"

    found = [Setting(name, getattr(settings, name), source(name)) for name in SETTINGS]
    order = ["call", "generation_config", file, "default", "not set"]
    return sorted(found, key=lambda setting: order.index(setting.source))


def _parameters(processor: Any) -> dict[str, Any]:
    plain = (bool, int, float, str, list, tuple)
    return {
        name: value for name, value in vars(processor).items() if not name.startswith("_") and isinstance(value, plain)
    }


def _text_of(tokenizer: Any) -> Text:
    """From a token's id to its text, which is what the vocabulary says where it is no whole character."""
    if tokenizer is None:
        return lambda token: None

    def text(token: int) -> str | None:
        found: str | None = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return found if found and "\ufffd" not in found else tokenizer.convert_ids_to_tokens(token)

    return text


def _plain(value: Any, full: bool) -> Any:
    """A value as JSON can hold it; tensors are left out of dataclasses unless `full`, but for the sequences."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Tensor):
        return _plain(value.tolist(), full)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, full) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item, full) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        named = {one.name: getattr(value, one.name) for one in fields(value)}
        return {
            name: _plain(item, full)
            for name, item in named.items()
            if full or name == "sequences" or not isinstance(item, Tensor)
        }
    return repr(value)
