"""The picture of a KV cache: what it takes as a text grows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...cache import KVCache, KVLayer, QuantizedLayer, StaticLayer, WindowLayer
from ...errors import InputError
from ...structure.attention import Attention, CrossAttention
from ...structure.quantized import dtype_of
from . import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_POINTS = 512  # a longer text is followed in steps of more than one token


@dataclass(frozen=True)
class CacheShape:
    """What a KV cache holds of every token.

    Attributes:
        layers: of the decoder.
        kv_heads: heads of keys and values, a layer.
        head_dim: numbers a head.
        dtype: of a number.
        batch: rows.
    """

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    batch: int = 1

    @property
    def bytes_per_token(self) -> int:
        """Keys and values: 2 · layers · kv_heads · head_dim · bytes of a number, for every row."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize * self.batch

    def __str__(self) -> str:
        rows = f" · {self.batch} rows" if self.batch > 1 else ""
        return (
            f"2 · {self.layers} layers · {self.kv_heads} heads · {self.head_dim} numbers · "
            f"{self.dtype.itemsize} bytes{rows} = {self.bytes_per_token:,} bytes a token"
        )


def cache_growth(
    source: nn.Module | KVCache,
    tokens: int | None = None,
    *,
    batch: int = 1,
    static: int | None = None,
    window: int | None = None,
    quantized: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """The memory of a KV cache against the tokens read: what they need, and the most that its buffers took so far.

    The buffers are those of this library's caches, filled token by token. Of an
    encoder-decoder it is the decoder's own cache; that over the encoder's states does not grow.

    Args:
        source: a model with a decoder; or a cache that holds tokens, which is then marked with what it takes now.
        tokens: up to how many; 512 if not given, or of a cache twice what it holds, at least 256.
        batch: rows, of a model.
        static: also draw a `StaticCache` of so many tokens.
        window: also draw a cache of a sliding window of so many tokens.
        quantized: also draw a cache of eight bits a number.
        ax: where to draw; a new figure if not given.

    Returns:
        The axes.

    Raises:
        InputError: there is no decoder or nothing in the cache, or a number is below 1.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> plot.cache_growth(model, 1024, static=1024, quantized=True)
        >>> plot.cache_growth(model(**inputs, use_cache=True).past_key_values)
    """
    for name, value in (("tokens", tokens), ("static", static), ("window", window)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"{name} is {value!r}; give a number of tokens, at least 1.")
    now: tuple[int, int] | None = None
    kinds: list[tuple[str, Callable[[], KVLayer]]] = [("growing", KVLayer)]
    if isinstance(source, KVCache):
        shape, kinds = _of_cache(source), [_kind(source.layers[0])]
        now = (source.get_seq_length(), sum(layer.nbytes for layer in source.layers))
        tokens = max(2 * now[0], 256) if tokens is None else tokens
    else:
        shape, tokens = cache_shape(source, batch), 512 if tokens is None else tokens
    for layer in (static and StaticLayer(static), window and WindowLayer(window)):
        kinds += [_kind(layer)] if layer else []
    if quantized:
        kinds.append(_kind(QuantizedLayer()))
    lines = [(name, *_followed(shape, made(), tokens)) for name, made in kinds]
    most = max([tokens * shape.bytes_per_token, *(max(taken) for _, _, taken in lines), now[1] if now else 0])
    power = min(max(0, (most.bit_length() - 1) // 10), len(_UNITS) - 1)
    unit = 1024**power
    ax = canvas.axes_of(ax, 5.6, 3.4)
    ax.plot([0, tokens], [0, tokens * shape.bytes_per_token / unit], color="black", linewidth=1, label="needed")
    for (name, places, taken), (colour, style) in zip(lines, canvas.LINES.items()):
        drawn = [one / unit for one in taken]
        ax.plot(places, drawn, drawstyle="steps-post", color=colour, linestyle=style, linewidth=1.8, label=name)
    if now is not None:
        ax.plot(now[0], now[1] / unit, "o", color=canvas.ACCENT, label=f"this cache, {now[0]} tokens", zorder=3)
    ax.set(xlabel="tokens read", ylabel=f"KV cache ({_UNITS[power]})", xlim=(0, tokens))
    ax.set_ylim(0, 1.06 * most / unit)
    ax.set_title(str(shape), fontsize=9)
    ax.legend(frameon=False, fontsize=canvas.FONT, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3)
    canvas.open_frame(ax)
    return ax


def cache_shape(model: nn.Module, batch: int = 1) -> CacheShape:
    """What the KV cache of a model's decoder holds of every token.

    Args:
        model: with a decoder.
        batch: rows.

    Raises:
        InputError: there is no decoder, or `batch` is below 1.

    Example:
        >>> cache_shape(model).bytes_per_token
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise InputError(f"batch is {batch!r}; give a number of rows, at least 1.")
    decoder = getattr(getattr(model, "base_model", model), "decoder", None)
    parts = [part for part in decoder.modules() if isinstance(part, Attention)] if decoder is not None else []
    own = [part for part in parts if not isinstance(part, CrossAttention)]
    if decoder is None or not own:
        raise InputError(f"{type(model).__name__} has no decoder, and so no KV cache: give a model that generates.")
    return CacheShape(len(own), own[0].kv_heads, own[0].head_dim, dtype_of(decoder.embedding.tokens), batch)


def _of_cache(cache: KVCache) -> CacheShape:
    keys: Tensor | None = cache.layers[0].keys if cache.layers else None
    if keys is None:
        raise InputError("The cache is empty: give the past_key_values of an output, or a model.")
    return CacheShape(len(cache.layers), keys.shape[1], keys.shape[3], keys.dtype, keys.shape[0])


def _kind(layer: KVLayer) -> tuple[str, Callable[[], KVLayer]]:
    """What a layer of a cache is called, and how to make another one like it."""
    if isinstance(layer, StaticLayer):
        return f"static, {layer.size} tokens", partial(StaticLayer, layer.size)
    if isinstance(layer, WindowLayer):
        return f"window of {layer.window} tokens", partial(WindowLayer, layer.window, layer.slack)
    return ("eight bits", QuantizedLayer) if isinstance(layer, QuantizedLayer) else ("growing", KVLayer)


def _followed(shape: CacheShape, layer: KVLayer, end: int) -> tuple[list[int], list[int]]:
    """The most bytes that a cache of such layers took by 0, 1, ... `end` tokens.

    One head is followed, on the device without memory, where rounding to eight bits is slow and so is done for real.
    """
    device = "cpu" if isinstance(layer, QuantizedLayer) else "meta"
    heads = shape.layers * shape.kv_heads * shape.batch
    end = min(end, layer.capacity or end)
    step = -(-end // _POINTS)
    places, taken = [0], [0]
    while layer.length < end:
        count = min(step, end - layer.length)
        new = torch.zeros(1, 1, count, shape.head_dim, dtype=shape.dtype, device=device)
        layer.append(new, new)
        places.append(layer.length)
        taken.append(max(taken[-1], layer.nbytes * heads))
    return places, taken
