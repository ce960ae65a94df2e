"""Two-way names: what a part is called here, and what a family's checkpoints call it.

A table has one row a module (or a single tensor); `*` stands for the number of a layer. Every tensor of a model must be
named by exactly one row. Rows know the two operations that go both ways without arithmetic: `transposed` (stored as
(in, out)) and several parts fused in one tensor; reading gives views of what is stored, writing puts it together again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import WeightsError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Row:
    """One name here and one in checkpoints.

    Attributes:
        ours: the module's name here, or a tensor's; several for parts that are stored fused in one tensor.
        theirs: the name that is written.
        also: other names that are understood when reading.
        copies: other names that are written too.
        transposed: whether matrices are stored as (in, out).
    """

    ours: tuple[str, ...]
    theirs: str
    also: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    transposed: bool = False


def row(ours: str, theirs: str, also: Sequence[str] = (), copies: Sequence[str] = (), transposed: bool = False) -> Row:
    """A row for one module or tensor."""
    return Row((ours,), theirs, tuple(also), tuple(copies), transposed)


def fused(module: str, parts: Sequence[str], theirs: str, transposed: bool = False) -> Row:
    """A row for parts of a module that are stored as one tensor, one after the other along their outputs."""
    return Row(tuple(f"{module}.{part}" for part in parts), theirs, transposed=transposed)


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint, and the tensors here that it holds.

    Attributes:
        ours: their names here, with their shapes.
        theirs: the name that is written.
        also: other names that are understood when reading.
        copies: other names that are written too.
        transposed: whether a matrix is stored as (in, out).
    """

    ours: dict[str, tuple[int, ...]]
    theirs: str
    also: tuple[str, ...]
    copies: tuple[str, ...]
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the stored tensor."""
        shapes = list(self.ours.values())
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:]) if shapes[0] else ()
        return shape[::-1] if self.transposed and len(shape) == 2 else shape

    def split(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors here, as views of the stored one."""
        if self.transposed and tensor.dim() == 2:
            tensor = tensor.t()
        if len(self.ours) == 1:
            return dict.fromkeys(self.ours, tensor)
        parts = tensor.split_with_sizes([shape[0] for shape in self.ours.values()])
        return dict(zip(self.ours, parts))

    def join(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The stored tensor, from those here."""
        import torch

        parts = [tensors[name] for name in self.ours]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        return tensor.t() if self.transposed and tensor.dim() == 2 else tensor


def match(table: Iterable[Row], shapes: Mapping[str, tuple[int, ...]]) -> list[Stored]:
    """What a checkpoint stores for the tensors of a model.

    Args:
        table: the family's rows.
        shapes: the model's tensors by name.

    Raises:
        WeightsError: if a tensor is named by no row or by two.
    """
    by_name: dict[str, Row] = {}
    for entry in table:
        for name in entry.ours:
            if name in by_name:
                raise WeightsError(f"The name table has two rows for {name}; remove one.")
            by_name[name] = entry
    stored: dict[str, Stored] = {}
    for name, shape in shapes.items():
        pattern, number = _generic(name)
        module, _, leaf = pattern.rpartition(".")
        found_row, suffix = (by_name[pattern], "") if pattern in by_name else (by_name.get(module), f".{leaf}")
        if found_row is None:
            raise WeightsError(f"The name table has no row for {name}; add one for {module}.")
        if len(found_row.ours) > 1 and len(shape) == 3:  # quantised: parts may differ in bits, and lie apart
            suffix = f".{module.rpartition('.')[2]}{suffix}"
        theirs, also, copies = (
            [part.replace("*", number) + suffix for part in group]
            for group in ([found_row.theirs], found_row.also, found_row.copies)
        )
        found = stored.setdefault(theirs[0], Stored({}, theirs[0], tuple(also), tuple(copies), found_row.transposed))
        found.ours[name] = shape
    return list(stored.values())


def _generic(name: str) -> tuple[str, str]:
    """A name with `*` for the number of its layer, and that number."""
    number = re.search(r"\.(\d+)\.", name)
    return (name.replace(number.group(0), ".*.", 1), number.group(1)) if number else (name, "")
