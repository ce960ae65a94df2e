"""`generate`: settings, then a feed, then processors and criteria, then the search, then what is returned."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from glassformer.engine.executor import undisturbed
from glassformer.errors import GenerationError
from glassformer.generation.assemble import Situation, build_criteria, build_processors
from glassformer.generation.caches import new_cache
from glassformer.generation.config import GenerationConfig, GenerationMode, token_list
from glassformer.generation.drafting import build_drafter
from glassformer.generation.finish import Finish
from glassformer.generation.healing import heal
from glassformer.generation.outputs import (
    GenerateBeamDecoderOnlyOutput,
    GenerateBeamEncoderDecoderOutput,
    GenerateDecoderOnlyOutput,
    GenerateEncoderDecoderOutput,
)
from glassformer.generation.processors import LogitsProcessorList
from glassformer.generation.prompt import looked_at, prepare, read_ahead
from glassformer.generation.search import Feed, Record
from glassformer.generation.seeds import Generators, Noise, generators
from glassformer.generation.settings import lengths, resolve, supported_mode
from glassformer.generation.stopping import StoppingCriteriaList
from glassformer.generation.strategies import BEAM_MODES, LEAN_MODES, bursts, steps


@torch.no_grad()
def generate(
    model: Any,
    inputs: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
    synced_gpus: bool | None = None,
    assistant_model: Any = None,
    streamer: Any = None,
    negative_prompt_ids: Tensor | None = None,
    negative_prompt_attention_mask: Tensor | None = None,
    custom_generate: Any = None,
    **kwargs: Any,
) -> Any:
    """Continue token ids, or rewrite those that an encoder reads.

    Args:
        model: a decoder-only or encoder-decoder model with a head over the vocabulary.
        inputs: token ids (B, T): the prompts, or what the encoder reads. Prompts padded on the right are realigned.
        generation_config: settings; what it leaves open comes from `model.generation_config`, then from the defaults.
        logits_processor: processors of one's own, applied after those of the settings and before the sampling ones.
        stopping_criteria: criteria of one's own, beside those of the settings.
        prefix_allowed_tokens_fn: from a row's number and its ids (T,) to the tokens allowed next.
        synced_gpus: must be off.
        assistant_model: a smaller model with the same tokenizer, whose guesses save steps of the larger; the tokens
            (in sampling their distribution) are the same as without.
        streamer: gets the prompt and then every new token by `put`, and `end()`.
        negative_prompt_ids: (B, N), for `guidance_scale`.
        negative_prompt_attention_mask: (B, N).
        custom_generate: must be None: code of a checkpoint is never run.
        **kwargs: settings by name, over those of `generation_config`; arguments of the model, such as
            `attention_mask` (B, T); `tokenizer`, for `stop_strings`; and, for the chance of this call alone, either
            `seed` (a whole number, or one a row) or `generator` (a torch.Generator, or one a row).

    Returns:
        Token ids (B * num_return_sequences, length), of a decoder-only model with the prompt first; or, with
        `return_dict_in_generate=True`, a GenerateDecoderOnlyOutput or GenerateEncoderDecoderOutput.

    Raises:
        GenerationError: a keyword is unknown, settings contradict each other or are not supported, or the inputs do
            not fit.

    Example:
        >>> ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
        >>> tokenizer.decode(model.generate(ids, max_new_tokens=20)[0])
    """
    run = begin(
        model,
        inputs,
        generation_config,
        logits_processor,
        stopping_criteria,
        prefix_allowed_tokens_fn,
        synced_gpus,
        assistant_model,
        negative_prompt_ids,
        negative_prompt_attention_mask,
        custom_generate,
        **kwargs,
    )
    if streamer is not None:
        if run.mode in BEAM_MODES:
            raise GenerationError("A streamer cannot show beams, which change until the end: set num_beams to 1.")
        streamer.put(run.feed.ids.cpu())
    with undisturbed() if run.alone and streamer is None else nullcontext():
        for tokens in run.steps:
            if streamer is not None:
                streamer.put(tokens.cpu())
    if streamer is not None:
        streamer.end()
    return _output(run) if run.settings.return_dict_in_generate else run.feed.ids


@dataclass
class Run:
    """A call of `generate` under way.

    Attributes:
        mode: the strategy.
        settings: of the call.
        feed: the model and its tokens so far.
        processors: of the scores, in their order.
        record: what is kept of the steps.
        finish: the criteria, which know why each row ended.
        steps: the new token of every row, (B,), a step; taking the next one lets the model make it.
        alone: whether no code but this library's runs in a step.
    """

    mode: GenerationMode
    settings: GenerationConfig
    feed: Feed
    processors: LogitsProcessorList
    record: Record
    finish: Finish
    steps: Iterator[Tensor]
    alone: bool


@torch.no_grad()
def begin(
    model: Any,
    inputs: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
    synced_gpus: bool | None = None,
    assistant_model: Any = None,
    negative_prompt_ids: Tensor | None = None,
    negative_prompt_attention_mask: Tensor | None = None,
    custom_generate: Any = None,
    **kwargs: Any,
) -> Run:
    """All of `generate` up to the first step; its arguments and errors are the same."""
    tokenizer, seed, generator = (kwargs.pop(name, None) for name in ("tokenizer", "seed", "generator"))
    kwargs.pop("trust_remote_code", None)  # only custom_generate would run code
    unsupported = {
        "synced_gpus": synced_gpus,
        "assistant_tokenizer": kwargs.pop("assistant_tokenizer", None),
        "custom_generate": custom_generate,
    }
    settings, given, called = resolve(model, generation_config, kwargs)
    mode = supported_mode(settings, unsupported, assistant_model)
    if settings.token_healing:
        inputs, given = heal(model, tokenizer, inputs, given, generate)
    unseen = not looked_at(model)
    # Guesses differ between the rows of a prompt from the first step on.
    once = unseen and mode is not GenerationMode.ASSISTED_GENERATION
    feed, source_ids = prepare(model, settings, inputs, given, once)
    own = logits_processor or stopping_criteria or prefix_allowed_tokens_fn
    plain = unseen and not own and not settings.return_dict_in_generate
    feed.sheds = plain and feed.use_cache and given.get("past_key_values") is None
    prompt_length = feed.ids.shape[1]
    embedded = feed.embeds.shape[1] if feed.embeds is not None else None
    longest, shortest = lengths(model, settings, called, prompt_length, embedded)
    if feed.use_cache:
        read = longest - 1 + (0 if embedded is None else embedded - prompt_length)  # the last token is not
        read += mode is GenerationMode.CONTRASTIVE_SEARCH  # where all that may be chosen is read first
        feed.cache = new_cache(settings, feed.cache, called, bool(feed.decoder), read)
    now = Situation(
        model=model,
        prompt_length=prompt_length,
        source_ids=source_ids,
        mask=feed.mask,
        ends=token_list(settings.eos_token_id),
        max_length=longest,
        min_length=shortest,
    )
    if settings.prefill_chunk_size is not None:
        read_ahead(feed, settings.prefill_chunk_size)
    processors = build_processors(
        settings,
        now,
        logits_processor or [],
        prefix_allowed_tokens_fn,
        negative_prompt_ids,
        negative_prompt_attention_mask,
    )
    criteria = build_criteria(settings, now, stopping_criteria or [], tokenizer)
    record = _record(settings, feed.decoder)
    rows = len(feed.ids) // settings.num_beams if mode in BEAM_MODES else len(feed.ids)
    finish = Finish(criteria, rows)
    if not settings.do_sample and (seed is not None or generator is not None):
        warnings.warn("seed and generator have no effect where nothing is drawn: set do_sample=True.", stacklevel=4)
    chance: Generators | Noise = generators(seed, generator, rows, feed.ids.device)
    drafter = None
    if mode is GenerationMode.ASSISTED_GENERATION:
        if isinstance(chance, Sequence) and settings.assistant_ensemble_weight is None:
            chance = Noise(chance)
        call = (settings, called, now, feed, inputs, given, prefix_allowed_tokens_fn)
        drafter = build_drafter(assistant_model, *call, chance)
    search = steps(mode, settings, now, feed, processors, criteria, finish, chance, record, drafter)
    alone = not own and unseen and _ours(model)
    if assistant_model is not None:
        alone = alone and _ours(assistant_model) and not looked_at(assistant_model)
    if alone and mode in LEAN_MODES and (whole := getattr(model, "burst", None)) is not None:
        feed.lean = partial(whole, model)
    if alone and plain and mode is GenerationMode.GREEDY_SEARCH:
        feed.burst = bursts(model, now, processors, criteria)
    return Run(mode, settings, feed, processors, record, finish, search, alone)


def _ours(model: Any) -> bool:
    """Whether all parts of a model are this library's or torch's, so that no other code runs in a call."""
    parts = list(model.modules())
    kinds: set[Any] = set(map(type, parts))
    written = (origin for kind in kinds for origin in (kind, kind.forward))
    ours = all(origin.__module__.partition(".")[0] in ("glassformer", "torch") for origin in written)
    return ours and not any("forward" in vars(part) for part in parts)


def _record(settings: GenerationConfig, decoder: str) -> Record:
    """What to keep of the steps: nothing where only the ids are returned."""
    if not settings.return_dict_in_generate:
        return Record()
    names = []
    if settings.output_attentions:
        names += [f"{decoder}attentions", *(["cross_attentions"] if decoder else [])]
    if settings.output_hidden_states:
        names += [f"{decoder}hidden_states"]
    return Record(
        scores=() if settings.output_scores else None,
        logits=() if settings.output_logits else None,
        outputs=dict.fromkeys(names, ()),
    )


def _output(run: Run) -> Any:
    feed, record = run.feed, run.record
    kept: dict[str, Any] = {
        "sequences": feed.ids,
        "scores": record.scores,
        "logits": record.logits,
        "past_key_values": feed.cache,
    }
    kept.update(record.outputs)
    kinds: tuple[Any, Any] = (GenerateDecoderOnlyOutput, GenerateEncoderDecoderOutput)
    if record.beams is not None:
        kinds = (GenerateBeamDecoderOnlyOutput, GenerateBeamEncoderDecoderOutput)
        scores, kept["beam_indices"] = record.beams
        kept["sequences_scores"] = scores if run.settings.output_scores else None
    if not feed.decoder:
        return _with_reasons(kinds[0](**kept), run)
    encoded = feed.fixed["encoder_outputs"]
    for name in ("attentions", "hidden_states"):
        if f"decoder_{name}" in record.outputs:
            kept[f"encoder_{name}"] = getattr(encoded, name, None)
    return _with_reasons(kinds[1](**kept), run)


def _with_reasons(output: Any, run: Run) -> Any:
    if run.record.beams is not None:
        ended = run.record.beams[1] < 0
        run.finish.look_back(run.feed.ids, run.feed.ids.shape[1] - ended.sum(dim=1))
    output.finish_reason = tuple(run.finish.reasons)
    return output


def compute_transition_scores(
    sequences: Tensor,
    scores: tuple[Tensor, ...],
    beam_indices: Tensor | None = None,
    normalize_logits: bool = False,
) -> Tensor:
    """The scores of the tokens that were chosen.

    Args:
        sequences: (B, T), from an output of `generate`.
        scores: (B, V) a step, or (B * beams, V) with beams, from the same output.
        beam_indices: (B, steps), the row of the scores that each token came from; negative after the end.
        normalize_logits: make log-probabilities of the scores first.

    Returns:
        (B, steps): the score of every new token.

    Example:
        >>> out = model.generate(ids, return_dict_in_generate=True, output_scores=True)
        >>> compute_transition_scores(out.sequences, out.scores, normalize_logits=True).exp()  # probabilities
    """
    by_step = torch.stack(scores, dim=1)  # (B, steps, V)
    if normalize_logits:
        by_step = by_step.log_softmax(dim=-1)
    if beam_indices is None:
        return by_step.gather(2, sequences[:, -len(scores) :, None]).squeeze(2)
    steps = int((beam_indices >= 0).sum(dim=1).max())
    rows = beam_indices[:, :steps]
    tokens = sequences[:, sequences.shape[1] - steps :]
    chosen = by_step[rows.clamp(min=0), torch.arange(steps, device=rows.device), tokens]
    return chosen.masked_fill(rows < 0, 0.0)
