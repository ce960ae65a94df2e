"""Positions, in the three places where they meet a Transformer.

`Learned` vectors are added to the embedding; `Rotary` turns queries and keys; `RelativeBuckets` adds to the scores. The
first is part of an embedding, the others of a stack, which computes them once a call for all its layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import ConfigError, InputError
from .embedding import Table
from .places import Announcing


class Learned(nn.Module):
    """One learned vector a position.

    Args:
        dim: D, the width of the vectors.
        length: how many positions there are.
        offset: the row of the first position (BART keeps two rows free).

    Example:
        >>> Learned(8, length=16)(torch.arange(5)).shape
        torch.Size([5, 8])
    """

    def __init__(self, dim: int, length: int, offset: int = 0) -> None:
        super().__init__()
        self.table = Table(length + offset, dim)
        self.offset = offset

    def check(self, end: int) -> None:
        """Raise where a text of `end` tokens has more tokens than there are positions.

        Raises:
            InputError: naming both numbers.
        """
        length = self.table.num_embeddings - self.offset
        if end > length:
            raise InputError(f"The input is {end} tokens long, but the model has {length} positions; shorten the text.")

    def forward(self, position_ids: Tensor) -> Tensor:
        """The vectors (..., D) of position_ids (...)."""
        vectors: Tensor = self.table(position_ids + self.offset)
        return vectors


Rotation = tuple[Tensor, Tensor]


class Positions(Announcing):
    """Positions of a stack that meet the model inside its layers; these do not, kinds that do override one method."""

    def rotation(self, position_ids: Tensor, dtype: torch.dtype) -> Rotation | None:
        """Cosines and sines that turn queries and keys at position_ids, (B or 1, T); or None."""
        return None

    def bias(self, bias: Tensor | None, causal: bool, queries: int, keys: int) -> tuple[Tensor | None, bool]:
        """The bias of the scores, and whether the kernel still has to see to causality."""
        return bias, causal


class RelativeBuckets(Positions):
    """A learned bias a head and a bucket of distances, added to the scores (https://arxiv.org/abs/1910.10683).

    Half of the buckets hold one distance each, the others grow with its logarithm up to `max_distance`.

    Args:
        heads: H.
        buckets: how many distances are told apart.
        max_distance: from here on all distances are alike, in tokens.
        both_ways: whether keys to the right have buckets of their own (encoders), or count as distance zero.

    Example:
        >>> RelativeBuckets(heads=4)(queries=3, keys=3, start=0).shape
        torch.Size([1, 4, 3, 3])
    """

    places: ClassVar[dict[str, str]] = {"bias": "what is added to the scores for each distance, a head, (1, H, T, S)"}

    def __init__(self, heads: int, buckets: int = 32, max_distance: int = 128, both_ways: bool = True) -> None:
        super().__init__()
        self.table = Table(buckets, heads)
        self.max_distance = max_distance
        self.both_ways = both_ways

    def bucket(self, distance: Tensor) -> Tensor:
        """The bucket of each distance (key position minus query position), an integer tensor of any shape."""
        buckets = self.table.num_embeddings
        if self.both_ways:
            buckets //= 2
            first = (distance > 0).long() * buckets
            distance = distance.abs()
        else:
            first = torch.zeros_like(distance)
            distance = -distance.clamp(max=0)
        exact = buckets // 2
        ratio = torch.log(distance.float() / exact) / math.log(self.max_distance / exact)
        far = exact + (ratio * (buckets - exact)).long()
        return first + torch.where(distance < exact, distance, far.clamp(max=buckets - 1))

    def forward(self, queries: int, keys: int, start: int) -> Tensor:
        """The bias (1, H, queries, keys) for queries that begin at position `start`."""
        device = self.table.weight.device
        query = torch.arange(start, start + queries, device=device)[:, None]
        key = torch.arange(keys, device=device)[None, :]
        bias: Tensor = self.table(self.bucket(key - query))
        return bias.permute(2, 0, 1)[None]

    def bias(self, bias: Tensor | None, causal: bool, queries: int, keys: int) -> tuple[Tensor | None, bool]:
        """The bias of the scores with that of the distances, and causality, in it."""
        relative = self.announce("bias", self(queries, keys, keys - queries))
        lowest = torch.finfo(relative.dtype).min
        if causal:
            right = torch.ones(queries, keys, dtype=torch.bool, device=relative.device).triu(1)
            return relative.masked_fill(right, lowest), False
        return relative if bias is None else relative + bias.clamp(min=lowest), False


class Rotary(Positions):
    """Turns each pair of dimensions by an angle that grows with the position (https://arxiv.org/abs/2104.09864).

    `parameters` is the peer's `rope_parameters`: `rope_type` picks how the frequencies are stretched for long texts,
    `rope_theta` is their base, and each type has numbers of its own.

    Args:
        head_dim: the dimensions of a head.
        max_positions: the positions that the model was made for.
        parameters: see above.

    Raises:
        ConfigError: if the type is unknown or one of its numbers is missing.

    Example:
        >>> cos, sin = Rotary(8, 64, {"rope_type": "default", "rope_theta": 10000.0})(torch.arange(5)[None])
        >>> cos.shape
        torch.Size([1, 5, 8])
    """

    places: ClassVar[dict[str, str]] = {
        "cos": "the cosine of each pair's angle at each position, (B or 1, T, rotary dim)",
        "sin": "the sine of each pair's angle at each position, (B or 1, T, rotary dim)",
    }

    def __init__(self, head_dim: int, max_positions: int, parameters: Mapping[str, Any]) -> None:
        super().__init__()
        kind = parameters.get("rope_type", "default")
        if kind not in FREQUENCIES:
            raise ConfigError(
                f"rope_parameters={parameters} has a rope_type that is not computed here; it is one of "
                f"{', '.join(FREQUENCIES)}."
            )
        share = 1.0 if kind == "proportional" else parameters.get("partial_rotary_factor", 1.0)
        self.dim = int(head_dim * share)
        self.max_positions = max_positions
        self.settings = dict(parameters)
        # Types whose frequencies depend on the length of the text compute them in each call.
        self.by_length = kind in ("dynamic", "longrope")
        try:
            self.frequencies = self._frequencies(0)
        except KeyError as missing:
            raise ConfigError(
                f"rope_type {kind!r} needs {missing} in rope_parameters; add it to config.json."
            ) from None

    def _frequencies(self, length: int) -> tuple[Tensor, float]:
        compute = FREQUENCIES[self.settings.get("rope_type", "default")]
        return compute(self.dim, self.settings["rope_theta"], self.settings, self.max_positions, length)

    def forward(self, position_ids: Tensor, dtype: torch.dtype = torch.float32) -> Rotation:
        """Cosines and sines, (B, T, rotary dim) each, of position_ids (B, T)."""
        frequencies, factor = self.frequencies
        if self.by_length:
            frequencies, factor = self._frequencies(int(position_ids.max()) + 1)
        angles = position_ids[..., None].float() * frequencies.to(position_ids.device)
        angles = torch.cat([angles, angles], dim=-1)
        cos, sin = (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)
        return self.announce("cos", cos), self.announce("sin", sin)

    def rotation(self, position_ids: Tensor, dtype: torch.dtype) -> Rotation:
        """Cosines and sines for position_ids."""
        rotation: Rotation = self(position_ids, dtype)
        return rotation


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the heads of x, (B, H, T, head_dim): dimension i pairs with i + half."""
    cos, sin = (part[:, None] for part in rotation)
    half = cos.shape[-1] // 2
    turned = torch.cat([-x[..., half : 2 * half], x[..., :half]], dim=-1)
    if 2 * half == x.shape[-1]:
        return x * cos + turned * sin
    return torch.cat([x[..., : 2 * half] * cos + turned * sin, x[..., 2 * half :]], dim=-1)


# How the frequencies of each rope_type are computed: (dim, base, parameters, the model's length, the text's length)
# to the frequencies (dim / 2,) and the factor of cosines and sines. They are made on the CPU whatever the device of the
# moment is, so that a model built without memory (on the meta device) has them too.
Frequencies = Callable[[int, float, Mapping[str, Any], int, int], tuple[Tensor, float]]


def _powers(dim: int, base: float) -> Tensor:
    """`base^(2i / dim)` for each pair i of dimensions."""
    return base ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim)


def _default(dim: int, base: float, p: Mapping[str, Any], made_for: int, length: int) -> tuple[Tensor, float]:
    return 1.0 / _powers(dim, base), 1.0


def _linear(dim: int, base: float, p: Mapping[str, Any], made_for: int, length: int) -> tuple[Tensor, float]:
    return 1.0 / _powers(dim, base) / p["factor"], 1.0


def _dynamic(dim: int, base: float, p: Mapping[str, Any], made_for: int, length: int) -> tuple[Tensor, float]:
    """A base that grows with the text once it is longer than the model was made for ("NTK-aware")."""
    factor, length = p["factor"], max(length, made_for)
    base = base * ((factor * length / made_for) - (factor - 1)) ** (dim / (dim - 2))
    return 1.0 / _powers(dim, base), 1.0


def _yarn(dim: int, base: float, p: Mapping[str, Any], made_for: int, length: int) -> tuple[Tensor, float]:
    """Slow frequencies are stretched, fast ones kept, those between blended (https://arxiv.org/abs/2309.00071)."""
    original = p["original_max_position_embeddings"]
    factor = p["factor"] if p["factor"] is not None else made_for / original

    def magnitude(scale: float, weight: float = 1.0) -> float:
        return 0.1 * weight * math.log(scale) + 1.0 if scale > 1 else 1.0

    attention_factor = p.get("attention_factor")
    if attention_factor is None:
        attention_factor = magnitude(factor)
        if p.get("mscale") and p.get("mscale_all_dim"):
            attention_factor = magnitude(factor, p["mscale"]) / magnitude(factor, p["mscale_all_dim"])

    def dimension(rotations: float) -> float:
        """The dimension that turns so many times within the original length."""
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = dimension(p.get("beta_fast") or 32), dimension(p.get("beta_slow") or 1)
    if p.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = (torch.arange(dim // 2, dtype=torch.float32, device="cpu") - low) / (high - low if high != low else 0.001)
    stretched = ramp.clamp(0, 1)
    fast = 1.0 / _powers(dim, base)
    return fast / factor * stretched + fast * (1 - stretched), float(attention_factor)


def _longrope(dim: int, base: float, p: Mapping[str, Any], made_for: int, length: int) -> tuple[Tensor, float]:
    """A stretch of its own a dimension, one set for short and one for long texts (https://arxiv.org/abs/2402.13753)."""
    original = p["original_max_position_embeddings"]
    stretch = p["long_factor"] if length > original else p["short_factor"]
    factor = p.get("factor") or made_for / original
    attention_factor = p.get("attention_factor")
    if attention_factor is None:
        attention_factor = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    stretched = torch.tensor(stretch, dtype=torch.float32, device="cpu") * _powers(dim, base)
    return 1.0 / stretched, float(attention_factor)


def _proportional(dim: int, base: float, p: Mapping[str, Any], made_for: int, length: int) -> tuple[Tensor, float]:
    """The first pairs turn as if they were all, the others do not turn at all."""
    kept = 1.0 / _powers(dim, base) / p.get("factor", 1.0)
    turning = int(p.get("partial_rotary_factor", 1.0) * dim // 2)
    return torch.where(torch.arange(dim // 2, device="cpu") < turning, kept, 0.0), 1.0


def _llama3(dim: int, base: float, p: Mapping[str, Any], made_for: int, length: int) -> tuple[Tensor, float]:
    """Waves longer than the original text are stretched, short ones kept, those between blended."""
    original, factor = p["original_max_position_embeddings"], p["factor"]
    low, high = p["low_freq_factor"], p["high_freq_factor"]
    kept = 1.0 / _powers(dim, base)
    turns = original * kept / (2 * math.pi)  # in the original length
    blend = (turns - low) / (high - low)
    blended = (1 - blend) * kept / factor + blend * kept
    return torch.where(turns < low, kept / factor, torch.where(turns > high, kept, blended)), 1.0


FREQUENCIES: dict[str, Frequencies] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
    "proportional": _proportional,
}
