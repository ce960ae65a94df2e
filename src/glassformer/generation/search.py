"""The search for a continuation: a model that is fed step by step, and the loop that chooses a token a step.

`Feed.step` is the one place where the model is called; every strategy is a loop over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from glassformer.engine.numbers import widened
from glassformer.outputs import CausalLMOutputWithPast

Choose = Callable[[Tensor], Tensor]  # from scores (B, V) to tokens (B,)
Processors = Callable[[Tensor, Tensor], Tensor]  # from ids (B, T) and scores (B, V) to scores
Criteria = Callable[[Tensor, "tuple[Tensor, ...] | None"], Tensor]  # from ids (B, T) and scores kept to finished (B,)


def greedy(scores: Tensor) -> Tensor:
    """The most likely token of every row: scores (B, V) to tokens (B,)."""
    if scores.device.type == "cpu" and scores.dtype == torch.float32:
        return torch.from_numpy(scores.detach().numpy().argmax(axis=-1))  # ten times as fast as torch's own
    return scores.argmax(dim=-1)


def drawn(draw: Callable[[Tensor], Tensor]) -> Choose:
    """A choice by probability: `draw` takes a token of every row by its weight, from weights (B, V)."""
    return lambda scores: draw(scores.softmax(dim=-1))


def last_logits(output: Any) -> Tensor:
    """The model's scores of the next token, (B, V).

    Of several positions they are a copy, so that the scores of a whole prompt are not kept for the sake of the last.
    """
    logits: Tensor = output.logits
    if logits.shape[1] == 1:
        return widened(logits.squeeze(1))
    return logits[:, -1].to(torch.float32, copy=True)


@dataclass
class Feed:
    """A model and what it reads: everything at the first step, then with a cache only the newest token.

    Attributes:
        model: called with keywords.
        ids: (B, T), the tokens so far; new ones are appended.
        fresh: how many positions at the end the model has not read yet.
        fixed: arguments that are the same at every step.
        decoder: prefix of the names of the decoder's arguments: "decoder_" or "".
        mask: (B, past + T), 1 for real tokens, or None if all are.
        positions: (B or 1, past + T), or None where the model counts itself.
        token_types: (B, T), or None.
        embeds: (B, T, D), read at the first step in the place of the ids.
        cache: keys and values of what was read, or None.
        use_cache: whether to keep them.
        readout: from the model's output to the scores of the next token, a row that was read.
        copies: of so many rows side by side, which begin alike, the model reads one in the first step, and its cache
            holds what was read once.
        sheds: whether rows that are finished need not be read, since nobody sees what becomes of them.
        rows: those that the model still reads, in rising order; None for all.
        burst: from the arguments of the next call, and the tokens a row so far, to the likeliest next tokens of the
            rows that are read, (B, n), of several steps at once; or None, as it gives where the model is to be called.
        lean: from the arguments of the next call to the scores of the next token, (B, 1, V), and nothing else of what
            the model gives; or None, as it gives where the model is to be called.
    """

    model: Any
    ids: Tensor
    fresh: int
    fixed: dict[str, Any]
    decoder: str = ""
    mask: Tensor | None = None
    positions: Tensor | None = None
    token_types: Tensor | None = None
    embeds: Tensor | None = None
    cache: Any = None
    use_cache: bool = True
    readout: Callable[[Any], Tensor] = last_logits
    copies: int = 1
    sheds: bool = False
    rows: Tensor | None = None
    burst: Callable[[dict[str, Any], int], Tensor | None] | None = None
    lean: Callable[[dict[str, Any]], Tensor | None] | None = None

    def step(self) -> Any:
        """Let the model read what is fresh; returns its output, whose logits end with the next token's, (B, n, V)."""
        output = self.read()
        if self.copies > 1:
            self.cache.batch_repeat_interleave(self.copies)
            copied = {name: _repeated(value, self.copies) for name, value in output.items() if name not in _ONCE}
            output, self.copies = type(output)(**{**output, **copied}), 1
        return output

    def ahead(self, finished: Tensor) -> Tensor | None:
        """The likeliest next tokens of all rows, (B, n), where several steps are made at once; of finished rows zeros.

        The model has not read the last of them yet. Rows that are finished, (B,), and still read, go on with padding.
        """
        if self.burst is None or self.fresh != 1 or self.embeds is not None or self.cache is None:
            return None
        if self.rows is None and bool(finished.any()):
            return None
        tokens = self.burst(self.arguments(), self.ids.shape[1])
        if tokens is None or self.rows is None:
            return tokens
        return tokens.new_zeros(len(self.ids), tokens.shape[1]).index_copy_(0, self.rows, tokens)

    def read(self) -> Any:
        """The model's output for what is fresh, of the rows that it has to read."""
        inputs = self.arguments()
        if self.lean is not None and self.fresh == 1 and self.embeds is None and self.cache is not None:
            logits = self.lean(inputs)
            if logits is not None:
                return CausalLMOutputWithPast(logits=logits, past_key_values=self.cache)
        output = self.model(**inputs, use_cache=self.use_cache, return_dict=True)
        self.embeds = None
        if self.use_cache:
            self.cache = output.past_key_values
        return output

    def arguments(self) -> dict[str, Any]:
        """What the model is called with to read what is fresh, of the rows that it has to read."""
        inputs: dict[str, Any] = {}
        if self.embeds is not None:
            inputs["inputs_embeds"] = self.embeds[:, -self.fresh :]
        else:
            inputs[self.decoder + "input_ids"] = self.ids[:, -self.fresh :]
        if self.mask is not None:
            inputs[self.decoder + "attention_mask"] = self.mask
        if self.positions is not None:
            inputs[self.decoder + "position_ids"] = _newest(self.positions, self.fresh)
        if self.token_types is not None:
            inputs["token_type_ids"] = self.token_types[:, -self.fresh :]
        if self.rows is not None:
            inputs = {name: _rows_of(value, self.rows, len(self.ids)) for name, value in inputs.items()}
        inputs = {**self.fixed, **inputs}
        if self.copies > 1:
            inputs = {name: _first_of(value, self.copies) for name, value in inputs.items()}
        if self.cache is not None:
            inputs["past_key_values"] = self.cache
        return inputs

    def append(self, tokens: Tensor) -> None:
        """Add the next token of every row, (B,), or several, (B, n), all but the last of which have been read."""
        tokens = tokens[:, None] if tokens.dim() == 1 else tokens
        count = tokens.shape[1]
        self.ids = torch.cat([self.ids, tokens], dim=1)
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), count)], dim=1)
        if self.positions is not None:
            following = _newest(self.positions, 1) + count
            self.positions = following if self.use_cache else torch.cat([self.positions, following], dim=1)
        if self.token_types is not None:
            last = self.token_types[:, -1:]
            self.token_types = last if self.use_cache else torch.cat([self.token_types, last], dim=1)
        self.fresh = 1 if self.use_cache else self.ids.shape[1]

    def logits(self, output: Any) -> Tensor:
        """The scores of the next token, (B, V); zeros for rows that are read no more."""
        read = self.readout(output)
        if self.rows is None:
            return read
        return read.new_zeros(len(self.ids), read.shape[1]).index_copy_(0, self.rows, read)

    def select(self, rows: Tensor) -> None:
        """Go on with the tokens and the cache of the given rows, (B,), each in the place of one of the same prompt."""
        if rows.tolist() == list(range(len(rows))):
            return
        self.ids = self.ids.index_select(0, rows)
        if self.cache is not None:
            # What was read of an encoder is the same for all rows of a prompt.
            cache = getattr(self.cache, "self_attention_cache", self.cache)
            cache.reorder_cache(rows if self.rows is None else torch.searchsorted(self.rows, rows[self.rows]))

    def shed(self, finished: Tensor) -> None:
        """Let the model read the rows that are finished, (B,), no more, where that may be."""
        read = len(finished) if self.rows is None else len(self.rows)
        if not self.sheds or len(finished) - int(finished.sum()) in (0, read):
            return
        living = (~finished).nonzero().squeeze(1)
        kept = living if self.rows is None else torch.searchsorted(self.rows, living)
        self.fixed = {name: _rows_of(value, kept, read) for name, value in self.fixed.items()}
        self.cache.batch_select_indices(kept)
        self.rows = living


def _rows_of(value: Any, rows: Tensor, count: int) -> Any:
    """The given rows of an input that has `count` of them; any other as it is."""
    if not isinstance(value, Tensor) or not value.dim() or len(value) != count:
        return value
    return value.index_select(0, rows)


def _first_of(value: Any, copies: int) -> Any:
    """The first of every `copies` rows of an input."""
    return value[::copies] if isinstance(value, Tensor) and value.dim() else value


_ONCE = ("past_key_values", "encoder_last_hidden_state", "encoder_hidden_states", "encoder_attentions")


def _repeated(value: Any, times: int) -> Any:
    """Every row of a tensor, or of all in a tuple, `times` times."""
    if isinstance(value, tuple):
        return tuple(_repeated(one, times) for one in value)
    return value.repeat_interleave(times, dim=0) if isinstance(value, Tensor) else value


def _newest(tensor: Tensor, count: int) -> Tensor:
    """The last positions, (B, count)."""
    return tensor if tensor.shape[1] == count else tensor[:, -count:]


@dataclass
class Record:
    """What is kept of every step; None for what nobody asked for.

    Attributes:
        scores: (B, V) a step, after the processors.
        logits: (B, V) a step, as the model gave them.
        outputs: by name of the model's output, such as "attentions", its value a step.
        latest: (B, V) of the newest step, after the processors; always kept.
        beams: what came of them, where there are beams: the sequences' scores (R,) and the rows (R, steps) of each
            step's scores that a token came from, -1 after the end.
    """

    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    outputs: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    latest: Tensor | None = None
    beams: tuple[Tensor, Tensor] | None = None

    def add(self, output: Any, logits: Tensor, scores: Tensor) -> None:
        """Keep what was asked for of one step."""
        self.latest = scores
        if self.scores is not None:
            self.scores += (scores,)
        if self.logits is not None:
            self.logits += (logits,)
        for name in self.outputs:
            self.outputs[name] += (output.get(name),)


def search(
    feed: Feed,
    choose: Choose,
    processors: Callable[[Tensor, Tensor], Tensor],
    criteria: Callable[[Tensor, tuple[Tensor, ...] | None], Tensor],
    pad: int | None,
    record: Record,
) -> Iterator[Tensor]:
    """Continue every row until all are finished; greedy decoding and sampling differ in `choose` alone.

    Args:
        feed: the model and its prompt; the tokens end up in its `ids`.
        choose: the next tokens (B,) from their scores (B, V).
        processors: from ids (B, T) and scores (B, V) to scores.
        criteria: from ids (B, T) and the scores kept to the finished rows (B,).
        pad: what follows in finished rows; None lets them go on until the last is finished.
        record: keeps what is wanted of the steps.

    Yields:
        The new token of every row, (B,).
    """
    finished = torch.zeros(len(feed.ids), dtype=torch.bool, device=feed.ids.device)
    count = 0
    while count < len(finished):
        tokens = feed.ahead(finished)
        if tokens is None:
            output = feed.step()
            logits = feed.logits(output)
            scores = processors(feed.ids, logits)
            record.add(output, logits, scores)
            del output
            tokens = choose(scores)[:, None]
        if count and pad is not None:
            tokens = tokens.masked_fill(finished[:, None], pad)
        feed.append(tokens)
        done = criteria(feed.ids, record.scores)
        finished = finished | done if count else done
        count = sum(finished.tolist())
        if count and pad is not None:
            feed.shed(finished)
        yield from tokens.unbind(1)
