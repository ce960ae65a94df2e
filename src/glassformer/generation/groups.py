"""Diverse beam search (arXiv:1610.02424): groups of beams, each held away from the tokens of the groups before it.

In every step the groups choose one after another, and a token's score falls by `diversity_penalty` for every beam of
the earlier groups that has just chosen it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from glassformer.errors import GenerationError
from glassformer.generation.beams import Beams, Rules, Trellis, finish, scored
from glassformer.generation.config import GenerationConfig
from glassformer.generation.search import Criteria, Feed, Processors, Record


def check_groups(settings: GenerationConfig) -> None:
    """Whether beams can be grouped as the settings ask.

    Raises:
        GenerationError: beams do not divide into the groups, nothing holds the groups apart, or tokens are drawn.
    """
    beams, groups = settings.num_beams or 1, settings.num_beam_groups or 1
    if beams % groups:
        raise GenerationError(f"{beams} beams do not divide into {groups} groups: set num_beams to a multiple of it.")
    if (settings.diversity_penalty or 0.0) <= 0.0:
        raise GenerationError("Groups of beams would all find the same: set diversity_penalty above 0.")
    if settings.do_sample:
        raise GenerationError("Groups of beams take the best and draw nothing: set do_sample=False.")


def group_beam_search(
    feed: Feed,
    rules: Rules,
    groups: int,
    diversity_penalty: float,
    processors: Processors,
    criteria: Criteria,
    fill: int,
    returned: int,
    record: Record,
) -> Iterator[Tensor]:
    """Beam search in groups that differ; arguments are those of `beam_search`, but `rules` are of one group.

    Args:
        feed: the model and its prompts, each once for every beam of every group.
        rules: what decides between the beams of a group.
        groups: how many.
        diversity_penalty: what a token's score falls by for each beam of an earlier group that chose it, in nats.
        processors: from ids (B * beams, T) and log-probabilities (B * beams, V) to scores, before the penalty.
        criteria: from ids (rows, T) and the scores kept to the finished rows.
        fill: what follows in sequences that are shorter than the longest.
        returned: sequences of each text, the best of all groups.
        record: keeps what is wanted of the steps, and in the end `beams`.

    Yields:
        The new token of every beam, (B * beams,).
    """
    width, trellis = rules.beams, Trellis()
    everyone = torch.arange(len(feed.ids), device=feed.ids.device).view(-1, groups, width)
    prompts = feed.ids[everyone[:, 0, 0]]
    members = [Beams(rules, everyone[:, group, :1], trellis) for group in range(groups)]
    while any(beams.open for beams in members):
        output, logits, scores = scored(feed, processors)
        scores = scores.clone()  # what is recorded gets the penalties below
        record.add(output, logits, scores)
        del output
        by_group = scores.view(*everyone.shape, -1)
        chosen = scores.new_zeros(len(everyone), 1, scores.shape[1])
        rows, tokens = everyone.clone(), torch.full_like(everyone, max(fill, 0))
        for group, beams in enumerate(members):
            if not beams.open:
                continue
            by_group[:, group] -= diversity_penalty * chosen
            taking = beams.wanting()
            rows[:, group], tokens[:, group] = beams.advance(
                feed.ids, by_group[:, group].flatten(0, 1), criteria, record.scores
            )
            weights = taking.to(chosen.dtype).expand(-1, width)
            chosen.squeeze(1).scatter_add_(1, tokens[:, group], weights)
        feed.select(rows.flatten())
        feed.append(tokens.flatten())
        going = [beams.wanting() & beams.open for beams in members]
        feed.shed(~torch.stack(going, dim=1).expand_as(rows).flatten())
        yield tokens.flatten()
    scores, best = torch.cat([beams.scores for beams in members], dim=1).topk(returned)
    nodes = torch.cat([beams.ended for beams in members], dim=1).gather(1, best)
    finish(feed, record, prompts, trellis, nodes, scores, fill)
