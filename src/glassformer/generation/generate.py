"""`generate`: settings, then a feed, then processors and criteria, then the search, then what is returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glassformer.generation.assemble import Situation, build_criteria, build_processors, pad_after_end
from glassformer.generation.config import GenerationConfig, GenerationMode, token_list
from glassformer.generation.outputs import GenerateDecoderOnlyOutput, GenerateEncoderDecoderOutput
from glassformer.generation.processors import LogitsProcessorList
from glassformer.generation.prompt import prepare
from glassformer.generation.search import Feed, Record, draw, greedy, search
from glassformer.generation.settings import lengths, resolve, supported_mode
from glassformer.generation.stopping import StoppingCriteriaList

_CHOOSE = {GenerationMode.GREEDY_SEARCH: greedy, GenerationMode.SAMPLE: draw}


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
        assistant_model: must be None.
        streamer: gets the prompt and then every new token by `put`, and `end()`.
        negative_prompt_ids: (B, N), for `guidance_scale`.
        negative_prompt_attention_mask: (B, N).
        custom_generate: must be None: code of a checkpoint is never run.
        **kwargs: settings by name, over those of `generation_config`; arguments of the model, such as
            `attention_mask` (B, T); and `tokenizer`, for `stop_strings`.

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
    tokenizer = kwargs.pop("tokenizer", None)
    kwargs.pop("trust_remote_code", None)  # only custom_generate would run code
    unsupported = {
        "synced_gpus": synced_gpus,
        "assistant_model": assistant_model,
        "assistant_tokenizer": kwargs.pop("assistant_tokenizer", None),
        "custom_generate": custom_generate,
    }
    settings, given, called = resolve(model, generation_config, kwargs)
    choose = _CHOOSE[supported_mode(settings, unsupported)]
    feed, source_ids = prepare(model, settings, inputs, given)
    prompt_length = feed.ids.shape[1]
    embedded = feed.embeds.shape[1] if feed.embeds is not None else None
    longest, shortest = lengths(model, settings, called, prompt_length, embedded)
    now = Situation(
        model=model,
        prompt_length=prompt_length,
        source_ids=source_ids,
        mask=feed.mask,
        ends=token_list(settings.eos_token_id),
        max_length=longest,
        min_length=shortest,
    )
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
    if streamer is not None:
        streamer.put(feed.ids.cpu())
    for tokens in search(feed, choose, processors, criteria, pad_after_end(settings, criteria), record):
        if streamer is not None:
            streamer.put(tokens.cpu())
    if streamer is not None:
        streamer.end()
    return _output(feed, record) if settings.return_dict_in_generate else feed.ids


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


def _output(feed: Feed, record: Record) -> Any:
    kept: dict[str, Any] = {
        "sequences": feed.ids,
        "scores": record.scores,
        "logits": record.logits,
        "past_key_values": feed.cache,
    }
    kept.update(record.outputs)
    if not feed.decoder:
        return GenerateDecoderOnlyOutput(**kept)
    encoded = feed.fixed["encoder_outputs"]
    for name in ("attentions", "hidden_states"):
        if f"decoder_{name}" in record.outputs:
            kept[f"encoder_{name}"] = getattr(encoded, name, None)
    return GenerateEncoderDecoderOutput(**kept)


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
