"""Assisted decoding: cheap guesses at the next tokens, all checked by the model in one run.

A model reads ten tokens in little more time than one, so that every guess that it agrees with is a step saved. The
guesses come from a smaller model or from a lookup in the text so far. Every token is still the model's own: greedy
decoding keeps a guess if it is the model's first choice, and sampling keeps it by speculative sampling
(arXiv:2211.17192), after which the text is distributed as if there had been no guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from glassformer.generation.drafting import Drafter, extend, shorten
from glassformer.generation.search import Choose, Feed, Processors, Record

# From the model's probabilities (B, V), those of a guess (B, V) and the guess (B,) to tokens (B,), and which are it.
Accept = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def assisted(
    feed: Feed,
    drafter: Drafter,
    choose: Choose,
    accept: Accept,
    processors: Processors,
    criteria: Callable[[Tensor, tuple[Tensor, ...] | None], Tensor],
    pad: int | None,
    record: Record,
    max_length: int,
) -> Iterator[Tensor]:
    """Continue every row as `search` does, with the tokens that a drafter guesses right at the price of one.

    Rows keep step with each other: a guess goes on as long as it is right in all of them.

    Args:
        feed: the model and its prompt, with a cache; the tokens end up in its `ids`.
        drafter: guesses.
        choose: the next tokens (B,) from their scores (B, V), where nothing was drawn by the drafter.
        accept: as `speculative`, for guesses that were drawn.
        processors: from ids (B, T) and scores (B, V) to scores; they see what they would see without guesses.
        criteria: from ids (B, T) and the scores kept to the finished rows (B,).
        pad: what follows in finished rows.
        record: keeps what is wanted of the steps.
        max_length: tokens of a sequence at most.

    Yields:
        The new token of every row, (B,).
    """
    finished = torch.zeros(len(feed.ids), dtype=torch.bool, device=feed.ids.device)
    done = False
    while not done:
        ids = feed.ids
        guess = drafter.guess(ids, max(0, max_length - ids.shape[1] - 1))
        count = guess.tokens.shape[1]
        extend(feed, guess.tokens)
        if "logits_to_keep" in feed.fixed:
            feed.fixed["logits_to_keep"] = count + 1
        read, output = feed.fresh, feed.step()
        feed.fresh = 0
        kept = 0
        for step in range(count + 1):
            logits = output.logits[:, step - count - 1].to(torch.float32, copy=True)
            scores = processors(ids, logits)
            first = 0 if step == 0 else read - count - 1 + step
            record.add(_part(output, record.outputs, first, read - count + step, read), logits, scores)
            guessed = guess.tokens[:, step] if step < count else None
            if guessed is not None and guess.weights is not None:
                tokens, right = accept(scores.softmax(dim=-1), guess.weights[step], guessed)
            else:
                tokens = choose(scores)
                right = tokens == guessed if guessed is not None else torch.zeros_like(finished)
            if pad is not None:
                tokens = tokens.masked_fill(finished, pad)
            right = right | finished
            ids = torch.cat([ids, tokens[:, None]], dim=1)
            finished = finished | criteria(ids, record.scores)
            done = bool(finished.all())
            again = not done and bool(right.all()) and step < count
            if done or not again:
                feed_back(feed, ids, count - kept)
            kept += int(again)
            yield tokens
            if not again:
                break
        drafter.learn(count, kept)


def speculative(draw: Callable[[Tensor], Tensor], uniform: Callable[[int], Tensor], share: float = 1.0) -> Accept:
    """Speculative sampling: a guess drawn by other probabilities becomes a token drawn by the model's.

    Args:
        draw: a token of every row by its weight, from weights (B, V) to (B,).
        uniform: numbers between 0 and 1, from how many to (B,).
        share: of the model's probabilities in what is drawn; the rest is the guess's (arXiv:2604.07622).

    Returns:
        A function of the model's probabilities (B, V), those of the guess (B, V) and the guess (B,), which gives the
        tokens (B,), and whether each is the guess, (B,).
    """

    def accept(wanted: Tensor, given: Tensor, guessed: Tensor) -> tuple[Tensor, Tensor]:
        at = guessed[:, None]
        given_at, wanted_at = given.gather(1, at).squeeze(1), wanted.gather(1, at).squeeze(1)
        right = uniform(len(guessed)) * given_at < (1 - share) * given_at + share * wanted_at
        if bool(right.all()):
            return guessed, right
        missing = (wanted - given).clamp(min=0)
        # Rounding alone can refuse a guess where nothing is missing.
        missing = torch.where(missing.sum(dim=1, keepdim=True) > 0, missing, wanted)
        return torch.where(right, guessed, draw(missing)), right

    return accept


def likeliest_of_both(share: float) -> Accept:
    """Greedy decoding where the probabilities of the guess count too, as much as `share` leaves (arXiv:2604.07622)."""

    def accept(wanted: Tensor, given: Tensor, guessed: Tensor) -> tuple[Tensor, Tensor]:
        tokens = (share * wanted + (1 - share) * given).argmax(dim=-1)
        return tokens, tokens == guessed

    return accept


def feed_back(feed: Feed, ids: Tensor, wrong: int) -> None:
    """Put the tokens that were chosen, ids (B, T), in the place of the guesses, of which the last `wrong` go."""
    shorten(feed, wrong)
    extend(feed, ids[:, feed.ids.shape[1] :])
    feed.ids = ids


def _part(output: Any, names: dict[str, Any], first: int, end: int, read: int) -> dict[str, Any]:
    """What an output says of the positions read from `first` to `end`, as if no later one had been read."""
    part: dict[str, Any] = {}
    for name in names:
        layers = output.get(name)
        if layers is None:
            part[name] = None
        elif name.endswith("hidden_states"):
            part[name] = tuple(layer[:, first:end] for layer in layers)
        elif name == "cross_attentions":
            part[name] = tuple(layer[:, :, first:end] for layer in layers)
        else:
            part[name] = tuple(layer[:, :, first:end, : layer.shape[3] - (read - end)] for layer in layers)
    return part
