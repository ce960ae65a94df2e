"""Classifier-free guidance: scores pushed away from what the model would say without the prompt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from glassformer.generation.processors import LogitsProcessor


class UnbatchedClassifierFreeGuidanceLogitsProcessor(LogitsProcessor):
    """Adds `guidance_scale - 1` times the difference between the scores with the prompt and those without.

    Args:
        guidance_scale: 1 changes nothing; above 1 follows the prompt more closely.
        model: the decoder-only model, which runs a second time every step.
        unconditional_ids: the negative prompt (B, N); None is the last token of the prompt.
        unconditional_attention_mask: (B, N); None is all ones.
        use_cache: whether the second run keeps its keys and values.
    """

    def __init__(
        self,
        guidance_scale: float,
        model: Any,
        unconditional_ids: Tensor | None = None,
        unconditional_attention_mask: Tensor | None = None,
        use_cache: bool | None = True,
    ) -> None:
        self.guidance_scale = guidance_scale
        self.model = model
        self._ids = unconditional_ids
        self._mask = unconditional_attention_mask
        self._use_cache = bool(use_cache)
        self._past: Any = None
        self._started = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Log-probabilities (B, V), guided."""
        guided = scores.log_softmax(dim=-1)
        if self.guidance_scale == 1:
            return guided
        free = self._unconditional(input_ids).log_softmax(dim=-1)
        return self.guidance_scale * (guided - free) + free

    def _unconditional(self, input_ids: Tensor) -> Tensor:
        """The model's scores (B, V) after the negative prompt and the tokens generated so far."""
        newest = input_ids[:, -1:]
        if not self._started:
            self._started = True
            self._ids = newest if self._ids is None else self._ids
            self._mask = torch.ones_like(self._ids) if self._mask is None else self._mask
        else:
            assert self._ids is not None
            assert self._mask is not None
            self._ids = newest if self._use_cache else torch.cat([self._ids, newest], dim=1)
            self._mask = torch.cat([self._mask, torch.ones_like(newest)], dim=1)
        given = {"input_ids": self._ids, "attention_mask": self._mask, "past_key_values": self._past}
        out = self.model(**given, use_cache=self._use_cache)
        self._past = out.get("past_key_values")
        scores: Tensor = out.logits[:, -1]
        return scores
