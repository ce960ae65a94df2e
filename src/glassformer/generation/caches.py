"""The cache that the settings of a call ask for, by the peer's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glassformer.cache import EncoderDecoderCache, KVCache, QuantizedCache, StaticCache
from glassformer.errors import GenerationError, InputError
from glassformer.generation.config import GenerationConfig

# The peer takes the cache that "hybrid" names by default, and so stands for no choice in older checkpoints. Keys and
# values stay where the model is, so that "offloaded" changes nothing either; nor does "paged", which shares memory
# among requests that come and go, where a call is one.
_GROWING = (None, "dynamic", "offloaded", "hybrid", "paged")
_STATIC = (
    *("static", "offloaded_static", "sliding_window"),
    *("hybrid_chunked", "offloaded_hybrid", "offloaded_hybrid_chunked"),
)


def new_cache(settings: GenerationConfig, given: Any, called: set[str], encoder_decoder: bool, tokens: int) -> Any:
    """The cache that a call begins with.

    Args:
        settings: of the call; `cache_implementation`, `cache_config` and `max_cache_len` are read.
        given: the `past_key_values` of the call, or None.
        called: names of the settings that the call itself gives.
        encoder_decoder: whether the decoder also looks at an encoder, over whose keys the cache is of the same kind,
            but may grow.
        tokens: how many the decoder reads in the call at most.

    Returns:
        What was given; an empty cache; or None for the model's own choice, a cache that grows.

    Raises:
        GenerationError: a cache is given and another asked for, or the one asked for cannot be made.
    """
    asked = settings.cache_implementation
    if given is not None:
        if "cache_implementation" in called and asked is not None:
            raise GenerationError(
                f"past_key_values is given, and cache_implementation={asked!r} asks for a new cache: leave out one."
            )
        return given
    if settings.cache_config is not None and asked != "quantized":
        raise GenerationError("cache_config describes a quantised cache: set cache_implementation='quantized'.")
    if asked in _GROWING:
        return None
    if asked in _STATIC:
        cache: KVCache = StaticCache(max_cache_len=max(tokens, settings.max_cache_len or 0))
        return EncoderDecoderCache(cache) if encoder_decoder else cache
    if asked != "quantized":
        raise GenerationError(f"cache_implementation={asked!r} is not supported: choose 'dynamic', or leave it out.")
    cache = _quantized(settings.cache_config)
    return EncoderDecoderCache(cache, _quantized(settings.cache_config)) if encoder_decoder else cache


def _quantized(config: Any) -> QuantizedCache:
    keys = dict(config) if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    if unknown := sorted(set(keys) - {"backend", "nbits"}):
        raise GenerationError(
            f"cache_config has {', '.join(map(str, unknown))}, which is not supported: give {{'nbits': 8}}; there is "
            "one scale a head and token."
        )
    try:
        return QuantizedCache(**keys)
    except InputError as error:
        raise GenerationError(f"In cache_config: {error}") from error
