"""From the arguments of `generate` to a `Feed`: what the model reads, with masks, positions and start tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as hooks

from glassformer.cache import as_cache
from glassformer.errors import GenerationError
from glassformer.generation.config import GenerationConfig, token_list
from glassformer.generation.search import Feed
from glassformer.structure.places import Announcing


def prepare(
    model: Any, settings: GenerationConfig, inputs: Tensor | None, given: dict[str, Any], once: bool = False
) -> tuple[Feed, Tensor | None]:
    """What the model is fed in a call, each row `num_return_sequences` times.

    Args:
        model: the model, whose `arguments` names what its forward takes.
        settings: the settings of the call.
        inputs: token ids (B, T), the same as `input_ids` in `given`.
        given: the other arguments of the call, meant for the model.
        once: whether to read a prompt once for all of its rows, where there is a cache.

    Returns:
        The feed; and the token ids of the input (B, S), the encoder's where there is one, or None without ids.

    Raises:
        GenerationError: the model is no decoder, or an argument is unknown, missing, contradicts another or has the
            wrong shape.
    """
    if model.base_model.decoder is None:
        raise GenerationError(
            f"This {type(model).__name__} reads in both directions and predicts no next token; load it with "
            "is_decoder=True."
        )
    given = {name: _on(model.device, value) for name, value in given.items() if value is not None}
    given.pop("return_dict", None)
    given.pop("labels", None)  # a batch for training may be passed whole; a loss is not computed here
    if unknown := [name for name in given if name not in model.arguments]:
        raise GenerationError(
            f"generate() got {', '.join(unknown)}, which is neither a setting of GenerationConfig nor an argument of "
            f"{type(model).__name__}: check the spelling."
        )
    if inputs is not None:
        if "input_ids" in given:
            raise GenerationError("generate() got both inputs and input_ids, which are the same thing: pass one.")
        given["input_ids"] = _on(model.device, inputs)
    for name in ("input_ids", "decoder_input_ids"):
        if name in given:
            _check_ids(name, given[name])
    if settings.return_dict_in_generate:
        for name in ("output_attentions", "output_hidden_states"):
            if getattr(settings, name):
                given[name] = getattr(settings, name)
    source_ids = given.get("input_ids")
    if model.config.is_encoder_decoder:
        feed = _encoder_decoder(model, settings, given)
    else:
        feed = _decoder_only(model, settings, given)
        source_ids = feed.ids  # realigned, or begun with the begin token
    if feed.cache is not None and not feed.use_cache:
        raise GenerationError("past_key_values was given, but use_cache is False: leave out one of them.")
    if feed.cache is not None and feed.fresh < 1:
        raise GenerationError(
            f"past_key_values already holds {feed.cache.get_seq_length()} tokens, as many as the input or more: pass "
            "the whole text with at least one new token, or crop the cache."
        )
    if "logits_to_keep" in model.arguments:
        feed.fixed.setdefault("logits_to_keep", 1)
    times = max(settings.num_return_sequences or 1, settings.num_beams or 1)
    once = once and feed.use_cache
    if times > 1 and feed.cache is not None:
        feed.cache = feed.cache.branch(1 if once else times)  # the caller's may serve other calls
    feed.copies = times if once else 1
    return repeated(feed, times, encoder=not once), source_ids


def _decoder_only(model: Any, settings: GenerationConfig, given: dict[str, Any]) -> Feed:
    embeds: Tensor | None = given.pop("inputs_embeds", None)
    ids = given.pop("input_ids", None)
    if ids is None:
        ids = _first_ids(model, settings, given, embeds)
    cache = _cache(given.pop("past_key_values", None), False)
    mask: Tensor | None = given.pop("attention_mask", None)
    positions: Tensor | None = given.pop("position_ids", None)
    types: Tensor | None = given.pop("token_type_ids", None)
    past = cache.get_seq_length() if cache is not None else 0
    if mask is not None and mask.dim() != 2:
        raise GenerationError(f"attention_mask has shape {tuple(mask.shape)}: it must be (batch, tokens).")

    length = ids.shape[1] if embeds is None else embeds.shape[1]
    fresh = _fresh(length, past, mask)
    if mask is None:
        mask = _inferred_mask(ids, settings) if ids.shape[1] == length else ids.new_ones(len(ids), length)
        if fresh == length:  # the ids are the new ones alone
            mask = torch.cat([mask.new_ones(len(mask), past), mask], dim=1)
    elif mask.shape != (len(ids), past + fresh):
        raise GenerationError(
            f"attention_mask has shape {tuple(mask.shape)}, but {(len(ids), past + fresh)} was expected: one number "
            "for every token, those in past_key_values included."
        )
    if bool((mask[:, -1] == 0).any()):
        order = mask[:, past:].ne(0).to(torch.uint8).argsort(dim=1, stable=True)  # padding first, else as it was
        mask, ids, positions, types, embeds = (
            _reordered(tensor, order, past) for tensor in (mask, ids, positions, types, embeds)
        )
        assert mask is not None
    if positions is not None:
        positions = positions.expand(len(ids), -1)
    elif "position_ids" in model.arguments:
        positions = (mask.long().cumsum(dim=1) - 1).masked_fill(mask == 0, 0)
    all_real = bool((mask == 1).all())
    return Feed(
        model=model,
        ids=ids,
        fresh=fresh,
        fixed=given,
        mask=None if all_real else mask,
        positions=positions,
        token_types=types,
        embeds=embeds,
        cache=cache,
        # Embeddings stand for the prompt alone, so that the steps after it need its cache.
        use_cache=settings.use_cache is not False or embeds is not None,
    )


def _encoder_decoder(model: Any, settings: GenerationConfig, given: dict[str, Any]) -> Feed:
    ids, embeds = given.pop("input_ids", None), given.pop("inputs_embeds", None)
    if ids is not None and embeds is not None:
        raise GenerationError("generate() got both input_ids and inputs_embeds: pass one of them.")
    if "decoder_inputs_embeds" in given:
        raise GenerationError("generate() continues token ids: pass decoder_input_ids, not decoder_inputs_embeds.")
    if "encoder_outputs" not in given:
        given["encoder_outputs"] = _encoded(model, settings, ids, embeds, given)
    batch = given["encoder_outputs"][0].shape[0]
    ids, mask = _decoder_ids(model, settings, batch, given)
    cache = _cache(given.pop("past_key_values", None), True)
    fresh = _fresh(ids.shape[1], cache.get_seq_length() if cache is not None else 0, mask)
    return Feed(
        model=model,
        ids=ids,
        fresh=fresh,
        fixed=given,
        decoder="decoder_",
        mask=mask,
        positions=given.pop("decoder_position_ids", None),
        cache=cache,
        use_cache=settings.use_cache is not False,
    )


def _encoded(
    model: Any, settings: GenerationConfig, ids: Tensor | None, embeds: Tensor | None, given: dict[str, Any]
) -> Any:
    if ids is None and embeds is None:
        ids = _first_ids(model, settings, given, None)
    read = {"input_ids": ids} if embeds is None else {"inputs_embeds": embeds}
    if "attention_mask" in given:
        read["attention_mask"] = given["attention_mask"]
    return model.get_encoder()(
        **read,
        output_attentions=given.get("output_attentions", False),
        output_hidden_states=given.get("output_hidden_states", False),
        return_dict=True,
    )


def _decoder_ids(
    model: Any, settings: GenerationConfig, batch: int, given: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """The decoder's first tokens (B, T), which begin with the start token, and their mask (B, T), if any."""
    start = settings.decoder_start_token_id
    start = token_list(settings.bos_token_id if start is None else start)
    if not start:
        raise GenerationError(
            "The decoder has no token to start with: set decoder_start_token_id, in generate() or in the checkpoint's "
            "generation_config.json."
        )
    if len(start) not in (1, batch):
        raise GenerationError(f"decoder_start_token_id has {len(start)} tokens for {batch} texts: give one for each.")
    first = torch.tensor(start, device=model.device).expand(batch)[:, None]
    ids: Tensor | None = given.pop("decoder_input_ids", None)
    mask: Tensor | None = given.pop("decoder_attention_mask", None)
    if ids is None:
        return first, mask
    if len(ids) != batch:
        raise GenerationError(f"decoder_input_ids has {len(ids)} rows, but the encoder read {batch}: pass as many.")
    if bool((ids[:, :1] != first).all()):
        ids = torch.cat([first, ids], dim=1)
        mask = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1) if mask is not None else None
    return ids, mask


def _first_ids(model: Any, settings: GenerationConfig, given: dict[str, Any], embeds: Tensor | None) -> Tensor:
    """Ids to begin with where none were given: none (B, 0) before embeddings, else the begin token (B, 1)."""
    if embeds is not None:
        return torch.zeros(len(embeds), 0, dtype=torch.long, device=model.device)
    if settings.bos_token_id is None:
        raise GenerationError("There is nothing to continue: pass input_ids, or set bos_token_id to begin with it.")
    batch = next((len(value) for value in given.values() if isinstance(value, Tensor) and value.dim()), 1)
    return torch.full((batch, 1), settings.bos_token_id, dtype=torch.long, device=model.device)


def _fresh(length: int, past: int, mask: Tensor | None) -> int:
    """How many of the ids are not in the cache: they are the whole text if the mask is no longer than they are."""
    whole = mask.shape[1] == length if mask is not None else length > past
    return length - past if whole else length


def _inferred_mask(ids: Tensor, settings: GenerationConfig) -> Tensor:
    """1 for every id but padding; where padding is also an end, it cannot be told from one, and all are real."""
    pad = settings.pad_token_id
    if pad is None or pad in token_list(settings.eos_token_id):
        return torch.ones_like(ids)
    return ids.ne(pad).long()


def _cache(past: Any, encoder_decoder: bool) -> Any:
    return as_cache(past, encoder_decoder) if isinstance(past, (tuple, list)) else past


def read_ahead(feed: Feed, size: int) -> None:
    """Read a long prompt piece by piece into the cache, all but its last piece: less memory at a time, same numbers.

    Args:
        feed: the model and its prompt.
        size: tokens of a piece.

    Raises:
        GenerationError: the size is below 1, there is no cache, or the prompt is not made of tokens.
    """
    if size < 1 or not feed.use_cache or feed.embeds is not None:
        raise GenerationError(
            f"prefill_chunk_size={size} reads tokens into a cache piece by piece: it must be at least 1, with "
            "use_cache=True and input_ids."
        )
    while feed.fresh > size:
        end = feed.ids.shape[1] - feed.fresh + size

        def upto(value: Tensor | None, drop: int = feed.ids.shape[1] - end) -> Tensor | None:
            return None if value is None else value[:, : value.shape[1] - drop]

        piece = replace(feed, ids=feed.ids[:, :end], fresh=size, mask=upto(feed.mask))
        piece.positions, piece.token_types = upto(feed.positions), upto(feed.token_types)
        piece.read()
        feed.cache, feed.fresh = piece.cache, feed.fresh - size


def repeated(feed: Feed, times: int, encoder: bool) -> Feed:
    """Every row of the feed, but not of its cache, `times` times, copies side by side.

    Args:
        feed: the model and what it reads.
        times: how often.
        encoder: whether to repeat the encoder's states, too, which nobody reads once they are in the cache.
    """
    if times == 1:
        return feed

    def repeat(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.dim():
            return value
        return value.repeat_interleave(times, dim=0)

    feed.ids, feed.mask, feed.positions = repeat(feed.ids), repeat(feed.mask), repeat(feed.positions)
    feed.token_types, feed.embeds = repeat(feed.token_types), repeat(feed.embeds)
    feed.fixed = {name: repeat(value) for name, value in feed.fixed.items()}
    if encoder and (encoded := feed.fixed.get("encoder_outputs")) is not None:
        if hasattr(encoded, "items"):
            encoded = type(encoded)(**{name: repeat(value) for name, value in encoded.items()})
        else:
            encoded = tuple(repeat(value) for value in encoded)
        feed.fixed["encoder_outputs"] = encoded
    return feed


def looked_at(model: Any) -> bool:
    """Whether somebody looks inside, with a trace, an intervention or a hook, where all rows are expected."""
    return bool(hooks._global_forward_hooks or hooks._global_forward_pre_hooks) or any(
        (isinstance(part, Announcing) and part.listener is not None) or part._forward_hooks or part._forward_pre_hooks
        for part in model.modules()
    )


def _reordered(tensor: Tensor | None, order: Tensor, past: int) -> Tensor | None:
    """The positions (dimension 1) of a tensor, those after `past` in the given order (B, T), if it has as many."""
    new = order.shape[1]
    if tensor is None or tensor.shape[1] not in (new, past + new):
        return tensor
    tensor = tensor.expand(len(order), *tensor.shape[1:])
    index = order.reshape(*order.shape, *[1] * (tensor.dim() - 2)).expand(-1, -1, *tensor.shape[2:])
    return torch.cat([tensor[:, :-new], tensor[:, -new:].gather(1, index)], dim=1)


def _on(device: Any, value: Any) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _check_ids(name: str, ids: Any) -> None:
    if not isinstance(ids, Tensor):
        raise GenerationError(f"{name} is a {type(ids).__name__}: pass a tensor (the tokenizer's return_tensors='pt').")
    if ids.dim() != 2 or ids.is_floating_point():
        raise GenerationError(f"{name} is {ids.dtype} of shape {tuple(ids.shape)}: pass integers (batch, tokens).")
    if ids.shape[1] == 0:
        raise GenerationError(f"{name} has no tokens: pass at least one, such as the begin token.")
