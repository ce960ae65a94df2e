"""The caches of a decoder: a list of layers, and what can be done with all of them at once."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import InputError
from .layers import KVLayer, QuantizedLayer, StaticLayer, WindowLayer

Cache = TypeVar("Cache", bound="KVCache")


class KVCache:
    """The keys and values of every layer of a decoder; `past_key_values` in calls. It grows as tokens come.

    Args:
        layers: (keys, values) a layer to start from, each (B, kv_heads, T, head_dim); the older tuple form.
        config: taken for the peer's sake; layers are made when the model first asks for them.
        offloading: taken for the peer's sake; keys and values stay where the model is.
        offload_only_non_sliding: as `offloading`.

    Example:
        >>> out = model(ids, use_cache=True)
        >>> out = model(next_id, past_key_values=out.past_key_values, use_cache=True)
    """

    def __init__(
        self,
        layers: Iterable[tuple[Tensor, ...]] | None = None,
        config: Any = None,
        offloading: bool = False,
        offload_only_non_sliding: bool = False,
    ) -> None:
        self.layers: list[KVLayer] = []
        for index, layer in enumerate(layers or ()):
            if layer[0] is not None and layer[1] is not None:
                self.layer(index).append(*layer[:2])

    def layer(self, index: int) -> KVLayer:
        """The layer at `index`, made if it is the first time it is asked for."""
        while len(self.layers) <= index:
            self.layers.append(self._new_layer())
        return self.layers[index]

    def _new_layer(self) -> KVLayer:
        return KVLayer()

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Add keys and values, (B, kv_heads, new, head_dim), to a layer and return all of them."""
        return self.layer(layer_idx).append(key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many tokens a layer has read."""
        return self.layers[layer_idx].length if layer_idx < len(self.layers) else 0

    def get_max_length(self, layer_idx: int = 0) -> int:
        """How many tokens a layer can hold; -1 if there is no limit."""
        capacity = self.layer(layer_idx).capacity
        return -1 if capacity is None else capacity

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; the number is given as the peer wants it, zero or negative.

        Raises:
            InputError: if it is positive, or a sliding window has forgotten what lies before those tokens.
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
        """Go on with the given rows of the batch, (new B,), of which some may be left out and others come again."""
        for layer in self.layers:
            layer.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch `repeats` times, copies side by side; a long past is held once for all."""
        for layer in self.layers:
            layer.repeat(repeats)

    def branch(self: Cache, n: int = 1) -> Cache:
        """A new cache with every row `n` times, copies side by side; this one stays as it is.

        So a prompt that many texts share is read once, and each text goes on from it.

        Example:
            >>> prompt = model(ids, use_cache=True).past_key_values
            >>> model.generate(torch.cat([ids, question], 1), past_key_values=prompt.branch())
        """
        other = self._selected(torch.arange(self.batch_size))
        other.batch_repeat_interleave(n)
        return other

    def _selected(self: Cache, rows: Tensor) -> Cache:
        other = copy.copy(self)
        other.layers = [layer.selected(rows) for layer in self.layers]
        return other

    @property
    def free(self) -> int:
        """How many more tokens of every row all buffers have room for, as they are."""
        return min((layer.free for layer in self.layers), default=0)

    def advance(self, new: int) -> None:
        """Take new tokens in, for which there is room, and whose keys and values the caller writes."""
        for layer in self.layers:
            layer.length += new

    def align(self) -> None:
        """Let all layers hold their rows in the same way, which reading the keys of one alone changes."""
        for layer in self.layers:
            if not layer.like(self.layers[0]):
                for each in self.layers:
                    each.settle()
                return

    def reset(self) -> None:
        """Forget everything."""
        for layer in self.layers:
            layer.reset()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the cache to one safetensors file, which replaces the one that is there.

        Raises:
            OSError: the disk is full, or the file may not be written.
        """
        from .files import save_cache

        save_cache(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str], device: Any = None) -> KVCache:
        """Read a cache that `save` wrote, of whatever class it is.

        Args:
            path: the file.
            device: where the keys and values go; the CPU if not given.

        Raises:
            MissingFileError: there is no such file.
            BrokenFileError: it is not a whole safetensors file, or not one of a cache.

        Example:
            >>> out.past_key_values.save("prompt.safetensors")
            >>> cache = KVCache.load("prompt.safetensors")
        """
        from .files import load_cache

        return load_cache(path, device)

    @property
    def batch_size(self) -> int:
        """How many rows are held; 0 before the first token."""
        return self.layers[0].batch if self.layers else 0

    @property
    def nbytes(self) -> int:
        """The memory of all buffers, in bytes; they have room for more tokens than they hold."""
        return sum(layer.nbytes for layer in self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[tuple[Tensor | None, ...]]:
        # The third item is the sliding window, in the peer's form.
        return iter([(layer.keys, layer.values, _window(layer)) for layer in self.layers])

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(layers={len(self)}, tokens={self.get_seq_length()}, rows={self.batch_size})"


def _window(layer: KVLayer) -> Tensor | None:
    return torch.tensor(layer.window) if isinstance(layer, WindowLayer) else None


class StaticCache(KVCache):
    """A cache of a fixed size: all memory is taken at the first token, and a token too many is an error.

    Args:
        config: taken for the peer's sake.
        max_cache_len: the most tokens that fit.
        offloading: taken for the peer's sake.
        offload_only_non_sliding: taken for the peer's sake.

    Raises:
        InputError: `max_cache_len` is no number of tokens.

    Example:
        >>> cache = StaticCache(config=model.config, max_cache_len=ids.shape[1] + 20)
        >>> model.generate(ids, max_new_tokens=20, past_key_values=cache)
    """

    def __init__(
        self,
        config: Any = None,
        max_cache_len: int = 0,
        offloading: bool = False,
        offload_only_non_sliding: bool = True,
    ) -> None:
        if isinstance(max_cache_len, bool) or not isinstance(max_cache_len, int) or max_cache_len < 1:
            raise InputError(f"max_cache_len is {max_cache_len!r}: give the number of tokens that the cache must hold.")
        self.max_cache_len = max_cache_len
        super().__init__()

    def _new_layer(self) -> KVLayer:
        return StaticLayer(self.max_cache_len)


class QuantizedCache(KVCache):
    """A cache of eight bits a number, with one scale a head and token.

    Args:
        backend: taken for the peer's sake: "quanto" or "hqq"; the rounding is this library's own with either.
        config: taken for the peer's sake.
        nbits: 8.

    Raises:
        InputError: another backend or another number of bits is asked for.

    Example:
        >>> model.generate(ids, max_new_tokens=20, past_key_values=QuantizedCache())
    """

    def __init__(self, backend: str = "quanto", config: Any = None, nbits: int = 8) -> None:
        if backend not in ("quanto", "hqq"):
            raise InputError(
                f"backend is {backend!r}, which is not supported: leave it out, or give 'quanto' or 'hqq'."
            )
        if nbits != 8:
            raise InputError(f"nbits is {nbits!r}, but a quantised cache has 8 bits a number here: set nbits to 8.")
        super().__init__()

    def _new_layer(self) -> KVLayer:
        return QuantizedLayer()


class EncoderDecoderCache(KVCache):
    """A decoder's own cache, and its keys and values over the encoder's output, which are computed once.

    Args:
        self_attention_cache: of the decoder's tokens; or for both, in the older form, a tuple with (keys, values, cross
            keys, cross values) a layer.
        cross_attention_cache: of the encoder's tokens.

    Raises:
        InputError: one of them is something else.
    """

    def __init__(self, self_attention_cache: Any = None, cross_attention_cache: KVCache | None = None) -> None:
        if isinstance(self_attention_cache, (tuple, list)) and cross_attention_cache is None:
            both: Any = as_cache(self_attention_cache, True)
            self_attention_cache, cross_attention_cache = both.self_attention_cache, both.cross_attention_cache
        for cache in (self_attention_cache, cross_attention_cache):
            if cache is not None and not isinstance(cache, KVCache):
                raise InputError(f"An EncoderDecoderCache is made of two caches, and {type(cache).__name__} is none.")
        # An empty cache is false, so that `or` would put another in its place.
        self.self_attention_cache: KVCache = KVCache() if self_attention_cache is None else self_attention_cache
        self.cross_attention_cache = KVCache() if cross_attention_cache is None else cross_attention_cache

    @property
    def layers(self) -> list[KVLayer]:  # type: ignore[override]
        """The layers of the decoder's own cache."""
        return self.self_attention_cache.layers

    def layer(self, index: int) -> KVLayer:
        """A layer of the decoder's own cache."""
        return self.self_attention_cache.layer(index)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens of the decoder."""
        self.self_attention_cache.crop(tokens_to_remove)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given rows of the batch, in both caches."""
        self.self_attention_cache.batch_select_indices(indices)
        self.cross_attention_cache.batch_select_indices(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch; what was computed of the encoder is held once for all copies."""
        cross = self.cross_attention_cache
        self.self_attention_cache.batch_repeat_interleave(repeats)
        cross.batch_select_indices(torch.arange(cross.batch_size).repeat_interleave(repeats))

    def _selected(self, rows: Tensor) -> EncoderDecoderCache:
        own, cross = self.self_attention_cache, self.cross_attention_cache
        return EncoderDecoderCache(own._selected(rows), cross._selected(rows))

    def reset(self) -> None:
        """Forget everything."""
        self.self_attention_cache.reset()
        self.cross_attention_cache.reset()

    @property
    def nbytes(self) -> int:
        """The memory of all buffers of both caches, in bytes."""
        return self.self_attention_cache.nbytes + self.cross_attention_cache.nbytes

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
