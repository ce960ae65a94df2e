"""Decoding: a call that goes on where the one before stopped is that one again, moved on by one column.

What a call says of its texts takes longer to write down than a small model takes to compute a token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .run import Call, weak


class Steps:
    """The latest call of a decoder, which the next one may follow. It keeps neither cache nor memory alive."""

    def __init__(self) -> None:
        self.call: Call | None = None
        self.own: Any = None

    def keep(self, call: Call, memory: Tensor | None, memory_mask: Tensor | None) -> None:
        """Remember a call that has run.

        Args:
            call: one with a cache.
            memory: (B, S, D), the encoder's states that it looked at, or None.
            memory_mask: (B, S), or None.
        """
        self.call, self.mask = call, None if call.mask is None else call.mask.clone()
        self.own = weak(call.own)
        self.memory, self.memory_mask = weak(memory), weak(memory_mask)
        call.own = call.memories = None
        call.alive.clear()

    def next(
        self, ids: Tensor, mask: Tensor | None, memory: Tensor | None, memory_mask: Tensor | None, own: Any, cross: Any
    ) -> Call | None:
        """The call before, moved on to one more token of each text, whose ids are to be given; None if it is another.

        Args:
            ids: (B, T).
            mask: (B, past + T), or None.
            memory: (B, S, D), or None.
            memory_mask: (B, S), or None.
            own: the cache of the tokens' own keys and values, which takes the new ones in; or None.
            cross: the cache over the memory, or None.
        """
        call = self.call
        if call is None or own is None or self.own() is not own or own.get_seq_length() != call.total:
            return None
        if call.texts.length != 1 or call.texts.packed or ids.shape != (call.texts.batch, 1):
            return None
        if self.memory() is not memory or self.memory_mask() is not memory_mask or not self._goes_on(mask):
            return None
        if not call.finds("cache", own) or (memory is not None and not call.finds("memory", cross)):
            return None
        if not own.free:
            return None
        own.advance(1)
        call.mask, call.own, call.memories = mask, own, cross
        call.advance()
        return call

    def _goes_on(self, mask: Tensor | None) -> bool:
        """Whether the mask is that of before and one more token of each text."""
        if mask is None or self.mask is None:
            return mask is self.mask
        return torch.equal(mask[:, :-1], self.mask) and bool(mask[:, -1].all())
