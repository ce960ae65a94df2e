"""KVCache: the keys and values of the tokens so far, a layer at a time.

A layer's buffers hold more room than tokens, so that a step writes its own keys and values and copies nothing of the
past; the room doubles when it is used up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from .errors import InputError

_ROOM = 64  # tokens; buffers are made in multiples of this


class KVLayer:
    """Keys and values of one layer, (B, kv_heads, T, head_dim) each.

    Attributes:
        length: T, the tokens held.
    """

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        if keys is not None and values is not None:
            self.append(keys, values)

    @property
    def keys(self) -> Tensor | None:
        """The keys held, (B, kv_heads, T, head_dim), or None before the first token."""
        return None if self._keys is None else self._keys[:, :, : self.length]

    @property
    def values(self) -> Tensor | None:
        """The values held, (B, kv_heads, T, head_dim), or None before the first token."""
        return None if self._values is None else self._values[:, :, : self.length]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens.

        Args:
            keys: (B, kv_heads, new, head_dim).
            values: (B, kv_heads, new, head_dim).

        Returns:
            All keys and all values, (B, kv_heads, T + new, head_dim) each.
        """
        start, self.length = self.length, self.length + keys.shape[2]
        if torch.is_grad_enabled() and (keys.requires_grad or (self._keys is not None and self._keys.requires_grad)):
            # Autograd forbids writing into what it has recorded, so a cache that is trained through is joined anew.
            past_keys, past_values = self._keys, self._values
            self._keys = keys if past_keys is None else torch.cat([past_keys[:, :, :start], keys], dim=2)
            self._values = values if past_values is None else torch.cat([past_values[:, :, :start], values], dim=2)
            return self._keys, self._values
        self._keys = _written(self._keys, keys, start)
        self._values = _written(self._values, values, start)
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]

    def crop(self, tokens: int) -> None:
        """Forget the last `tokens` tokens; the room stays."""
        self.length = max(0, self.length - tokens)

    def select(self, rows: Tensor) -> None:
        """Keep the given rows of the batch, in that order: rows is (new B,), integer."""
        if self._keys is not None and self._values is not None:
            self._keys = self._keys.index_select(0, rows.to(self._keys.device))
            self._values = self._values.index_select(0, rows.to(self._values.device))


def _written(buffer: Tensor | None, new: Tensor, start: int) -> Tensor:
    """`new` written into `buffer` from token `start` on, in a larger buffer if there is no room."""
    end = start + new.shape[2]
    if buffer is None or buffer.shape[2] < end:
        room = _ROOM * -(-max(end, 2 * start) // _ROOM)
        grown = new.new_empty(new.shape[0], new.shape[1], room, new.shape[3])
        if buffer is not None:
            grown[:, :, :start] = buffer[:, :, :start]
        buffer = grown
    buffer[:, :, start:end] = new
    return buffer


class KVCache:
    """The keys and values of every layer of a decoder; `past_key_values` in calls.

    Args:
        layers: (keys, values) a layer to start from, each (B, kv_heads, T, head_dim); the older tuple form.

    Example:
        >>> out = model(ids, use_cache=True)
        >>> out = model(next_id, past_key_values=out.past_key_values, use_cache=True)
    """

    def __init__(self, layers: Iterable[tuple[Tensor, ...]] = ()) -> None:
        self.layers = [KVLayer(*layer[:2]) for layer in layers]

    def layer(self, index: int) -> KVLayer:
        """The layer at `index`, made if it is the first time it is asked for."""
        while len(self.layers) <= index:
            self.layers.append(KVLayer())
        return self.layers[index]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Add keys and values, (B, kv_heads, new, head_dim), to a layer and return all of them."""
        return self.layer(layer_idx).append(key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many tokens a layer holds."""
        return self.layers[layer_idx].length if layer_idx < len(self.layers) else 0

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; the number is given as the peer wants it, zero or negative.

        Raises:
            InputError: if it is positive.
        """
        if tokens_to_remove > 0:
            raise InputError(
                f"crop({tokens_to_remove}) is not allowed: to remove n tokens pass the negative, crop(-n)."
            )
        for layer in self.layers:
            layer.crop(-tokens_to_remove)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put the rows of the batch in the order of beam_idx, (B,)."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given rows of the batch, (new B,)."""
        for layer in self.layers:
            layer.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch `repeats` times, copies side by side."""
        rows = self.batch_size
        if rows:
            self.batch_select_indices(torch.arange(rows).repeat_interleave(repeats))

    def reset(self) -> None:
        """Forget everything."""
        self.layers = []

    @property
    def batch_size(self) -> int:
        """How many rows are held; 0 before the first token."""
        keys = self.layers[0].keys if self.layers else None
        return 0 if keys is None else keys.shape[0]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[tuple[Tensor | None, ...]]:
        # The third item is the sliding window in the peer's form; these layers have none.
        return iter([(layer.keys, layer.values, None) for layer in self.layers])

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(layers={len(self)}, tokens={self.get_seq_length()}, rows={self.batch_size})"


class EncoderDecoderCache(KVCache):
    """A decoder's own cache, and its keys and values over the encoder's output, which are computed once.

    Args:
        self_attention_cache: of the decoder's tokens.
        cross_attention_cache: of the encoder's tokens.
    """

    def __init__(
        self, self_attention_cache: KVCache | None = None, cross_attention_cache: KVCache | None = None
    ) -> None:
        self.self_attention_cache = self_attention_cache or KVCache()
        self.cross_attention_cache = cross_attention_cache or KVCache()

    @property
    def layers(self) -> list[KVLayer]:  # type: ignore[override]
        """The layers of the decoder's own cache."""
        return self.self_attention_cache.layers

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens of the decoder."""
        self.self_attention_cache.crop(tokens_to_remove)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given rows of the batch, in both caches."""
        self.self_attention_cache.batch_select_indices(indices)
        self.cross_attention_cache.batch_select_indices(indices)

    def reset(self) -> None:
        """Forget everything."""
        self.self_attention_cache.reset()
        self.cross_attention_cache.reset()

    def __iter__(self) -> Iterator[tuple[Tensor | None, ...]]:
        return iter([own + cross for own, cross in zip(self.self_attention_cache, self.cross_attention_cache)])


def as_cache(past: Any, encoder_decoder: bool) -> KVCache:
    """The cache of a call: what was given, or a new one; tuples of the older form become a cache.

    Args:
        past: None, a cache, or a tuple with (keys, values) or (keys, values, cross keys, cross values) a layer.
        encoder_decoder: whether the decoder also looks at an encoder.

    Raises:
        InputError: if it is anything else.
    """
    if past is None:
        return EncoderDecoderCache() if encoder_decoder else KVCache()
    if isinstance(past, (tuple, list)):
        if any(not isinstance(layer, (tuple, list)) or len(layer) not in (2, 3, 4, 6) for layer in past):
            raise InputError(
                "past_key_values is a tuple, but its items are not (keys, values) or "
                "(keys, values, cross keys, cross values); pass the past_key_values of an earlier output."
            )
        half = len(past[0]) // 2 if past and len(past[0]) > 3 else None
        own = KVCache([layer[:2] for layer in past])
        if not encoder_decoder:
            return own
        return EncoderDecoderCache(own, KVCache([layer[half:] for layer in past] if half else ()))
    if not isinstance(past, KVCache):
        raise InputError(
            f"past_key_values is a {type(past).__name__}; pass the past_key_values of an earlier output or a KVCache()."
        )
    if encoder_decoder and not isinstance(past, EncoderDecoderCache):
        return EncoderDecoderCache(past)
    return past
