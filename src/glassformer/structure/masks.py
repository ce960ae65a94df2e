"""Masks: who may look at whom, as one additive bias for all layers of a stack, or none.

A bias is 0 where a query may look at a key and minus infinity where it may not, (B or 1, 1, queries, keys). Where every
query may look at every key, or only "not to the right" is asked, no bias is made: kernels know both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError


def attention_bias(
    mask: Tensor | None, queries: int, keys: int, causal: bool, dtype: torch.dtype, segments: Tensor | None = None
) -> tuple[Tensor | None, bool]:
    """The bias of a call.

    Args:
        mask: (B, keys), true or 1 for real tokens; or (B, 1, queries, keys), boolean or already additive; or None.
        queries: how many queries there are; they are the last of the keys.
        keys: how many keys there are.
        causal: whether a query may not look to its right.
        dtype: of the bias.
        segments: (B, keys), the text that each token belongs to where several are packed in a row, or None.

    Returns:
        The bias, or None; and whether the kernel has to see to causality itself.

    Raises:
        InputError: if the mask's shape does not fit.
    """
    if mask is not None and (mask.dim() not in (2, 4) or mask.shape[-1] != keys):
        raise InputError(
            f"attention_mask has shape {tuple(mask.shape)}, but there are {keys} tokens with those in the cache; "
            f"give (batch, {keys}), or (batch, 1, {queries}, {keys}) for a mask of your own."
        )
    if mask is not None and mask.dim() == 4:
        mask = mask.expand(-1, -1, queries, -1)
        return (_bias(mask, dtype) if mask.dtype == torch.bool else mask), False
    if mask is not None:
        mask = mask.bool()
        if mask.all():
            mask = None
    causal = causal and queries > 1
    if mask is None and segments is None and (not causal or queries == keys):
        return None, causal
    device = mask.device if mask is not None else segments.device if segments is not None else None
    allowed = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
    if causal:
        allowed = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)[None, None]
    if mask is not None:
        allowed = allowed & mask[:, None, None, :]
    if segments is not None:
        allowed = allowed & (segments[:, None, :, None] == segments[:, None, None, :])
    return _bias(allowed.expand(-1, -1, queries, keys), dtype), False


def visible(queries: int, keys: int, causal: bool, like: Tensor) -> Tensor:
    """The bias that kernels leave out, (1, 1, queries, keys): all may look at all, or only not to the right."""
    bias = torch.zeros(1, 1, queries, keys, dtype=like.dtype, device=like.device)
    if causal:
        bias.masked_fill_(torch.ones_like(bias, dtype=torch.bool).triu(keys - queries + 1), float("-inf"))
    return bias


def tokens(mask: Tensor | None, length: int) -> Tensor | None:
    """Which of the last `length` positions hold tokens, (B, length), by a mask (B, keys); None without such a mask."""
    return mask[:, -length:].bool() if mask is not None and mask.dim() == 2 else None


def reaching(mask: Tensor | None, needed: Tensor, causal: bool) -> Tensor | None:
    """A mask under which the positions that are needed are computed, padding or not.

    Args:
        mask: (B, keys), or another that `attention_bias` takes.
        needed: (B or 1, T), true where the states of the last T positions are needed.
        causal: whether a query may not look to its right.

    Returns:
        The mask, if no padding is needed; else the same in four dimensions, which leave nothing out: boolean,
        (B, 1, 1, keys), or (B, 1, T, keys) if causal.
    """
    length = needed.shape[1]
    real = tokens(mask, length)
    if mask is None or real is None or real.shape[1] != length:  # of a mask that does not fit `attention_bias` speaks
        return mask
    if not (needed.to(real.device) & ~real).any():
        return mask
    allowed, keys = mask.bool()[:, None, None, :], mask.shape[1]
    return allowed & allowed.new_ones(length, keys).tril(keys - length) if causal else allowed


def of_keys(mask: Tensor) -> bool:
    """Whether a mask of four dimensions is the same for all queries."""
    return mask.dim() == 4 and mask.dtype == torch.bool and mask.shape[1] == mask.shape[2] == 1


def packed_segments(position_ids: Tensor) -> Tensor | None:
    """Which text each token belongs to, (B, T), where positions (B, T) start anew within a row; None where none do."""
    starts = position_ids[:, 1:] - position_ids[:, :-1] != 1
    if not starts.any():
        return None
    return torch.nn.functional.pad(starts.cumsum(-1), (1, 0))


def _bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))
