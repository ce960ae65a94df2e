"""Where the chance of one call comes from: torch's own generator, or one or several that belong to the call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from glassformer.errors import GenerationError


class Noise:
    """The chance of each row's coming tokens, drawn from its own generator and ahead of need.

    The largest of weights divided by exponential noise is a draw by weight, the one that `torch.multinomial` makes. A
    draft model that meets the same noise as the model mostly draws the same token, and the text is what the model draws
    without it, whatever was guessed (https://arxiv.org/abs/2408.07978).

    Args:
        generators: one a row.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = generators
        self.ahead: list[Tensor] = []

    def guess(self, weights: Tensor, step: int) -> Tensor:
        """The draw from weights (B, V) that would be made `step` tokens from now, (B,)."""
        while len(self.ahead) <= step:
            drawn = [torch.empty_like(row).exponential_(generator=own) for row, own in zip(weights, self.generators)]
            self.ahead.append(torch.stack(drawn))
        return (weights / self.ahead[step]).argmax(dim=-1)

    def draw(self, weights: Tensor) -> Tensor:
        """The draw from weights (B, V) that is made now, (B,)."""
        tokens = self.guess(weights, 0)
        speeds = weights / self.ahead.pop(0)
        _check(speeds.amax(dim=1).tolist())
        return tokens


Generators = torch.Generator | Sequence[torch.Generator] | None


def generators(seed: int | Sequence[int] | None, generator: Generators, rows: int, device: torch.device) -> Generators:
    """The generators of a call.

    Args:
        seed: one for the whole batch, which then draws what `torch.manual_seed(seed)` would let it draw; or one a row,
            so that no row depends on those beside it.
        generator: the same as generators; they go on from where they are.
        rows: of the batch, B.
        device: where the scores are.

    Returns:
        One generator, one a row, or None for torch's own.

    Raises:
        GenerationError: both are given, or a list has not one item a row.
    """
    if seed is not None and generator is not None:
        raise GenerationError("generate() got both seed and generator, which are the same thing: pass one.")
    if seed is not None:
        try:
            made = [torch.Generator(device).manual_seed(one) for one in _as_list(seed)]
        except (TypeError, RuntimeError, ValueError, OverflowError) as error:
            raise GenerationError(f"seed is {seed!r}: give a whole number, or a list with one a row.") from error
        generator = made if isinstance(seed, Sequence) else made[0]
    if isinstance(generator, Sequence) and len(generator) != rows:
        name = "generator" if seed is None else "seed"
        raise GenerationError(f"{name} has {len(generator)} items for {rows} rows: give one, or one for each.")
    if any(not isinstance(one, torch.Generator) for one in _as_list(generator) if one is not None):
        raise GenerationError(f"generator is {generator!r}: give a torch.Generator, or a list with one a row.")
    return generator


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Sequence) else [value]


def draw_several_with(generator: Generators) -> Callable[[Tensor, int], Tensor]:
    """A function that draws different places of every row by weight: from weights (B, N) and a count to (B, count)."""

    def draw(weights: Tensor, count: int) -> Tensor:
        if weights.device.type == "cpu":
            fastest: Any = _speeds(weights, generator).topk(count)
            _check(row[0] for row in fastest.values.tolist())
            return fastest.indices  # type: ignore[no-any-return]
        if isinstance(generator, Sequence):
            rows = zip(weights, generator)
            return torch.stack([torch.multinomial(row, count, generator=own) for row, own in rows])
        return torch.multinomial(weights, count, generator=generator)

    return draw


def draw_with(generator: Generators | Noise) -> Callable[[Tensor], Tensor]:
    """A function that draws a token of every row by its weight: from weights (B, V) to tokens (B,).

    A row of weights is nan throughout, as a softmax makes it, or nowhere.
    """
    if isinstance(generator, Noise):
        return generator.draw
    several = draw_several_with(generator)

    def draw(weights: Tensor) -> Tensor:
        if weights.device.type != "cpu":
            return several(weights, 1).squeeze(1)
        speeds = _speeds(weights, generator)
        tokens = speeds.argmax(dim=1)
        if 0 in tokens.tolist():  # as it is of a row of nan, or of zeros
            _check(speeds.amax(dim=1).tolist())
        return tokens

    return draw


def _speeds(weights: Tensor, generator: Generators) -> Tensor:
    """The race by which `torch.multinomial` draws without replacement: the fastest places of a row are drawn.

    On a CPU it checks the weights (B, N) for as long as it draws, so that there the race is run here, bit by bit alike.
    """
    times = torch.empty_like(weights)
    if isinstance(generator, Sequence):
        for row, own in zip(times, generator):
            row.exponential_(generator=own)
    else:
        times.exponential_(generator=generator)
    return torch.div(weights, times, out=times)


def _check(fastest: Iterable[float]) -> None:
    """Raise a GenerationError where the fastest place of some row is nan or does not move."""
    if not all(speed > 0 for speed in fastest):
        raise GenerationError(
            "No token can be drawn, since all scores of a row are -inf, or some are nan or inf: see what the model and "
            "the processors give, or set remove_invalid_values=True."
        )


def uniform_with(generator: Generators | Noise, device: torch.device) -> Callable[[int], Tensor]:
    """A function that draws numbers between 0 and 1: from how many to (B,), on the device."""
    if isinstance(generator, Noise):
        generator = generator.generators
    if isinstance(generator, Sequence):
        one_by_one = generator
        return lambda rows: torch.cat([torch.rand(1, generator=own, device=device) for own in one_by_one])
    return lambda rows: torch.rand(rows, generator=generator, device=device)
