"""Warpers: the logits processors that shape and narrow the distribution that tokens are drawn from.

Names, arguments and arithmetic are the peer's, since one bit of difference in a probability can change a seeded draw.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from glassformer.errors import GenerationError
from glassformer.generation.processors import NEVER, LogitsProcessor, whole


class TemperatureLogitsWarper(LogitsProcessor):
    """Divides scores by a temperature: below 1 sharpens the distribution, above 1 flattens it."""

    def __init__(self, temperature: float) -> None:
        self.temperature = _fraction("temperature", temperature, above=0, most=math.inf, hint=" (or do_sample=False)")

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) divided by the temperature."""
        return scores / self.temperature


class TopKLogitsWarper(LogitsProcessor):
    """Keeps the `top_k` most likely tokens, and what ties with the last of them.

    Args:
        top_k: at least 1.
        filter_value: what the others' scores become.
        min_tokens_to_keep: keep at least so many.
    """

    def __init__(self, top_k: int, filter_value: float = NEVER, min_tokens_to_keep: int = 1) -> None:
        self.top_k = max(whole("top_k", top_k, 1), whole("min_tokens_to_keep", min_tokens_to_keep, 1))
        self.filter_value = filter_value

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) with the unlikely at `filter_value`."""
        return scores.masked_fill(scores < _kth(scores, self.top_k), self.filter_value)


class TopPLogitsWarper(LogitsProcessor):
    """Keeps the smallest set of most likely tokens whose probabilities add up to `top_p`.

    Args:
        top_p: between 0 and 1.
        filter_value: what the others' scores become.
        min_tokens_to_keep: keep at least so many.
    """

    def __init__(self, top_p: float, filter_value: float = NEVER, min_tokens_to_keep: int = 1) -> None:
        self.top_p = _fraction("top_p", top_p, least=0, most=1)
        self.filter_value = filter_value
        self.min_tokens_to_keep = whole("min_tokens_to_keep", min_tokens_to_keep, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) with the unlikely at `filter_value`."""
        ascending, order = scores.sort(dim=-1)
        remove = ascending.softmax(dim=-1).cumsum_(dim=-1) <= 1 - self.top_p
        if self.min_tokens_to_keep > 1 or self.top_p < 0.01:  # else the last, whose sum is 1, stays anyway
            remove[..., -self.min_tokens_to_keep :] = False
        return scores.scatter(1, order, ascending.masked_fill_(remove, self.filter_value))


class MinPLogitsWarper(LogitsProcessor):
    """Keeps the tokens whose probability is at least `min_p` times that of the most likely.

    Args:
        min_p: between 0 and 1.
        filter_value: what the others' scores become.
        min_tokens_to_keep: keep at least so many.
    """

    def __init__(self, min_p: float, filter_value: float = NEVER, min_tokens_to_keep: int = 1) -> None:
        self.min_p = _fraction("min_p", min_p, least=0, most=1)
        self.filter_value = filter_value
        self.min_tokens_to_keep = whole("min_tokens_to_keep", min_tokens_to_keep, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) with the unlikely at `filter_value`."""
        probabilities = torch.softmax(scores, dim=-1)
        remove = probabilities < self.min_p * probabilities.amax(dim=-1, keepdim=True)
        best = torch.topk(probabilities, min(self.min_tokens_to_keep, scores.shape[-1]), dim=-1).indices
        return scores.masked_fill(remove.scatter(-1, best, False), self.filter_value)


class TopHLogitsWarper(LogitsProcessor):
    """Keeps the most likely tokens while their entropy stays within a share of that of the 100 most likely.

    Args:
        top_h: the share, above 0 and at most 1.
        filter_value: what the others' scores become.
    """

    def __init__(self, top_h: float, filter_value: float = NEVER) -> None:
        self.top_n = 100
        self.top_h = _fraction("top_h", top_h, above=0, most=1)
        self.filter_value = filter_value

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) with the unlikely at `filter_value`."""
        likely, tokens = torch.topk(scores, min(self.top_n, scores.shape[-1]), dim=-1)
        distribution = torch.distributions.Categorical(logits=likely, validate_args=False)
        surprise = -distribution.probs * distribution.probs.log()
        entropy: Tensor = distribution.entropy()  # type: ignore[no-untyped-call]
        keep = surprise.cumsum(dim=-1) <= (entropy * self.top_h)[:, None]
        keep[:, 0] = True
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter(1, tokens, keep)
        return scores.masked_fill(~kept, self.filter_value)


class TypicalLogitsWarper(LogitsProcessor):
    """Keeps the tokens whose surprise is nearest to the expected one, until their probabilities add up to `mass`.

    Args:
        mass: between 0 and 1.
        filter_value: what the others' scores become.
        min_tokens_to_keep: keep at least so many.
    """

    def __init__(self, mass: float = 0.9, filter_value: float = NEVER, min_tokens_to_keep: int = 1) -> None:
        self.mass = _fraction("typical_p", mass, above=0, below=1)
        self.filter_value = filter_value
        self.min_tokens_to_keep = whole("min_tokens_to_keep", min_tokens_to_keep, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) with the atypical at `filter_value`."""
        logs = torch.nn.functional.log_softmax(scores, dim=-1)
        entropy = -(logs * logs.exp()).nansum(-1, keepdim=True)
        distance, order = torch.sort((-logs - entropy).abs(), descending=False)
        reached = scores.gather(-1, order).softmax(dim=-1).cumsum(dim=-1)
        last = (reached < self.mass).sum(dim=1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        remove = distance > distance.gather(1, last)
        remove[..., : self.min_tokens_to_keep] = False
        return scores.masked_fill(remove.scatter(1, order, remove), self.filter_value)


class EpsilonLogitsWarper(LogitsProcessor):
    """Keeps the tokens of at least a fixed probability.

    Args:
        epsilon: the probability, between 0 and 1.
        filter_value: what the others' scores become.
        min_tokens_to_keep: keep at least so many.
    """

    def __init__(self, epsilon: float, filter_value: float = NEVER, min_tokens_to_keep: int = 1) -> None:
        self.epsilon = _fraction("epsilon_cutoff", epsilon, above=0, below=1)
        self.filter_value = filter_value
        self.min_tokens_to_keep = whole("min_tokens_to_keep", min_tokens_to_keep, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) with the unlikely at `filter_value`."""
        remove = (scores.softmax(dim=-1) < self.epsilon) & (scores < _kth(scores, self.min_tokens_to_keep))
        return scores.masked_fill(remove, self.filter_value)


class EtaLogitsWarper(LogitsProcessor):
    """Keeps the tokens of at least a probability that falls with the entropy: min(e, sqrt(e) exp(-entropy)).

    Args:
        epsilon: e, between 0 and 1.
        filter_value: what the others' scores become.
        min_tokens_to_keep: keep at least so many.
        device: taken for the peer's sake; the arithmetic is done where the scores are.
    """

    def __init__(
        self, epsilon: float, filter_value: float = NEVER, min_tokens_to_keep: int = 1, device: Any = None
    ) -> None:
        self.epsilon = torch.tensor(_fraction("eta_cutoff", epsilon, above=0, below=1))
        self.filter_value = filter_value
        self.min_tokens_to_keep = whole("min_tokens_to_keep", min_tokens_to_keep, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) with the unlikely at `filter_value`."""
        epsilon = self.epsilon.to(scores.device)
        distribution = torch.distributions.Categorical(logits=scores, validate_args=False)
        entropy: Tensor = distribution.entropy()  # type: ignore[no-untyped-call]
        eta = torch.min(epsilon, epsilon.sqrt() * torch.exp(-entropy))[..., None]
        remove = (scores.softmax(dim=-1) < eta) & (scores < _kth(scores, self.min_tokens_to_keep))
        return scores.masked_fill(remove, self.filter_value)


def _kth(scores: Tensor, k: int) -> Tensor:
    """The k-th highest score of every row, (B, 1); the lowest where there are fewer, and nan where one is."""
    return scores.topk(min(k, scores.shape[-1]), sorted=False).values.amin(dim=-1, keepdim=True)


def _fraction(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    hint: str = "",
) -> float:
    """A setting as a float within its bounds.

    Raises:
        GenerationError: it is no number, or outside.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (least <= number <= most and above < number < below):
        low = f"above {above:g}" if above > -math.inf else f"at least {least:g}"
        high = f" and below {below:g}" if below < math.inf else f" and at most {most:g}" if most < math.inf else ""
        raise GenerationError(f"{name} is {value!r}: it must be a number {low}{high}{hint}.")
    return number
