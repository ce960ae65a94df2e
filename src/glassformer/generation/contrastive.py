"""Contrastive search (arXiv:2202.06417): likely tokens, but none whose state repeats the state of an earlier one.

In every step the model also reads each of the `top_k` likeliest tokens. Chosen is the one with the greatest
(1 - penalty_alpha) * probability - penalty_alpha * likeness, where the likeness of a token is the greatest cosine
between its last hidden state and those of the text before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from glassformer.errors import GenerationError, InputError
from glassformer.generation.prompt import repeated
from glassformer.generation.search import Criteria, Feed, Processors, Record


def contrastive_search(
    feed: Feed,
    top_k: int,
    penalty_alpha: float,
    processors: Processors,
    criteria: Criteria,
    pad: int | None,
    record: Record,
) -> Iterator[Tensor]:
    """Continue every row until all are finished.

    Args:
        feed: the model and its prompt; the tokens end up in its `ids`.
        top_k: how many tokens are looked at in a step.
        penalty_alpha: from 0, where only probability counts, to 1, where only likeness does.
        processors: from ids (B, T) and scores (B, V) to scores.
        criteria: from ids (B, T) and the scores kept to the finished rows (B,).
        pad: what follows in finished rows; None lets them go on until the last is finished.
        record: keeps what is wanted of the steps; of what was read, only what was chosen.

    Returns:
        The steps; each is the new token of every row, (B,).

    Raises:
        GenerationError: penalty_alpha is above 1, or a part of the text was read before, so that its states are gone.
    """
    if penalty_alpha > 1:
        raise GenerationError(f"penalty_alpha is {penalty_alpha}: it must lie between 0 and 1.")
    if feed.cache is not None and feed.cache.get_seq_length():
        raise GenerationError(
            "Contrastive search compares with the states of the whole text, which past_key_values does not hold: "
            "leave it out."
        )
    return _steps(feed, top_k, penalty_alpha, processors, criteria, pad, record)


def _steps(
    feed: Feed,
    top_k: int,
    penalty_alpha: float,
    processors: Processors,
    criteria: Criteria,
    pad: int | None,
    record: Record,
) -> Iterator[Tensor]:
    batch, device = len(feed.ids), feed.ids.device
    feed.fixed["output_hidden_states"] = True
    states_name = feed.decoder + "hidden_states"
    output = feed.step()
    logits = feed.readout(output)
    context = functional.normalize(output[states_name][-1], dim=-1)  # (B, T, D)
    # What was padding has no state to be like.
    unlike = None if feed.mask is None else feed.mask[:, None] == 0
    width = min(top_k, logits.shape[1])
    wide = repeated(replace(feed), width, encoder=not feed.use_cache)  # a row for every token looked at
    if wide.cache is not None:
        wide.cache.batch_repeat_interleave(width)
        feed.cache = None
    finished = torch.zeros(batch, dtype=torch.bool, device=device)
    while not bool(finished.all()):
        scores = processors(feed.ids, logits)
        record.add(output, logits, scores)
        probabilities, likeliest = scores.softmax(dim=-1).topk(width)
        wide.append(likeliest.flatten())
        output = wide.step()
        states = functional.normalize(output[states_name][-1][:, -1].view(batch, width, -1), dim=-1)
        likeness = states @ context.transpose(1, 2)  # (B, k, T)
        if unlike is not None:
            likeness = likeness.masked_fill(unlike, -torch.inf)
            unlike = functional.pad(unlike, (0, 1), value=False)
        value = (1 - penalty_alpha) * probabilities - penalty_alpha * likeness.amax(dim=2)
        best = value.masked_fill(scores.gather(1, likeliest).isneginf(), -torch.inf).argmax(dim=1, keepdim=True)
        rows = (best + torch.arange(0, batch * width, width, device=device)[:, None]).squeeze(1)
        context = torch.cat([context, states.gather(1, best[:, :, None].expand(-1, -1, states.shape[2]))], dim=1)
        tokens = likeliest.gather(1, best).squeeze(1)
        if pad is not None:
            tokens = tokens.masked_fill(finished, pad)
        logits = feed.readout(output)[rows]
        output = {name: tuple(layer[rows] for layer in output[name]) for name in record.outputs}
        wide.select(rows.repeat_interleave(width))
        feed.append(tokens)
        finished = finished | criteria(feed.ids, record.scores)
        if bool(finished.all()) and wide.cache is not None:
            wide.cache.batch_select_indices(torch.arange(0, batch * width, width, device=device))
            # As after other searches, the newest token is not in the cache; but a window cannot always take it back.
            with suppress(InputError):
                wide.cache.crop(-1)
            feed.cache = wide.cache
        yield tokens
