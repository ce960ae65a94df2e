"""Pictures, drawn by matplotlib: `pip install 'glassformer[plot]'`.

Every function returns the axes it drew on, a new pyplot figure's if none are given, and neither shows nor saves nor
closes anything. Tokens are written as a person reads them (`readable`), of a long text as many as there is
room for.
"""

from ..tokens import readable
from .maps import attention, attention_over_generation, heads
from .memory import CacheShape, cache_growth, cache_shape
from .scores import next_tokens, token_losses
from .states import logit_lens, similarity

__all__ = [
    "CacheShape",
    "attention",
    "attention_over_generation",
    "cache_growth",
    "cache_shape",
    "heads",
    "logit_lens",
    "next_tokens",
    "readable",
    "similarity",
    "token_losses",
]
