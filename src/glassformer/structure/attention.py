"""Attention: every position takes a weighted mean of values, weighted by how well its query fits their keys.

`softmax(q kᵀ · scale + bias) v` (https://arxiv.org/abs/1706.03762), with fewer key and value heads than query heads
where several queries share one (https://arxiv.org/abs/2305.13245). The output comes from the fast kernel; the weights,
which that kernel never forms, are computed beside it from the same queries and keys when they are asked for (maps.py).
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..cache import KVLayer
from ..errors import ConfigError
from .maps import Maps, attention_maps, selected
from .packing import NONE, Padding
from .places import Announcing, Listener
from .positions import Rotation, rotate


class Attention(Announcing):
    """Attention of a sequence over itself.

    Args:
        dim: D, the width of the hidden states.
        heads: H.
        kv_heads: heads of keys and values; H if not given.
        head_dim: width of a head; D / H if not given.
        bias: whether the four projections have biases.
        scale: what scores are multiplied with; 1 / √head_dim if not given.
        dropout: probability, on the weights.

    Raises:
        ConfigError: if heads do not divide what they share.

    Example:
        >>> output, weights = Attention(64, heads=4)(torch.randn(2, 5, 64), maps=Maps())
        >>> output.shape, weights.shape
        (torch.Size([2, 5, 64]), torch.Size([2, 4, 5, 5]))
    """

    places: ClassVar[dict[str, str]] = {
        "input": "what is projected to queries, keys and values, (B, T, D)",
        "queries": "what each token looks for, a head, after rotation, (B, H, T, head_dim)",
        "keys": "what each token is found by, after rotation; of the new tokens, (B, kv_heads, T, head_dim)",
        "values": "what each token gives when it is looked at; of the new tokens, (B, kv_heads, T, head_dim)",
        "scores": "how well queries fit keys, scaled and with the mask added, (B, H, T, S)",
        "weights": "the share of its attention that each query gives each key, (B, H, T, S)",
        "mixed": "the weighted mean of the values, a head, (B, H, T, head_dim)",
        "output": "the heads projected back to the width of the states, (B, T, D)",
    }

    def __init__(
        self,
        dim: int,
        heads: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads or heads
        if head_dim is None and dim % heads:
            raise ConfigError(f"The width {dim} is not a multiple of the {heads} attention heads; change one of them.")
        if self.heads % self.kv_heads:
            raise ConfigError(f"{heads} attention heads cannot share {kv_heads} key heads evenly; change one of them.")
        self.head_dim = head_dim or dim // heads
        self.scale = self.head_dim**-0.5 if scale is None else scale
        self.dropout = dropout
        self.q_proj = nn.Linear(dim, self.heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(dim, self.kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(dim, self.kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.head_dim, dim, bias=bias)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        causal: bool = False,
        rotation: Rotation | None = None,
        cache: KVLayer | None = None,
        maps: Maps | None = None,
        padding: Padding = NONE,
    ) -> tuple[Tensor, Tensor | None]:
        """One step of attention.

        Args:
            x: (B, T, D).
            bias: added to the scores, (B or 1, H or 1, T, S) where S counts the cache too; or None.
            causal: whether queries may not look to their right; only without bias and cache.
            rotation: cosines and sines for the positions of x, or None.
            cache: this layer's keys and values so far, to which those of x are added; or None.
            maps: which weights are wanted, or None.
            padding: what is left out of x, which is (1, N, D) then.

        Returns:
            The output, as x, and the weights (B, H, T, S) or None.
        """
        x = self.announce("input", x)
        query = self._split(padding.unpack(self.q_proj(x)), self.heads)
        key = self._split(padding.unpack(self.k_proj(x)), self.kv_heads)
        value = self._split(padding.unpack(self.v_proj(x)), self.kv_heads)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        query, key, value = self.announce("queries", query), self.announce("keys", key), self.announce("values", value)
        if cache is not None:
            key, value = cache.append(key, value)
        return self._attend(query, key, value, bias, causal, maps, padding)

    def _split(self, x: Tensor, heads: int) -> Tensor:
        """(B, T, heads · head_dim) to (B, heads, T, head_dim)."""
        return x.view(*x.shape[:-1], heads, self.head_dim).transpose(1, 2)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        causal: bool,
        maps: Maps | None,
        padding: Padding,
    ) -> tuple[Tensor, Tensor | None]:
        key, value = key.to(query.dtype), value.to(query.dtype)  # a cache may hold wider numbers
        changed = None if self.listener is None else self._shown(self.listener, query, key, bias, causal)
        if changed is None:
            mixed = F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=bias,
                dropout_p=self.dropout if self.training else 0.0,
                is_causal=causal,
                scale=self.scale,
                enable_gqa=self.kv_heads != self.heads,
            )  # (B, H, T, head_dim)
        else:
            weights = F.dropout(changed, self.dropout, self.training)
            mixed = weights @ value.repeat_interleave(self.heads // self.kv_heads, dim=1)
        mixed = self.announce("mixed", mixed)
        output = self.announce("output", self.o_proj(padding.pack(mixed.transpose(1, 2).flatten(2))))
        if maps is None:
            return output, None
        if changed is not None:
            return output, selected(changed, maps)
        return output, attention_maps(query, key, bias, causal, self.scale, maps)

    def _shown(
        self, listener: Listener, query: Tensor, key: Tensor, bias: Tensor | None, causal: bool
    ) -> Tensor | None:
        """Announce what the fast kernel never forms; the weights (B, H, T, S) where they may come back changed."""
        if listener.changes("scores") or listener.changes("weights"):
            scores = self.announce("scores", attention_maps(query, key, bias, causal, self.scale, softmax=False))
            return self.announce("weights", scores.softmax(-1).to(query.dtype))
        for place in ("scores", "weights"):
            if (maps := listener.wants(place)) is not None:
                self.announce(place, attention_maps(query, key, bias, causal, self.scale, maps, place == "weights"))
        return None


class CrossAttention(Attention):
    """Attention of a decoder over an encoder's output, whose keys and values are computed once a text."""

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        memory: Tensor,
        bias: Tensor | None = None,
        cache: KVLayer | None = None,
        maps: Maps | None = None,
        padding: Padding = NONE,
        memory_padding: Padding = NONE,
    ) -> tuple[Tensor, Tensor | None]:
        """One step of cross-attention.

        Args:
            x: the decoder's states, (B, T, D).
            memory: the encoder's output, (B, S, D).
            bias: added to the scores, (B or 1, 1, T, S); or None.
            cache: keys and values of `memory`: read if it holds them, filled if it is empty; or None.
            maps: which weights are wanted, or None.
            padding: what is left out of x, which is (1, N, D) then.
            memory_padding: the same of memory.

        Returns:
            The output, as x, and the weights (B, H, T, S) or None.
        """
        x = self.announce("input", x)
        query = self.announce("queries", self._split(padding.unpack(self.q_proj(x)), self.heads))
        key, value = (cache.keys, cache.values) if cache is not None else (None, None)
        if key is None or value is None:
            key = self._split(memory_padding.blank(self.k_proj(memory)), self.kv_heads)
            value = self._split(memory_padding.blank(self.v_proj(memory)), self.kv_heads)
            if cache is not None:
                key, value = cache.append(key, value)
        # Announced at every step, as each step's queries meet them anew.
        key, value = self.announce("keys", key), self.announce("values", value)
        return self._attend(query, key, value, bias, False, maps, padding)
