"""SynthID's watermark (doi:10.1038/s41586-024-08025-4): a tournament among the tokens, decided by hashes.

Every token gets a coin toss a round, from a hash of the tokens before, of itself and of a secret key; in each round
those with a 1 win against those with a 0. On average over keys no probability changes, but the winners have more ones
than chance has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from glassformer.errors import GenerationError
from glassformer.generation.processors import LogitsProcessor
from glassformer.generation.watermark_config import SynthIDTextWatermarkingConfig

_MULTIPLIER, _INCREMENT = 6364136223846793005, 1


class SynthIDTextWatermarkLogitsProcessor(LogitsProcessor):
    """Gives the probabilities with which tokens win the tournament.

    The prompt takes no part: what counts begins with the first token that this processor is asked for. A place that
    has the same tokens before it as an earlier one is left unmarked.

    Args:
        ngram_len: see `SynthIDTextWatermarkingConfig`, as the other arguments.
        keys: one a round.
        sampling_table_size: coin tosses in the table.
        sampling_table_seed: of the table.
        context_history_size: places remembered.
        device: where the scores are.
        skip_first_ngram_calls: whether the first tokens are left unmarked.
        debug_mode: makes all tokens equally likely beforehand.

    Raises:
        GenerationError: an argument has no sense.
    """

    def __init__(
        self,
        ngram_len: int,
        keys: list[int],
        sampling_table_size: int,
        sampling_table_seed: int,
        context_history_size: int,
        device: Any,
        skip_first_ngram_calls: bool = False,
        debug_mode: bool = False,
    ) -> None:
        SynthIDTextWatermarkingConfig(
            ngram_len, keys, context_history_size, sampling_table_seed, sampling_table_size
        ).validate()
        self.ngram_len = ngram_len
        self.keys = torch.tensor(keys, device=device)
        generator = torch.Generator(device).manual_seed(sampling_table_seed)
        self.sampling_table = torch.randint(0, 2, (sampling_table_size,), generator=generator, device=device)
        self.context_history_size = context_history_size
        self.skip_first_ngram_calls = skip_first_ngram_calls
        self.debug_mode = debug_mode
        self._start: int | None = None  # how long the prompt is

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Log-probabilities (B, V) after the tournament; the scores as they are in places that stay unmarked."""
        if self._start is None or input_ids.shape[1] < self._start:
            self._start = input_ids.shape[1]
        if self.debug_mode:
            scores = torch.ones_like(scores)
        before = self.ngram_len - 1
        new = torch.nn.functional.pad(input_ids[:, self._start :], (before, 0))
        hashes = self.accumulate_hash(new.new_ones(()), new.unfold(1, before, 1))  # (B, places), the last one is now
        skipped = before if self.skip_first_ngram_calls else 0
        if hashes.shape[1] <= skipped:
            return scores
        now = hashes[:, -1:]
        tokens = torch.arange(scores.shape[1], device=scores.device)
        marked = self.update_scores(scores, self._tosses(self.accumulate_hash(now, tokens[None, :, None])))
        seen = hashes[:, skipped:-1][:, -self.context_history_size :]
        return torch.where((seen == now).any(dim=1, keepdim=True), scores, marked)

    def update_scores(self, scores: Tensor, g_values: Tensor) -> Tensor:
        """Log-probabilities (B, V) after the tournament, from scores (B, V) and coin tosses (B, V, rounds)."""
        chances = scores.softmax(dim=1)
        for tosses in g_values.unbind(dim=2):
            chances = chances * (1 + tosses - (tosses * chances).sum(dim=1, keepdim=True))
        return chances.log().clamp(min=torch.finfo(chances.dtype).min)

    def accumulate_hash(self, current_hash: Tensor, data: Tensor) -> Tensor:
        """Hashes (...) that go on from others (...) over data (..., n), a linear congruence modulo 2 ** 64."""
        for item in data.unbind(dim=-1):
            current_hash = (current_hash + item) * _MULTIPLIER + _INCREMENT
        return current_hash

    def compute_g_values(self, input_ids: Tensor) -> Tensor:
        """The coin tosses of tokens that were written, ids (B, T), as (B, T - ngram_len + 1, rounds) of 0 and 1."""
        self._check_length(input_ids)
        return self._tosses(self.accumulate_hash(input_ids.new_ones(()), input_ids.unfold(1, self.ngram_len, 1)))

    def compute_context_repetition_mask(self, input_ids: Tensor) -> Tensor:
        """Where, of ids (B, T), the tokens before are new, (B, T - ngram_len + 1): False has no watermark."""
        self._check_length(input_ids)
        before = self.ngram_len - 1
        hashes = self.accumulate_hash(input_ids.new_ones(()), input_ids[:, :-1].unfold(1, before, 1))
        size = self.context_history_size
        repeated = [
            (hashes[:, max(0, at - size) : at] == hashes[:, at : at + 1]).any(dim=1) for at in range(hashes.shape[1])
        ]
        return ~torch.stack(repeated, dim=1)

    def compute_eos_token_mask(self, input_ids: Tensor, eos_token_id: int) -> Tensor:
        """True in ids (B, T) before the first end."""
        return (input_ids == eos_token_id).cumsum(dim=1) == 0

    def expected_mean_g_value(self, vocab_size: int, coinflip_prob: float = 0.5) -> float:
        """The mean of the tosses of marked tokens, after one round among equally likely ones; 0.5 without a mark."""
        return coinflip_prob + coinflip_prob * (1 - coinflip_prob) * (1 - 1 / vocab_size)

    def _tosses(self, hashes: Tensor) -> Tensor:
        """Coin tosses (B, n, rounds) from hashes (B, n)."""
        by_key = self.accumulate_hash(hashes[..., None], self.keys[:, None])
        return self.sampling_table[by_key % len(self.sampling_table)]

    def _check_length(self, input_ids: Tensor) -> None:
        if input_ids.dim() != 2 or input_ids.shape[1] < self.ngram_len:
            raise GenerationError(
                f"Ids of shape {tuple(input_ids.shape)} have no place to look at: pass at least {self.ngram_len} a row."
            )
