"""The settings of one call: where each comes from, which are supported, and the lengths that they amount to."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from glassformer.errors import GenerationError
from glassformer.generation.config import DEFAULTS, GenerationConfig, GenerationMode

# Settings that the peer knows, and that are refused here.
UNSUPPORTED = (
    *("is_assistant", "compile_config", "continuous_batching_config", "low_memory", "speculation_type", "use_mtp"),
)

# Settings that act in one mode alone: the value at which they do nothing, the mode, and what else it takes.
_OF_ONE_MODE: dict[str, tuple[Any, GenerationMode, str]] = {
    "dola_layers": (None, GenerationMode.DOLA_GENERATION, "num_beams to 1"),
    "penalty_alpha": (0, GenerationMode.CONTRASTIVE_SEARCH, "do_sample=False, num_beams to 1 and top_k above 1"),
    "num_beam_groups": (1, GenerationMode.GROUP_BEAM_SEARCH, "num_beams to a multiple of it, without constraints"),
    "diversity_penalty": (0, GenerationMode.GROUP_BEAM_SEARCH, "num_beam_groups above 1"),
}


def resolve(
    model: Any, generation_config: GenerationConfig | None, kwargs: dict[str, Any]
) -> tuple[GenerationConfig, dict[str, Any], set[str]]:
    """The settings of a call: its keywords, over its config, over the model's, over the defaults.

    Args:
        model: gives its `generation_config`.
        generation_config: the config of the call; it is not changed.
        kwargs: the keywords of the call.

    Returns:
        The settings; the keywords that are none; and the names of the settings that the call itself gives.

    Raises:
        GenerationError: a value is wrong, or two contradict each other.
    """
    settings = copy.deepcopy(generation_config) if generation_config is not None else GenerationConfig()
    called = {name for name, value in settings.to_dict().items() if value is not None}
    settings.update(**model.generation_config.to_dict(), defaults_only=True, allow_custom_entries=True)
    settings.update(**DEFAULTS, defaults_only=True)
    given = settings.update(**kwargs)
    called |= {name for name, value in kwargs.items() if name not in given and value is not None}
    return settings, given, called


def supported_mode(settings: GenerationConfig, arguments: Mapping[str, Any], assistant: Any = None) -> GenerationMode:
    """The strategy of a call.

    Args:
        settings: of the call.
        arguments: those of `generate` that are not supported, by name.
        assistant: the smaller model of the call, if any.

    Raises:
        GenerationError: something is asked for that this library does not do.
    """
    asked = [name for name, value in arguments.items() if value] + [n for n in UNSUPPORTED if getattr(settings, n)]
    mode = settings.get_generation_mode(assistant)
    if assistant is not None and mode is not GenerationMode.ASSISTED_GENERATION:
        raise GenerationError(f"assistant_model helps greedy decoding and sampling, not {mode.value}: leave out one.")
    for name, (neutral, own, need) in _OF_ONE_MODE.items():
        if (value := getattr(settings, name)) not in (None, neutral) and mode is not own:
            raise GenerationError(f"{name}={value!r} has no part in {mode.value}: leave it out, or set {need}.")
    if asked:
        raise GenerationError(
            f"{', '.join(asked)} is not supported in this version: leave it out (if it came with the checkpoint, set "
            "it to None in the call)."
        )
    return mode


def lengths(
    model: Any, settings: GenerationConfig, called: set[str], prompt: int, embedded: int | None
) -> tuple[int, int]:
    """The most and the fewest tokens that a sequence may have, the prompt included.

    Args:
        model: gives the positions that it has, if its config names them.
        settings: of the call.
        called: names of the settings that the call itself gives.
        prompt: tokens (the decoder's) before the first new one.
        embedded: positions of a prompt that was given as embeddings; the lengths set count them, the sequences do not.

    Raises:
        GenerationError: the prompt leaves no room, or the lengths of the call contradict each other.
    """
    chosen = "max_length" in called or model.generation_config.max_length is not None
    beside = (embedded or prompt) - prompt
    if settings.max_new_tokens is not None:
        if {"max_length", "max_new_tokens"} <= called:
            warnings.warn("max_new_tokens was given, so that max_length has no effect.", UserWarning, stacklevel=4)
        longest = prompt + settings.max_new_tokens
    elif chosen and settings.max_length is not None:
        longest = settings.max_length - beside
    else:
        longest = prompt + DEFAULTS["max_length"]
        if (positions := getattr(model.config, "max_position_embeddings", None)) is not None:
            longest = min(longest, positions)
    if prompt >= longest:
        raise GenerationError(
            f"The prompt has {prompt + beside} tokens, and max_length is {longest + beside}: set max_new_tokens, or "
            "shorten the prompt."
        )
    if settings.min_new_tokens is not None:
        shortest = prompt + settings.min_new_tokens
    else:
        shortest = max((settings.min_length or 0) - beside, 0)
    if shortest > longest:
        sentence = f"At least {shortest} tokens are asked for, but no more than {longest} may come (with the prompt)"
        if called & {"min_length", "min_new_tokens"} and called & {"max_length", "max_new_tokens"}:
            raise GenerationError(f"{sentence}: lower min_length or min_new_tokens.")
        warnings.warn(f"{sentence}; generation ends there.", UserWarning, stacklevel=4)
    return longest, shortest
