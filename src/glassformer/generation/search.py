"""The search for a continuation: a model that is fed step by step, and the loop that chooses a token a step.

`Feed.step` is the one place where the model is called; every strategy is a loop over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Choose = Callable[[Tensor], Tensor]  # from scores (B, V) to tokens (B,)


def greedy(scores: Tensor) -> Tensor:
    """The most likely token of every row: scores (B, V) to tokens (B,)."""
    return scores.argmax(dim=-1)


def draw(scores: Tensor) -> Tensor:
    """A token of every row by its probability, from torch's generator: scores (B, V) to tokens (B,)."""
    return torch.multinomial(scores.softmax(dim=-1), num_samples=1).squeeze(1)


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

    def step(self) -> Any:
        """Let the model read what is fresh; returns its output, whose logits end with the next token's, (B, n, V)."""
        inputs = dict(self.fixed)
        if self.embeds is not None:
            inputs["inputs_embeds"] = self.embeds[:, -self.fresh :]
            self.embeds = None
        else:
            inputs[self.decoder + "input_ids"] = self.ids[:, -self.fresh :]
        if self.mask is not None:
            inputs[self.decoder + "attention_mask"] = self.mask
        if self.positions is not None:
            inputs[self.decoder + "position_ids"] = self.positions[:, -self.fresh :]
        if self.token_types is not None:
            inputs["token_type_ids"] = self.token_types[:, -self.fresh :]
        if self.cache is not None:
            inputs["past_key_values"] = self.cache
        output = self.model(**inputs, use_cache=self.use_cache, return_dict=True)
        if self.use_cache:
            self.cache = output.past_key_values
        return output

    def append(self, tokens: Tensor) -> None:
        """Add the next token of every row, (B,)."""
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        if self.positions is not None:
            following = self.positions[:, -1:] + 1
            self.positions = following if self.use_cache else torch.cat([self.positions, following], dim=1)
        if self.token_types is not None:
            last = self.token_types[:, -1:]
            self.token_types = last if self.use_cache else torch.cat([self.token_types, last], dim=1)
        self.fresh = 1 if self.use_cache else self.ids.shape[1]


@dataclass
class Record:
    """What is kept of every step; None for what nobody asked for.

    Attributes:
        scores: (B, V) a step, after the processors.
        logits: (B, V) a step, as the model gave them.
        outputs: by name of the model's output, such as "attentions", its value a step.
    """

    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    outputs: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def add(self, output: Any, logits: Tensor, scores: Tensor) -> None:
        """Keep what was asked for of one step."""
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
        output = feed.step()
        # A copy, so that the scores of a whole prompt are not kept for the sake of its last position.
        logits = output.logits[:, -1].to(torch.float32, copy=True)
        scores = processors(feed.ids, logits)
        record.add(output, logits, scores)
        del output
        tokens = choose(scores)
        if count and pad is not None:
            tokens = tokens.masked_fill(finished, pad)
        feed.append(tokens)
        finished = finished | criteria(feed.ids, record.scores)
        count = int(finished.sum())
        yield tokens
