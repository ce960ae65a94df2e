"""Running programs: texts laid end to end, buffers and their addresses, and one native call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..kernels import native
from .program import Operation, Program, View

CROSS = 1000  # the layers of the cache over the encoder begin here
Room = Sequence[tuple[Tensor, Tensor]]


@dataclass
class Texts:
    """The texts of a call, whose tokens lie end to end.

    Attributes:
        batch: B, how many.
        length: T, tokens of each in the call.
        first: (B,), the first column that may be looked at, counted with the past.
        end: (B,), one past the last.
    """

    batch: int
    length: int
    first: Tensor
    end: Tensor

    @property
    def count(self) -> int:
        """All tokens of the call."""
        return self.batch * self.length

    def laid(self, values: Tensor) -> Tensor:
        """Values (B · T, ...) from (B or 1, T, ...)."""
        return values.expand(self.batch, *values.shape[1:]).flatten(0, 1)


def spans(mask: Tensor | None, batch: int, past: int, length: int) -> Texts | None:
    """Which columns of each text may be looked at.

    Args:
        mask: (B, past + length), 1 for real tokens; or None if all are.
        batch: B.
        past: columns before those of the call.
        length: columns of the call.

    Returns:
        The texts; or None where one has gaps between its tokens, which the kernels do not know.
    """
    total = past + length
    if mask is None:
        return Texts(batch, length, torch.zeros(batch, dtype=torch.long), torch.full((batch,), total))
    if mask.shape != (batch, total):
        return None
    real = mask.bool()
    first = real.int().argmax(1)
    end = first + real.sum(1)
    columns = torch.arange(total)
    whole = (columns >= first[:, None]) & (columns < end[:, None])
    return Texts(batch, length, first, end) if torch.equal(whole, real) else None


class Call:
    """What a program is told of one call.

    Args:
        texts: its tokens.
        past: columns before those of the call.

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

    def __init__(self, texts: Texts, past: int) -> None:
        self.texts, self.past, self.total = texts, past, past + texts.length
        self.native = native.Call()
        self.sees = False
        self.kept: list[Any] = []
        self.native.tokens, self.native.texts = texts.count, texts.batch
        self.columns = torch.arange(past, past + texts.length).repeat(texts.batch)
        self._give("starts", torch.arange(0, texts.count + 1, texts.length))
        self._give("places", self.columns)
        self._give("first_key", texts.first)
        self._give("keys", texts.end)

    def _give(self, name: str, values: Tensor) -> None:
        values = values.to(torch.long).contiguous()
        self.kept.append(values)
        setattr(self.native, name, values.data_ptr())

    def tokens(self, ids: Tensor, types: Tensor | None, positions: Tensor | None) -> None:
        """Give the ids (B, T), the token types (B, T) and the positions (B or 1, T), which count columns if None."""
        texts = self.texts
        self._give("ids", texts.laid(ids))
        if types is not None:
            self._give("type_ids", texts.laid(types))
        self.positions = self.columns if positions is None else texts.laid(positions)
        self._give("position_ids", self.positions)

    def cache(self, room: Room) -> None:
        """Give the buffers of the tokens' own keys and values, a pair a layer."""
        self._table("cache", room)

    def memory(self, room: Room, seen: Texts) -> None:
        """Give the buffers of the keys and values over an encoder's states, and where those are no padding."""
        self.sees = True
        self._table("memory", room)
        self._give("memory_first", seen.first)
        self._give("memory_keys", seen.end)

    def _table(self, name: str, room: Room) -> None:
        table = (native.KV * max(1, len(room)))()
        for place, (keys, values) in zip(table, room):
            place.keys, place.values = keys.data_ptr(), values.data_ptr()
            place.row_stride, place.head_stride = keys.stride(0), keys.stride(1)
        self.kept += [table, room]
        setattr(self.native, name, ctypes.addressof(table))


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
        self.operations = (native.Op * len(program.operations))()
        for op, operation in zip(self.operations, program.operations):
            self._fill(op, operation)

    def _address(self, view: View) -> int:
        return self.buffers[view.buffer].data_ptr() + 4 * view.start

    def output(self, count: int) -> Tensor:
        """The states of `count` tokens, (count, D), in their buffer."""
        view = self.program.output
        return self.buffers[view.buffer][:count, view.start : view.start + view.width]

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
        op.activation = native.ACTIVATIONS[said.get("activation", "none")]
        op.scale, op.eps = said.get("scale", 1.0), said.get("eps", 0.0)
        for name in ("accumulate", "heads", "kv_heads", "head_dim", "value", "rotary", "offset", "causal"):
            setattr(op, name, int(said.get(name, 0)))
        op.layer = said.get("layer", -1) + (CROSS if said.get("cross") else 0)
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

    def _of_kind(self, kind: str) -> list[tuple[Any, Operation]]:
        return [pair for pair in zip(self.operations, self.program.operations) if pair[1].kind == kind]

    def rotate(self, cos: Tensor, sin: Tensor) -> None:
        """Give the cosines and sines of the call's tokens, (N, rotary dim) each."""
        self.turn = cos, sin
        for op, _ in self._of_kind("rotary"):
            op.cos, op.sin = cos.data_ptr(), sin.data_ptr()

    def relate(self, bias: Tensor, span: int) -> None:
        """Give what distances add to the scores, (H, 2 · span - 1)."""
        self.relation = bias
        for op, operation in self._of_kind("attention"):
            if operation.settings.get("relative"):
                op.relative, op.relative_span = bias.data_ptr(), span

    def tensor(self, view: View, texts: Texts, heads: int = 0) -> Tensor:
        """What a view holds, where it is: (B, T, width), or (B, heads, T, head_dim)."""
        rows = self.buffers[view.buffer][: texts.count, view.start : view.start + view.width]
        if heads:
            return rows.view(texts.batch, texts.length, heads, view.width // heads).transpose(1, 2)
        return rows.view(texts.batch, texts.length, view.width)

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
            raise RuntimeError("The native code does not know an operation of this program.")
