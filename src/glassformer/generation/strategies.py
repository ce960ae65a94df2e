"""From the mode of a call to the search that it names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from glassformer.generation.assemble import Situation, pad_after_end
from glassformer.generation.assisted import assisted, likeliest_of_both, speculative
from glassformer.generation.beams import Beams, Rules, Trellis, beam_search
from glassformer.generation.config import GenerationConfig, GenerationMode
from glassformer.generation.constraints import ConstrainedBeams, build_constraints
from glassformer.generation.contrastive import contrastive_search
from glassformer.generation.dola import Dola
from glassformer.generation.drafting import Drafter
from glassformer.generation.finish import Finish
from glassformer.generation.groups import check_groups, group_beam_search
from glassformer.generation.processors import ForcedBOSTokenLogitsProcessor, ForcedEOSTokenLogitsProcessor
from glassformer.generation.search import Feed, Processors, Record, drawn, greedy, search
from glassformer.generation.seeds import Generators, Noise, draw_several_with, draw_with, uniform_with
from glassformer.generation.stopping import EosTokenCriteria, MaxLengthCriteria, StoppingCriteriaList

BEAM_MODES = (
    *(GenerationMode.BEAM_SEARCH, GenerationMode.BEAM_SAMPLE),
    *(GenerationMode.GROUP_BEAM_SEARCH, GenerationMode.CONSTRAINED_BEAM_SEARCH),
)
# Those that need of a step the scores and nothing else of what the model gives.
LEAN_MODES = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE, *BEAM_MODES)


def steps(
    mode: GenerationMode,
    settings: GenerationConfig,
    now: Situation,
    feed: Feed,
    processors: Processors,
    criteria: StoppingCriteriaList,
    finish: Finish,
    chance: Generators | Noise,
    record: Record,
    drafter: Drafter | None = None,
) -> Iterator[Tensor]:
    """The search of a mode, not yet begun; its steps yield the new token of every row, (B,).

    Args:
        mode: the strategy.
        settings: of the call.
        now: the call's lengths, ends and prompt.
        feed: the model and its prompt; the tokens end up in its `ids`.
        processors: from ids (B, T) and scores (B, V) to scores.
        criteria: what finishes a row.
        finish: the same, and remembers why each row was finished.
        chance: where samples are drawn from.
        record: keeps what is wanted of the steps.
        drafter: guesses the next tokens, in assisted decoding.
    """
    pad = pad_after_end(settings, criteria)
    if mode not in BEAM_MODES:
        choose = drawn(draw_with(chance)) if settings.do_sample else greedy
        if drafter is not None:
            share = settings.assistant_ensemble_weight or 1.0
            accept = speculative(draw_with(chance), uniform_with(chance, feed.ids.device), share)
            if not settings.do_sample:
                accept = likeliest_of_both(share)
            return assisted(feed, drafter, choose, accept, processors, finish, pad, record, now.max_length)
        if mode is GenerationMode.CONTRASTIVE_SEARCH:
            return contrastive_search(feed, settings.top_k, settings.penalty_alpha, processors, finish, pad, record)
        if mode is GenerationMode.DOLA_GENERATION:
            feed.readout = Dola(feed, settings.dola_layers)
        return search(feed, choose, processors, finish, pad, record)
    assert not isinstance(chance, Noise)  # which is for draft models alone
    groups = 1
    if mode is GenerationMode.GROUP_BEAM_SEARCH:
        check_groups(settings)
        groups = settings.num_beam_groups
    width = settings.num_beams // groups
    rules = Rules(
        beams=width,
        candidates=max(2, 1 + len(now.ends)) * width,
        prompt=now.prompt_length,
        longest=now.max_length,
        length_penalty=settings.length_penalty,
        early_stopping=settings.early_stopping,
        draw=draw_several_with(chance) if settings.do_sample else None,
    )
    fill, returned = _fill(settings, now), settings.num_return_sequences
    if groups > 1:
        penalty = settings.diversity_penalty
        return group_beam_search(feed, rules, groups, penalty, processors, criteria, fill, returned, record)
    first = torch.arange(0, len(feed.ids), width, device=feed.ids.device)[:, None]
    beams = Beams(rules, first, Trellis())
    if mode is GenerationMode.CONSTRAINED_BEAM_SEARCH:
        beams = ConstrainedBeams(rules, first, Trellis(), build_constraints(settings), now.ends)
    return beam_search(feed, beams, processors, criteria, fill, returned, record)


def bursts(
    model: Any, now: Situation, processors: list[Any], criteria: StoppingCriteriaList
) -> Callable[[dict[str, Any], int], Tensor | None] | None:
    """Several greedy steps of a model at once, as in `Feed`; None where more than the scores and ends decides.

    What is forced is the first token, which is no burst's, or the last, before which bursts end.
    """
    burst = getattr(model, "burst", None)
    kinds = {type(processor) for processor in processors}
    if burst is None or kinds - {ForcedBOSTokenLogitsProcessor, ForcedEOSTokenLogitsProcessor}:
        return None
    if any(type(criterion) not in (EosTokenCriteria, MaxLengthCriteria) for criterion in criteria):
        return None
    longest = now.max_length - (ForcedEOSTokenLogitsProcessor in kinds)
    return lambda inputs, length: burst(model, inputs, longest - length, now.ends)


def _fill(settings: GenerationConfig, now: Situation) -> int:
    """What follows the shorter sequences of beams: padding; but in the place of padding 0 the peer takes an end."""
    if now.ends:
        return settings.pad_token_id or now.ends[0]
    return -1 if settings.pad_token_id is None else settings.pad_token_id  # no token, as in the peer
