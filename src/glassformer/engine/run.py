"""Running programs: texts laid end to end, buffers and their addresses, and one native call."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cache.layers import KVLayer
from ..kernels import native
from ..structure.packing import Packed, Padding
from .program import Operation, Program, View

CROSS = 1000  # the layers of the cache over the encoder begin here
MILLISECONDS = 100  # after so many a burst begins no other step, so that an interrupt is heard
_UNKNOWN = "The native code does not know an operation of this program."
# Settings that are fields of the native operation; one that is not said is 0 there.
_FIELDS = {"scale", "eps", "accumulate", "heads", "kv_heads", "head_dim", "value", "rotary", "offset", "causal"}
Room = Sequence[tuple[Tensor, Tensor]]


@dataclass
class Texts:
    """The texts of a call, whose tokens lie end to end.

    Attributes:
        batch: B, how many.
        past: columns before those of the call.
        length: T, columns of the call.
        first: (B,), the first column that may be looked at, counted with the past.
        end: (B,), one past the last.
        padding: what becomes of the columns of the call that hold no token.
    """

    batch: int
    past: int
    length: int
    first: Tensor
    end: Tensor
    padding: Padding

    @property
    def packed(self) -> bool:
        """Whether padding is left out."""
        return isinstance(self.padding, Packed)

    def starts(self) -> Tensor:
        """The first token of each text, and one past the last of all, (B + 1)."""
        if not self.packed:
            return torch.arange(0, self.batch * self.length + 1, self.length)
        return F.pad((self.end - self.first.clamp(min=self.past)).clamp(min=0).cumsum(0), (1, 0))

    def laid(self, values: Tensor) -> Tensor:
        """Values of all tokens, (N, ...), from (B or 1, T, ...)."""
        return self.padding.pack(values.expand(self.batch, *values.shape[1:])).flatten(0, 1)

    def given(self, rows: Tensor) -> Tensor:
        """Rows (N, ...) as they are given back: a copy, (B, T, ...), with zeros at padding."""
        return self.padding.blank(rows[None] if self.packed else self.unlaid(rows.clone()))

    def unlaid(self, rows: Tensor) -> Tensor:
        """The way back, to (B, T, ...), with zeros where padding is left out."""
        return self.padding.unpack(rows[None]) if self.packed else rows.view(self.batch, self.length, *rows.shape[1:])


def spans(
    mask: Tensor | None, batch: int, past: int, length: int, padded: Callable[[Tensor], Padding] = Packed
) -> Texts | None:
    """Which columns of each text may be looked at, and which of the call's are computed.

    Args:
        mask: (B, past + length), 1 for real tokens; or None if all are.
        batch: B.
        past: columns before those of the call.
        length: columns of the call.
        padded: what becomes of padding among these, which is false in the (B, length) that it is given.

    Returns:
        The texts; or None where there is no token, or one has gaps between them, which the kernels do not know.
    """
    total = past + length
    if mask is not None and mask.shape != (batch, total):
        return None
    if mask is None or mask.all():
        first, end = torch.zeros(batch, dtype=torch.long), torch.full((batch,), total)
        return Texts(batch, past, length, first, end, Padding())
    real = mask.bool()
    first = real.int().argmax(1)
    end = first + real.sum(1)
    columns = torch.arange(total)
    if not torch.equal((columns >= first[:, None]) & (columns < end[:, None]), real):
        return None
    new = real[:, past:]
    if not new.any():
        return None
    return Texts(batch, past, length, first, end, Padding() if new.all() else padded(new))


class Call:
    """What a program is told of one call.

    Args:
        texts: its tokens.
        cached: whether keys are looked up in a cache, where each has the place of its column.

    Attributes:
        mask: (B, total), as given to the call.
        own: the cache of the tokens' own keys and values.
        memories: the cache over the encoder's states.
        memory_bias: which of those may be looked at, (B, 1, T, S) or None.
    """

    mask: Tensor | None = None
    own: Any = None
    memories: Any = None
    memory_bias: Tensor | None = None

    def __init__(self, texts: Texts, cached: bool = True) -> None:
        self.texts, self.total = texts, texts.past + texts.length
        self.native = native.Call()
        self.sees = False
        self.given: dict[str, Any] = {}
        self.order: dict[str, list[tuple[Any, ...]]] = {}  # how the layers of a cache held their rows, weakly
        self.alive: list[Room] = []  # as a cache lets go of buffers when its keys are looked at within a call
        columns = torch.arange(texts.past, self.total)
        places = texts.laid(columns[None])
        self.native.tokens, self.native.texts = len(places), texts.batch
        self.ids = torch.empty(len(places), dtype=torch.long)
        self.moving = torch.cat([columns, places, places, texts.end])  # what grows by one from a step to the next
        columns, places, position_ids, ends = torch.split(
            self.moving, [len(columns), len(places), len(places), texts.batch]
        )
        self.columns = columns[None]
        self._give("position_ids", position_ids)
        self._give("starts", texts.starts())
        self._give("places", places)
        if cached or not texts.packed:  # else a text looks at all of its own tokens
            self._give("first_key", texts.first)
            self._give("keys", ends)

    def _give(self, name: str, values: Tensor) -> None:
        self.given[name] = values = values.to(torch.long).contiguous()
        setattr(self.native, name, values.data_ptr())

    def tokens(self, ids: Tensor, types: Tensor | None, positions: Tensor | None) -> None:
        """Give the ids (B, T), the token types (B, T) and the positions (B or 1, T), which count columns if None."""
        texts = self.texts
        self._give("ids", self.ids.copy_(texts.laid(ids)))
        if types is not None:
            self._give("type_ids", texts.laid(types))
        self.positions = self.columns if positions is None else positions
        self.given["position_ids"].copy_(self.given["places"] if positions is None else texts.laid(positions))

    def cache(self, room: Room, layers: Sequence[KVLayer]) -> None:
        """Give the buffers of the tokens' own keys and values, a pair a layer, and how the layers lay rows in them."""
        self._table("cache", room, layers)
        if layers[0].rows is not None:
            self._give("rows", layers[0].rows)
        prefixes = [layer.prefix for layer in layers if layer.prefix is not None]
        if prefixes:
            self._table("prefix", [(prefix.held["keys"], prefix.held["values"]) for prefix in prefixes])
            self._give("prefix_rows", prefixes[0].rows)
            self.native.prefix_keys = prefixes[0].length

    def memory(self, room: Room, seen: Texts, layers: Sequence[KVLayer] = ()) -> None:
        """Give the buffers of the keys and values over an encoder's states.

        Args:
            room: the buffers, a pair a layer.
            seen: which of the states are no padding, for each text.
            layers: which say what row of the buffers each text looks at; without any, that of its own number.
        """
        self.sees = True
        self._table("memory", room, layers)
        if layers and layers[0].rows is not None:
            self._give("memory_rows", layers[0].rows)
        self._give("memory_first", seen.first)
        self._give("memory_keys", seen.end)

    def finds(self, name: str, cache: Any) -> bool:
        """Whether a cache, "cache" or "memory", has its buffers where they were, and its rows as they were."""
        return all(
            layer.held["keys"].data_ptr() == place.keys and rows() is layer.rows and prefix() is layer.prefix
            for place, (rows, prefix), layer in zip(self.given[name], self.order[name], cache.layers)
        )

    def advance(self) -> None:
        """Move on by one column."""
        self.total += 1
        self.moving += 1

    def _table(self, name: str, room: Room, layers: Sequence[KVLayer] = ()) -> None:
        self.order[name] = [(weak(layer.rows), weak(layer.prefix)) for layer in layers]
        table = (native.KV * max(1, len(room)))()
        for place, (keys, values) in zip(table, room):
            place.keys, place.values = keys.data_ptr(), values.data_ptr()
            place.row_stride, place.head_stride = keys.stride(0), keys.stride(1)
        self.given[name] = table
        self.alive.append(room)
        setattr(self.native, name, ctypes.addressof(table))


_GONE = object()


def weak(held: Any) -> Callable[[], Any]:
    """A way to what is there as long as somebody else holds it, afterwards to what is nothing else; of None to None."""
    if held is None:
        return lambda: None
    found = weakref.ref(held)
    return lambda: _GONE if (there := found()) is None else there


class Bound:
    """A program with its buffers, and the addresses of everything it reads and writes.

    Args:
        program: what is run.
        tokens: how many tokens the buffers hold.
        library: the native code.
    """

    def __init__(self, program: Program, tokens: int, library: Any) -> None:
        self.program, self.tokens, self.library = program, tokens, library
        self.buffers = {name: torch.empty(tokens, width) for name, width in program.buffers.items()}
        self.kept: list[Tensor] = []
        self.turns: Tensor | None = None
        self.relation: Tensor | None = None
        self.operations = (native.Op * len(program.operations))()
        for op, operation in zip(self.operations, program.operations):
            self._fill(op, operation)

    def _address(self, view: View) -> int:
        return self.buffers[view.buffer].data_ptr() + 4 * view.start

    def _fill(self, op: Any, operation: Operation) -> None:
        said, widths = operation.settings, self.program.buffers
        op.kind, op.sync = native.KINDS[operation.kind], int(operation.meets)
        op.out, op.outputs = self._address(operation.out), operation.out.width
        op.out_stride = widths[operation.out.buffer]
        if operation.x is not None:
            op.x, op.inputs = self._address(operation.x), operation.x.width
            op.x_stride = widths[operation.x.buffer]
        if (matrix := operation.matrix) is not None:
            op.weight, op.format, op.ld = matrix.tensor.data_ptr(), native.FORMATS[matrix.format], matrix.stride
        elif "numbers" in said:
            op.format = native.FORMATS[said["numbers"]]
        if "activation" in said:
            op.activation = native.ACTIVATIONS[said["activation"]]
        for name in _FIELDS & said.keys():
            setattr(op, name, said[name])
        if "layer" in said:
            op.layer = said["layer"] + (CROSS if said.get("cross") else 0)
        if said.get("gated"):
            op.gate, op.gate_stride = op.out, op.out_stride
        if (beside := said.get("beside")) is not None:  # keys and values in the call's own buffers
            keys, values = beside
            op.layer = -1
            op.gate, op.gate_stride = self._address(keys), widths[keys.buffer]
            op.weight, op.ld = self._address(values), widths[values.buffer]
        for name, tensor in operation.vectors.items():
            full = tensor.detach().float().contiguous()
            self.kept.append(full)
            setattr(op, name, full.data_ptr())

    def rotate(self, cos: Tensor, sin: Tensor) -> None:
        """Give the cosines and sines of the call's tokens, (N, rotary dim) each; of a burst, of all its steps."""
        if self.turns is None or self.turns.shape[1] < len(cos):
            self.turns = torch.empty(2, max(self.tokens, len(cos)), cos.shape[-1])
            for op, operation in zip(self.operations, self.program.operations):
                if operation.kind == "rotary":
                    op.cos, op.sin = self.turns[0].data_ptr(), self.turns[1].data_ptr()
        self.turns[0, : len(cos)], self.turns[1, : len(sin)] = cos, sin

    def relate(self, bias: Tensor, span: int) -> None:
        """Give what distances add to the scores, (H, 2 · span - 1)."""
        if self.relation is bias:
            return
        self.relation = bias
        for op, operation in zip(self.operations, self.program.operations):
            if operation.settings.get("relative"):
                op.relative, op.relative_span = bias.data_ptr(), span

    def rows(self, view: View, count: int) -> Tensor:
        """What a view holds of `count` tokens, where it is, (count, width)."""
        return self.buffers[view.buffer][:count, view.start : view.start + view.width]

    def tensor(self, view: View, call: Call, heads: int = 0) -> Tensor:
        """What a view holds, (B, T, width) or (B, heads, T, head_dim); it is there itself where all is computed."""
        x = call.texts.unlaid(self.rows(view, call.native.tokens))
        return x.view(*x.shape[:2], heads, view.width // heads).transpose(1, 2) if heads else x

    def burst(self, call: Call, most: int, ends: list[int]) -> Tensor:
        """Run the program, which ends with a choice, step after step from a call of one token a text on.

        Args:
            call: the first step; it becomes the last.
            most: how many steps at most.
            ends: tokens after which no other step begins, any text's.

        Returns:
            (n, B), the tokens chosen.

        Raises:
            RuntimeError: as in `run`.
        """
        chosen, stops = torch.empty(most, call.texts.batch, dtype=torch.long), torch.tensor(ends, dtype=torch.long)
        told = native.Burst(steps=most, milliseconds=MILLISECONDS, ids=call.ids.data_ptr(), chosen=chosen.data_ptr())
        told.moving, told.moved = call.moving.data_ptr(), call.moving.numel()
        told.ends, told.end_count = stops.data_ptr(), len(stops)
        parts = (ctypes.byref(self.operations), len(self.operations), ctypes.byref(call.native), ctypes.byref(told))
        made = self.library.gf_burst(*parts, torch.get_num_threads())
        call.native.turned = 0  # the next call may be another program's
        if made < 1:
            raise RuntimeError(_UNKNOWN)
        call.total += made - 1
        return chosen[:made]

    def run(self, call: Call, first: int = 0, end: int | None = None) -> None:
        """Run the operations from `first` to `end`, all if they are not given.

        Raises:
            RuntimeError: if the native code does not know one, which is a fault of this library.
        """
        count = len(self.operations) if end is None else end
        if count == first:
            return
        start = ctypes.byref(self.operations, first * ctypes.sizeof(native.Op))
        if self.library.gf_run(start, count - first, ctypes.byref(call.native), torch.get_num_threads()):
            raise RuntimeError(_UNKNOWN)
