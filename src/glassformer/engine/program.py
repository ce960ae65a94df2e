"""A program: what a stack computes, as a flat list of operations over planned buffers.

Buffers hold one row a token, and tokens of all texts lie end to end. The list can be printed: it is the model as the
native code sees it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class View:
    """Some columns of a buffer.

    Attributes:
        buffer: its name.
        start: the first column.
        width: how many.
    """

    buffer: str
    start: int
    width: int

    def __str__(self) -> str:
        return f"{self.buffer}[{self.start}:{self.start + self.width}]" if self.start else self.buffer


@dataclass(frozen=True)
class Matrix:
    """A matrix of weights as the kernels read it.

    Attributes:
        name: of the parameter.
        format: how it lies in memory, a name of `formats` in `kernels/native.py`.
        outputs: rows.
        inputs: columns.
        stride: numbers from one row (or, stored the other way round, one column) to the next.
        tensor: what holds it.
    """

    name: str
    format: str
    outputs: int
    inputs: int
    stride: int
    tensor: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes read a pass."""
        return self.tensor.numel() * self.tensor.element_size()


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        kind: "embed", "layer_norm", "rms_norm", "linear", "rotary", "store", "attention", "add", "scale" or "choose".
        part: the path of the part that it belongs to.
        x: what it reads, if it reads a buffer.
        out: what it writes.
        matrix: of "linear" and the table of "embed".
        vectors: small tensors in fp32 by name: "weight", "bias", "types", "positions".
        settings: numbers of the operation: "activation", "accumulate", "heads", "layer", ...
        meets: whether threads wait for each other after it.
    """

    kind: str
    part: str
    x: View | None
    out: View
    matrix: Matrix | None = None
    vectors: dict[str, Tensor] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    meets: bool = True

    @property
    def nbytes(self) -> int:
        """Bytes of weights that it reads; of a table only rows are read, which count as none."""
        matrix = self.matrix.nbytes if self.matrix is not None and self.kind == "linear" else 0
        return matrix + sum(vector.numel() * vector.element_size() for vector in self.vectors.values())

    def __str__(self) -> str:
        said = ", ".join(f"{name}={value}" for name, value in self.settings.items() if value not in (None, False))
        shape = f" {self.matrix.outputs} x {self.matrix.inputs} {self.matrix.format}" if self.matrix else ""
        read = "" if self.x is None else str(self.x)
        what = f"{self.kind}{shape}"
        return f"{self.out!s:20} <- {what:34} {read:20} {self.nbytes:>12,} B  {self.part}  {said}".rstrip()


@dataclass(frozen=True)
class Place:
    """Where a tensor that has a name is, and when.

    Attributes:
        after: how many operations have run when it is there.
        view: the columns that hold it.
        heads: of queries, keys, values and what is mixed of them; 0 for states.
        own: whether the buffer holds nothing else then, so that another tensor may be put there.
    """

    after: int
    view: View
    heads: int = 0
    own: bool = True


@dataclass(frozen=True)
class Program:
    """What a stack computes.

    Attributes:
        operations: in order.
        buffers: widths by name, in fp32 numbers a token.
        output: where the last states are.
        places: the tensors that have a name, by it ("layers.3.attention.queries").
    """

    operations: tuple[Operation, ...]
    buffers: dict[str, int]
    output: View
    places: dict[str, Place] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of weights that one pass reads."""
        return sum(operation.nbytes for operation in self.operations)

    @property
    def nbytes_per_token(self) -> int:
        """Bytes of buffers a token."""
        return 4 * sum(self.buffers.values())

    def __str__(self) -> str:
        head = f"{len(self.operations)} operations, {self.nbytes:,} B of weights, {self.nbytes_per_token:,} B a token"
        return "\n".join([head, *map(str, self.operations)])
