"""The keys and values of one layer: growing, of a fixed size, of a sliding window, or in eight bits.

A layer's buffers hold more room than tokens, so that a step writes its own keys and values and copies nothing of the
past. The variants differ in how much room there is, in what may be forgotten, and in how a number is written.

Nor is the past copied when the batch changes, as it does when rows finish or beams take each other's place. A layer
notes which row of its buffers each row of the batch goes on from, and, where rows were repeated, which prefix they
share. Native code reads keys and values where they are (`extend`); for PyTorch, which wants one tensor of all
(`append`), the layer brings them together first.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import InputError

_ROOM = 64  # tokens; buffers grow in multiples of this

Layer = TypeVar("Layer", bound="KVLayer")


@dataclass(frozen=True)
class Prefix:
    """The first tokens of several rows, held once; nothing is written to them any more.

    Attributes:
        held: the buffers by name, (P, kv_heads, room, head_dim) each.
        length: how many tokens they hold.
        rows: (B,), the row of these buffers that each row of the batch begins with.
    """

    held: dict[str, Tensor]
    length: int
    rows: Tensor

    def read(self, name: str) -> Tensor:
        """The tokens of every row of the batch, (B, kv_heads, length, head_dim)."""
        return self.held[name][:, :, : self.length].index_select(0, self.rows)


class KVLayer:
    """Keys and values of one layer, (B, kv_heads, T, head_dim) each, in buffers whose room doubles when it is used up.

    Attributes:
        length: T, the tokens read so far.
        start: how many of them, from the first on, the buffers do not hold: they are forgotten, or in the prefix.
        held: the buffers by name, (rows, kv_heads, room, ...) each.
        rows: (B,), the row of the buffers that each row of the batch goes on from; None for their own order.
        prefix: what rows share, before what the buffers hold; or None.
    """

    kind = "growing"
    shares = True  # whether rows that are repeated hold what they have in common once

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        self.length = self.start = 0
        self.held: dict[str, Tensor] = {}
        self.rows: Tensor | None = None
        self.prefix: Prefix | None = None
        if keys is not None and values is not None:
            self.append(keys, values)

    @property
    def keys(self) -> Tensor | None:
        """The keys held, (B, kv_heads, T, head_dim), or None before the first token."""
        self.settle()
        return self._read("keys") if self.held else None

    @property
    def values(self) -> Tensor | None:
        """The values held, (B, kv_heads, T, head_dim), or None before the first token."""
        self.settle()
        return self._read("values") if self.held else None

    @property
    def batch(self) -> int:
        """B, the rows of the batch; 0 before the first token."""
        rows = self.rows if self.rows is not None or self.prefix is None else self.prefix.rows
        return self._count if rows is None else len(rows)

    @property
    def nbytes(self) -> int:
        """The memory of the buffers, in bytes."""
        return sum(buffer.nbytes for buffer in self.buffers)

    @property
    def buffers(self) -> list[Tensor]:
        """All buffers, those of the prefix too."""
        return [*self.held.values(), *(self.prefix.held.values() if self.prefix is not None else ())]

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
        self._check_rows(keys.shape[0])
        self.settle()
        past = self.held.get("keys")
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
            The buffers of keys and values, (rows, kv_heads, room, head_dim), contiguous. They hold the tokens from
            `start` on, each row of the batch in the row that `rows` says; those before are in `prefix`.
        """
        self._check_rows(shape[0])
        self._part()
        start = self.length - self.start
        self.length += shape[2]
        return self._buffer("keys", shape, dtype, start), self._buffer("values", shape, dtype, start)

    @property
    def free(self) -> int:
        """How many more tokens of every row the buffers have room for, as they are."""
        buffer = self.held.get("keys")
        return 0 if buffer is None or _closed(buffer) else buffer.shape[2] - (self.length - self.start)

    def _check_rows(self, rows: int) -> None:
        if self.batch not in (0, rows):
            raise InputError(
                f"The cache holds {self.batch} rows, but {rows} were given: pass as many, or select or repeat "
                "those of the cache (batch_select_indices, batch_repeat_interleave)."
            )

    def crop(self, tokens: int) -> None:
        """Forget the last `tokens` tokens; the room stays."""
        length = max(0, self.length - tokens)
        if self.prefix is not None and length < self.prefix.length:
            self.settle()
        self.length = length

    def reset(self) -> None:
        """Forget everything, and give the memory back."""
        self.length = self.start = 0
        self.held, self.rows, self.prefix = {}, None, None

    def select(self, rows: Tensor) -> None:
        """Go on with the given rows of the batch, in that order: rows is (new B,), integer.

        Nothing is copied, but to give memory back where less than half of the rows would be in use.
        """
        if self.prefix is not None:
            self.prefix = replace(self.prefix, rows=self.prefix.rows.index_select(0, rows.to(self.prefix.rows.device)))
        if not self.held:
            return
        device = next(iter(self.held.values())).device
        self.rows = rows.to(device) if self.rows is None else self.rows.index_select(0, rows.to(device))
        if 2 * len(rows) < self._count:
            self._order()

    def repeat(self, times: int) -> None:
        """Repeat every row of the batch `times` times, copies side by side; a long past is held once for all."""
        rows = torch.arange(self.batch).repeat_interleave(times)
        taught = any(buffer.requires_grad for buffer in self.buffers)
        self.select(rows)
        if not self.shares or self.prefix is not None or self.length < _ROOM or taught:
            return
        self.prefix = Prefix(self.held, self.length, torch.arange(self._count) if self.rows is None else self.rows)
        self.held, self.rows, self.start = {}, None, self.length

    def like(self, other: KVLayer) -> bool:
        """Whether another layer of the same cache holds its rows in the same way."""
        one, two = self.rows, other.rows
        same = one is two or (one is not None and two is not None and torch.equal(one, two))
        return same and (self.prefix is None) == (other.prefix is None)

    def settle(self) -> None:
        """Bring all tokens of a row together in the buffers, and rows in the batch's order."""
        if self.rows is not None:
            self._order()
        if (prefix := self.prefix) is not None:
            self.prefix = None
            parts = {name: [prefix.read(name)] for name in prefix.held}
            for name in self.held:
                parts[name].append(self._read(name))
            self.held = {name: torch.cat(both, dim=2) for name, both in parts.items()}
            self.start = 0

    def selected(self: Layer, rows: Tensor) -> Layer:
        """A new layer of the given rows, (new B,); this one stays as it is."""
        other = copy.copy(self)
        other.held = dict(self.held)
        other.select(rows)
        other._order()
        return other

    @property
    def _count(self) -> int:
        """The rows of the buffers."""
        return next((buffer.shape[0] for buffer in self.held.values()), 0)

    def _order(self) -> None:
        """Copy the buffers, with their rows in the batch's order."""
        if (rows := self.rows) is not None:
            self.held = {name: buffer.index_select(0, rows) for name, buffer in self.held.items()}
            self.rows = None

    def _part(self) -> None:
        """Give each row of the batch a row of the buffers that no other goes on from, so that it can be written to.

        Where several go on from one row, all but the first are copied, to rows that nobody goes on from.
        """
        if self.rows is None:
            return
        wanted = self.rows.tolist()
        if len(taken := set(wanted)) == len(wanted):
            return
        free = [row for row in range(self._count) if row not in taken]
        if len(free) < len(wanted) - len(taken) or any(map(_closed, self.held.values())):
            self._order()
            return
        end = self.length - self.start
        for place, row in enumerate(wanted):
            if row in taken:
                taken.remove(row)
                continue
            wanted[place] = free.pop()
            for buffer in self.held.values():
                buffer[wanted[place], :, :end] = buffer[row, :, :end]
        self.rows = self.rows.new_tensor(wanted)

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
        if buffer is None or buffer.shape[2] < end or _closed(buffer):
            self._order()
            grown = torch.empty(shape[0], shape[1], self._room(start, end), shape[3], dtype=dtype, device=device)
            if name in self.held:
                grown[:, :, :start] = self.held[name][:, :, :start]
            self.held[name] = buffer = grown
        return buffer

    def _room(self, start: int, end: int) -> int:
        """How many tokens a new buffer is made for, of which `start` are held and `end` must fit."""
        return _ROOM * -(-max(end, 2 * start) // _ROOM)


def _closed(buffer: Tensor) -> bool:
    """Whether a buffer may not be written to: what inference mode made may in inference mode only."""
    return buffer.is_inference() and not torch.is_inference_mode_enabled()


class StaticLayer(KVLayer):
    """Keys and values in buffers of a fixed size, made at the first token.

    Args:
        size: the most tokens that fit.
    """

    kind = "static"
    shares = False

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
    shares = False

    def __init__(self, window: int, slack: int = _ROOM) -> None:
        super().__init__()
        if window < 1 or slack < 0:
            raise InputError(f"A window of {window} tokens, with {slack} to spare, cannot be: give 1 and 0, or more.")
        self.window, self.slack = window, slack

    @property
    def keys(self) -> Tensor | None:
        """The keys that the next token may look at beside its own, (B, kv_heads, at most window - 1, head_dim)."""
        self.settle()
        return self._seen("keys", 0) if self.held else None

    @property
    def values(self) -> Tensor | None:
        """The values to these keys, of the same shape."""
        self.settle()
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
    shares = False

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
