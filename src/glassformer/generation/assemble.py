"""From settings to the processors and criteria that they ask for, in the order in which the peer applies them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from glassformer.errors import GenerationError
from glassformer.generation import processors as p
from glassformer.generation import stopping as s
from glassformer.generation import warpers as w
from glassformer.generation.config import GenerationConfig, token_list
from glassformer.generation.guidance import UnbatchedClassifierFreeGuidanceLogitsProcessor
from glassformer.generation.watermark_config import watermark_of


@dataclass
class Situation:
    """What processors need to know of a call beside its settings.

    Attributes:
        model: runs again where scores are guided.
        prompt_length: tokens (the decoder's) before the first new one.
        source_ids: what was given to the model (B, S), the encoder's ids where there is one; None for embeddings.
        mask: (B, past + T) over the decoder's tokens, or None if all are real.
        ends: the end tokens.
        max_length: tokens of a sequence at most, the prompt included.
        min_length: tokens of a sequence at least, the prompt included.
    """

    model: Any
    prompt_length: int
    source_ids: Tensor | None
    mask: Tensor | None
    ends: list[int]
    max_length: int
    min_length: int


def build_processors(
    settings: GenerationConfig,
    now: Situation,
    custom: list[Any],
    prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
    negative_prompt_ids: Tensor | None = None,
    negative_prompt_attention_mask: Tensor | None = None,
) -> p.LogitsProcessorList:
    """The processors that settings and arguments ask for; a custom one takes the place of one of its class.

    Raises:
        GenerationError: a setting has a value that its processor refuses, or needs what the call does not have.
    """
    built = p.LogitsProcessorList()
    if settings.guidance_scale not in (None, 1):
        if now.model.config.is_encoder_decoder:
            raise GenerationError("guidance_scale is for decoder-only models: leave it out.")
        built.append(
            UnbatchedClassifierFreeGuidanceLogitsProcessor(
                settings.guidance_scale,
                now.model,
                unconditional_ids=negative_prompt_ids,
                unconditional_attention_mask=negative_prompt_attention_mask,
                use_cache=settings.use_cache,
            )
        )
    elif negative_prompt_ids is not None:
        raise GenerationError("negative_prompt_ids has no effect without guidance: set guidance_scale above 1.")
    if settings.sequence_bias is not None:
        built.append(p.SequenceBiasLogitsProcessor(settings.sequence_bias))
    if settings.encoder_repetition_penalty not in (None, 1.0):
        source = _source("encoder_repetition_penalty", now)
        built.append(p.EncoderRepetitionPenaltyLogitsProcessor(settings.encoder_repetition_penalty, source))
    if settings.repetition_penalty not in (None, 1.0):
        built.append(p.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty, _padding(now)))
    if settings.no_repeat_ngram_size:
        built.append(p.NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram_size))
    if settings.encoder_no_repeat_ngram_size:
        source = _source("encoder_no_repeat_ngram_size", now)
        built.append(p.EncoderNoRepeatNGramLogitsProcessor(settings.encoder_no_repeat_ngram_size, source))
    if settings.bad_words_ids is not None:
        built.append(p.NoBadWordsLogitsProcessor(settings.bad_words_ids, now.ends))
    if now.ends and now.min_length > 0 and settings.min_new_tokens is None:
        built.append(p.MinLengthLogitsProcessor(now.min_length, now.ends))
    if now.ends and (settings.min_new_tokens or 0) > 0:
        built.append(p.MinNewTokensLengthLogitsProcessor(now.prompt_length, settings.min_new_tokens, now.ends))
    if prefix_allowed_tokens_fn is not None:
        built.append(p.PrefixConstrainedLogitsProcessor(prefix_allowed_tokens_fn, settings.num_beams or 1))
    if settings.forced_bos_token_id is not None:
        built.append(p.ForcedBOSTokenLogitsProcessor(settings.forced_bos_token_id))
    if settings.forced_eos_token_id is not None:
        built.append(p.ForcedEOSTokenLogitsProcessor(now.max_length, settings.forced_eos_token_id))
    if settings.remove_invalid_values:
        built.append(p.InfNanRemoveLogitsProcessor())
    if settings.exponential_decay_length_penalty is not None:
        if not now.ends:
            raise GenerationError("exponential_decay_length_penalty raises the end's score: set eos_token_id.")
        decay = settings.exponential_decay_length_penalty
        built.append(p.ExponentialDecayLengthPenalty(decay, now.ends, now.prompt_length))
    if settings.suppress_tokens is not None:
        built.append(p.SuppressTokensLogitsProcessor(settings.suppress_tokens))
    if settings.begin_suppress_tokens is not None:
        forced = now.prompt_length <= 1 and settings.forced_bos_token_id is not None
        begin = now.prompt_length + int(forced)
        built.append(p.SuppressTokensAtBeginLogitsProcessor(settings.begin_suppress_tokens, begin))
    built = _merged(built, custom)
    if settings.do_sample:
        built.extend(_warpers(settings, now))
    if settings.watermarking_config is not None:
        watermark = watermark_of(settings.watermarking_config)
        built.append(watermark.construct_processor(now.model.config.vocab_size, now.model.device))
    if settings.renormalize_logits:
        built.append(p.LogitNormalization())
    return built


def _warpers(settings: GenerationConfig, now: Situation) -> list[p.LogitsProcessor]:
    # Beams must keep a token that is no end, to go on with.
    keep = len(now.ends) + 1 if (settings.num_beams or 1) > 1 else 1
    built: list[p.LogitsProcessor] = []
    if settings.temperature not in (None, 1.0):
        built.append(w.TemperatureLogitsWarper(settings.temperature))
    if settings.top_h is not None:
        built.append(w.TopHLogitsWarper(settings.top_h))
    if settings.top_k not in (None, 0):
        built.append(w.TopKLogitsWarper(settings.top_k, min_tokens_to_keep=keep))
    if settings.top_p is not None and settings.top_p != 1.0:
        built.append(w.TopPLogitsWarper(settings.top_p, min_tokens_to_keep=keep))
    if settings.min_p is not None:
        built.append(w.MinPLogitsWarper(settings.min_p, min_tokens_to_keep=keep))
    if settings.typical_p not in (None, 1.0):
        built.append(w.TypicalLogitsWarper(settings.typical_p, min_tokens_to_keep=keep))
    if settings.epsilon_cutoff not in (None, 0.0):
        built.append(w.EpsilonLogitsWarper(settings.epsilon_cutoff, min_tokens_to_keep=keep))
    if settings.eta_cutoff not in (None, 0.0):
        built.append(w.EtaLogitsWarper(settings.eta_cutoff, min_tokens_to_keep=keep))
    return built


def build_criteria(
    settings: GenerationConfig, now: Situation, custom: list[Any], tokenizer: Any = None
) -> s.StoppingCriteriaList:
    """The criteria that settings ask for; a custom one takes the place of one of its class.

    Raises:
        GenerationError: there are stop strings, but no tokenizer.
    """
    built = s.StoppingCriteriaList([s.MaxLengthCriteria(now.max_length)])
    if settings.max_time is not None:
        built.append(s.MaxTimeCriteria(settings.max_time))
    if settings.stop_strings is not None:
        if tokenizer is None:
            raise GenerationError("stop_strings are compared with text: pass the model's tokenizer as tokenizer=.")
        built.append(s.StopStringCriteria(tokenizer, settings.stop_strings))
    if now.ends:
        built.append(s.EosTokenCriteria(now.ends))
    return _merged(built, custom)


def pad_after_end(settings: GenerationConfig, criteria: s.StoppingCriteriaList) -> int | None:
    """What follows in finished rows: the padding, else an end; None without an end, where rows wait for the last."""
    ends = [token for c in criteria for token in token_list(getattr(c, "eos_token_id", None))]
    return (ends[0] if settings.pad_token_id is None else settings.pad_token_id) if ends else None


Chain = TypeVar("Chain", p.LogitsProcessorList, s.StoppingCriteriaList)


def _merged(built: Chain, custom: list[Any]) -> Chain:
    """The built ones, each replaced by the custom one of its class if there is one, then the other custom ones."""
    by_class = {type(item): item for item in reversed(custom)}
    merged = type(built)(by_class.get(type(item), item) for item in built)
    merged.extend(item for item in custom if not any(item is other for other in merged))
    return merged


def _source(setting: str, now: Situation) -> Tensor:
    if now.source_ids is None or now.source_ids.shape[1] == 0:
        raise GenerationError(f"{setting} compares with the input's tokens: pass input_ids, or leave it out.")
    return now.source_ids


def _padding(now: Situation) -> Tensor | None:
    """How many tokens of padding each row of the ids begins with, (B,)."""
    if now.mask is None:
        return None
    padded = now.mask.ne(0).int().argmax(dim=1)
    return (padded - (now.mask.shape[1] - now.prompt_length)).clamp(min=0)  # the mask may cover a cache, too
