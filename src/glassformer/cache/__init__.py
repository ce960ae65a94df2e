"""KVCache: the keys and values of the tokens so far, a layer at a time; `past_key_values` in calls."""

from .kvcache import EncoderDecoderCache, KVCache, QuantizedCache, StaticCache, as_cache
from .layers import KVLayer, QuantizedLayer, StaticLayer, WindowLayer

__all__ = [
    "EncoderDecoderCache",
    "KVCache",
    "KVLayer",
    "QuantizedCache",
    "QuantizedLayer",
    "StaticCache",
    "StaticLayer",
    "WindowLayer",
    "as_cache",
]
