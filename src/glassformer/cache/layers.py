"""The keys and values of one layer: growing, of a fixed size, of a sliding window, or in eight bits.

A layer's buffers hold more room than tokens, so that a step writes its own keys and values and copies nothing of the
past. The variants differ in how much room there is, in what may be forgotten, and in how a number is written.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import InputError

_ROOM = 64  # tokens; buffers grow in multiples of this

Layer = TypeVar("Layer", bound="KVLayer")


class KVLayer:
    """Keys and values of one layer, (B, kv_heads, T, head_dim) each, in buffers whose room doubles when it is used up.

    Attributes:
        length: T, the tokens read so far.
        start: how many of them, from the first on, are no longer held.
        held: the buffers by name, (B, kv_heads, room, ...) each.
    """

    kind = "growing"

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        self.length = self.start = 0
        self.held: dict[str, Tensor] = {}
        if keys is not None and values is not None:
            self.append(keys, values)

    @property
    def keys(self) -> Tensor | None:
        """The keys held, (B, kv_heads, T, head_dim), or None before the first token."""
        return self._read("keys") if self.held else None

    @property
    def values(self) -> Tensor | None:
        """The values held, (B, kv_heads, T, head_dim), or None before the first token."""
        return self._read("values") if self.held else None

    @property
    def nbytes(self) -> int:
        """The memory of the buffers, in bytes."""
        return sum(buffer.nbytes for buffer in self.held.values())

    @property
    def capacity(self) -> int | None:
        """The most tokens that fit, or None if there is no limit."""
        return None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens.

        Args:
            keys: (B, kv_heads, new, head_dim).
            values: (B, kv_heads, new, head_dim).

        Returns:
            The keys and values that the new tokens may look at, (B, kv_heads, T + new, head_dim) each.

        Raises:
            InputError: if the cache holds another number of rows, or is full.
        """
        past = self._rows(keys.shape[0])
        start = self.length - self.start
        self.length += keys.shape[2]
        if torch.is_grad_enabled() and (keys.requires_grad or (past is not None and past.requires_grad)):
            # Autograd forbids writing into what it has recorded, so a cache that is trained through is joined anew.
            for name, new in (("keys", keys), ("values", values)):
                self.held[name] = torch.cat([self.held[name][:, :, :start], new], dim=2) if past is not None else new
            return self._read("keys"), self._read("values")
        return self._write("keys", keys, start), self._write("values", values, start)

    def extend(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Take new tokens in whose keys and values the caller writes, from the old length on.

        Args:
            shape: of what is new, (B, kv_heads, new, head_dim).
            dtype: of the numbers.

        Returns:
            The buffers of keys and values, (B, kv_heads, room, head_dim), contiguous.
        """
        self._rows(shape[0])
        start = self.length - self.start
        self.length += shape[2]
        return self._buffer("keys", shape, dtype, start), self._buffer("values", shape, dtype, start)

    def _rows(self, rows: int) -> Tensor | None:
        """The keys so far, which must be of as many rows."""
        past = self.held.get("keys")
        if past is not None and past.shape[0] != rows:
            raise InputError(
                f"The cache holds {past.shape[0]} rows, but {rows} were given: pass as many, or select or repeat "
                "those of the cache (batch_select_indices, batch_repeat_interleave)."
            )
        return past

    def crop(self, tokens: int) -> None:
        """Forget the last `tokens` tokens; the room stays."""
        self.length = max(0, self.length - tokens)

    def reset(self) -> None:
        """Forget everything, and give the memory back."""
        self.length = self.start = 0
        self.held = {}

    def select(self, rows: Tensor) -> None:
        """Keep the given rows of the batch, in that order: rows is (new B,), integer."""
        self.held = {name: buffer.index_select(0, rows.to(buffer.device)) for name, buffer in self.held.items()}

    def selected(self: Layer, rows: Tensor) -> Layer:
        """A new layer of the given rows, (new B,); this one stays as it is."""
        other = copy.copy(self)
        other.select(rows)
        return other

    def facts(self) -> dict[str, Any]:
        """What a file needs beside the tensors to make the layer again, as JSON can hold it."""
        return {"kind": self.kind, "length": self.length}

    def _read(self, name: str) -> Tensor:
        return self.held[name][:, :, : self.length - self.start]

    def _write(self, name: str, new: Tensor, start: int) -> Tensor:
        """Write `new` into a buffer from its token `start` on; returns what is held up to its end."""
        end = start + new.shape[2]
        buffer = self._buffer(name, new.shape, new.dtype, start, new.device)
        buffer[:, :, start:end] = new
        return buffer[:, :, :end]

    def _buffer(
        self, name: str, shape: Sequence[int], dtype: torch.dtype, start: int, device: torch.device | None = None
    ) -> Tensor:
        """The buffer of that name, or a larger one, with room for what is new, of that shape, from `start` on."""
        end = start + shape[2]
        buffer = self.held.get(name)
        # What inference mode made may be written to in inference mode only.
        if buffer is None or buffer.shape[2] < end or (buffer.is_inference() and not torch.is_inference_mode_enabled()):
            grown = torch.empty(shape[0], shape[1], self._room(start, end), shape[3], dtype=dtype, device=device)
            if buffer is not None:
                grown[:, :, :start] = buffer[:, :, :start]
            self.held[name] = buffer = grown
        return buffer

    def _room(self, start: int, end: int) -> int:
        """How many tokens a new buffer is made for, of which `start` are held and `end` must fit."""
        return _ROOM * -(-max(end, 2 * start) // _ROOM)


class StaticLayer(KVLayer):
    """Keys and values in buffers of a fixed size, made at the first token.

    Args:
        size: the most tokens that fit.
    """

    kind = "static"

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    @property
    def capacity(self) -> int | None:
        """The most tokens that fit."""
        return self.size

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As in `KVLayer`."""
        self._check(keys.shape[2])
        return super().append(keys, values)

    def extend(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """As in `KVLayer`."""
        self._check(shape[2])
        return super().extend(shape, dtype)

    def _check(self, new: int) -> None:
        if (end := self.length + new) > self.size:
            raise InputError(
                f"The cache has room for {self.size} tokens, and {end} were to be held: make it with a larger "
                "max_cache_len, crop it, or take a cache that grows."
            )

    def facts(self) -> dict[str, Any]:
        """As in `KVLayer`, with the size."""
        return {**super().facts(), "size": self.size}

    def _room(self, start: int, end: int) -> int:
        return self.size


class WindowLayer(KVLayer):
    """Keys and values of the last tokens only: a query looks at `window` keys, its own and those just before it.

    A few tokens more than the window are held, so that a step need not copy and `crop` can go back over its edge.
    `append` returns those that its first new token may look at, and later ones: the last `window - 1 + new`.

    Args:
        window: in tokens, at least 1.
        slack: how many tokens `crop` can always take back.
    """

    kind = "window"

    def __init__(self, window: int, slack: int = _ROOM) -> None:
        super().__init__()
        if window < 1 or slack < 0:
            raise InputError(f"A window of {window} tokens, with {slack} to spare, cannot be: give 1 and 0, or more.")
        self.window, self.slack = window, slack

    @property
    def keys(self) -> Tensor | None:
        """The keys that the next token may look at beside its own, (B, kv_heads, at most window - 1, head_dim)."""
        return self._seen("keys", 0) if self.held else None

    @property
    def values(self) -> Tensor | None:
        """The values to these keys, of the same shape."""
        return self._seen("values", 0) if self.held else None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As in `KVLayer`, without what lies before the first new token's window."""
        super().append(keys, values)
        seen = self._seen("keys", keys.shape[2]), self._seen("values", keys.shape[2])
        kept, held = self.window - 1 + self.slack, self.length - self.start
        if held > kept + _ROOM:
            self.held = {name: buffer[:, :, held - kept : held].clone() for name, buffer in self.held.items()}
            self.start = self.length - kept
        return seen

    def crop(self, tokens: int) -> None:
        """Forget the last `tokens` tokens.

        Raises:
            InputError: if the window before them is no longer held whole.
        """
        length = max(0, self.length - tokens)
        if self.start > max(0, length - self.window + 1):
            raise InputError(
                f"{tokens} tokens cannot be taken back, as a window of {self.window} has forgotten what lies before "
                f"them: crop at most {self.length - self.start - self.window + 1}, or read the text anew."
            )
        self.length = length

    def facts(self) -> dict[str, Any]:
        """As in `KVLayer`, with the window and the first token held."""
        return {**super().facts(), "start": self.start, "window": self.window, "slack": self.slack}

    def _seen(self, name: str, new: int) -> Tensor:
        held = self.length - self.start
        return self.held[name][:, :, max(0, held - self.window + 1 - new) : held]

    def _room(self, start: int, end: int) -> int:
        return max(end, self.window - 1 + self.slack + 2 * _ROOM)


class QuantizedLayer(KVLayer):
    """Keys and values in eight bits: whole numbers from -127 to 127 and one scale a head and token.

    New tokens are rounded before anything looks at them, so that a text read at once, in pieces or again after `crop`
    gives the same numbers.

    Args:
        dtype: of the keys and values given back, until the first are appended.
    """

    kind = "int8"

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As in `KVLayer`, but the keys and values returned are rounded.

        Raises:
            InputError: also where gradients are wanted, which rounding has none of.
        """
        if torch.is_grad_enabled() and keys.requires_grad:
            raise InputError("A cache of eight bits has no gradient: call under torch.no_grad(), or take a KVCache().")
        self.dtype = keys.dtype
        return super().append(keys, values)

    def facts(self) -> dict[str, Any]:
        """As in `KVLayer`, with the type that is given back."""
        return {**super().facts(), "dtype": str(self.dtype).removeprefix("torch.")}

    def _write(self, name: str, new: Tensor, start: int) -> Tensor:
        new = new.float()
        # bfloat16 has the range of float32, so that no scale overflows; codes are made with the scale as stored.
        scale = (new.abs().amax(-1, keepdim=True) / 127).to(torch.bfloat16)
        codes = (new / scale.float().masked_fill(scale == 0, 1)).round_().clamp_(-127, 127).to(torch.int8)
        super()._write(f"{name}_scale", scale, start)
        super()._write(name, codes, start)
        return self._read(name)

    def _read(self, name: str) -> Tensor:
        return super()._read(name).to(self.dtype) * super()._read(f"{name}_scale").to(self.dtype)
