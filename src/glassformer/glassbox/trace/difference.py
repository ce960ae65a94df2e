"""Difference: where two traces part: two prompts, two models, before and after training, or ours and a foreign one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import InputError
from ..tokens import readable
from ..writing import figure, joined, safe, wrapped

if TYPE_CHECKING:
    from .trace import Trace

SHOWN = 20  # names and tokens that the terminal shows; all are in the data
_MASKED = ("scores", "mask", "memory_mask", "bias")
_ALIKE = ("mask", "memory_mask", "bias", "cos", "sin", "positions", "types")  # may be there once for all rows


@dataclass(frozen=True)
class Parted:
    """How far one tensor is from the other trace's.

    Attributes:
        name: of the tensor.
        absolute: the largest difference.
        relative: the largest difference as a share of the other's value there; inf where that is zero.
        same: whether all values are within the tolerances.
        call: the first call in which they are not, from 0; else that of the largest difference.
        index: the place of the first value that is not within the tolerances, else of the largest difference; in the
            part that was compared.
        values: the two values there, this trace's and the other's.
        compared: the shape of the part that both have.
        whole: whether that is all of both.
    """

    name: str
    absolute: float
    relative: float
    same: bool
    call: int
    index: tuple[int, ...]
    values: tuple[float, float]
    compared: tuple[int, ...]
    whole: bool


@dataclass(frozen=True)
class TokenDifference:
    """A place where two traces have read different tokens; None where one has read no more.

    Attributes:
        stack: "encoder" or "decoder".
        row: of the batch.
        position: in the row.
        tokens: this trace's and the other's.
    """

    stack: str
    row: int
    position: int
    tokens: tuple[str | None, str | None]


@dataclass(frozen=True)
class Difference:
    """Two traces, tensor by tensor.

    Attributes:
        models: the names of both classes.
        tokens: where the tokens read differ.
        parted: every tensor that both have, in the order in which it was computed.
        only_here: names that the other trace lacks.
        only_there: names that this trace lacks.
        calls: the numbers of calls, where they are not the same.
        rtol: how far values may be apart, as a share of the other's.
        atol: how far they may be apart beyond that, times the largest value of a tensor if that is over 1.

    Example:
        >>> print(trace(model, "a cat").diff(trace(model, "a dog")))
    """

    models: tuple[str, str]
    tokens: tuple[TokenDifference, ...]
    parted: tuple[Parted, ...]
    only_here: tuple[str, ...]
    only_there: tuple[str, ...]
    calls: tuple[int, int] | None
    rtol: float
    atol: float

    @property
    def first(self) -> Parted | None:
        """The first tensor that differs, in the order of computing; None if none does."""
        return min((parted for parted in self.parted if not parted.same), key=lambda parted: parted.call, default=None)

    @property
    def same(self) -> bool:
        """Whether no shared tensor differs."""
        return self.first is None

    def __getitem__(self, name: str) -> Parted:
        """How far one tensor is from the other's.

        Raises:
            InputError: if not both traces have it.
        """
        found = next((parted for parted in self.parted if parted.name == name), None)
        if found is None:
            raise InputError(f"{name!r} is not in both traces; see .parted for what is.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The difference as data that JSON can hold."""
        return {**asdict(self), "same": self.same, "first": self.first.name if self.first else None}

    def __str__(self) -> str:
        head = [part for line in self._head() for part in wrapped(line, 2)]
        return joined([*head, *self._table()])

    def _repr_html_(self) -> str:
        style = (
            ".gf-difference td,.gf-difference th{text-align:left;padding:.1em .8em .1em 0}"
            ".gf-difference .gf-far{font-weight:600}"
        )
        rows = "".join(
            f'<tr class="{"" if parted.same else "gf-far"}"><td>{safe(parted.name)}</td>'
            f"<td>{parted.absolute:.3g}</td><td>{parted.relative:.3g}</td>"
            f"<td>{'' if parted.same else 'differs'}</td></tr>"
            for parted in self.parted
        )
        body = (
            "<details><summary>tensor by tensor</summary><table><thead><tr><th>tensor</th><th>largest difference</th>"
            f"<th>as a share</th><th></th></tr></thead><tbody>{rows}</tbody></table></details>"
        )
        return figure("difference", f"Difference of {' and '.join(self.models)}", self._head(), body, style)

    def _head(self) -> list[str]:
        """What there is to say before the table: the finding first, then tokens, then what was not compared."""
        here, there = self.models
        count = len(self.parted)
        within = f"{self.rtol:g} of a value and {self.atol:g} of the largest"
        if not count:
            lines = ["Nothing to compare: the traces have no tensor in common."]
        elif self.first is None:
            lines = [f"No difference: {count} tensors of {here} and {there} agree within {within}."]
        else:
            first, differing = self.first, sum(not parted.same for parted in self.parted)
            where = f"[{', '.join(map(str, first.index))}]"
            call = f" of call {first.call}" if first.call else ""
            lines = [
                f"First difference: {first.name}{call}, at {where}: {first.values[0]:.6g} and {first.values[1]:.6g}.",
                f"{differing} of {count} tensors of {here} and {there} differ by more than {within}.",
            ]
        for parted in self.tokens[:SHOWN]:
            words = [f"“{readable([token])[0]}”" if token is not None else "nothing" for token in parted.tokens]
            lines.append(f"Token {parted.position} of text {parted.row} in the {parted.stack}: {' and '.join(words)}.")
        if len(self.tokens) > SHOWN:
            lines.append(f"… and {len(self.tokens) - SHOWN} more tokens.")
        if any(not parted.whole for parted in self.parted):
            lines.append("The traces have other shapes: of each tensor only the part that both have was compared.")
        if self.calls is not None:
            lines.append(f"{self.calls[0]} and {self.calls[1]} calls: only those that both have were compared.")
        for names, which in ((self.only_here, "first"), (self.only_there, "second")):
            if names:
                more = f" and {len(names) - 4} more" if len(names) > 4 else ""
                lines.append(f"Only in the {which}: {', '.join(names[:4])}{more}.")
        return lines

    def _table(self) -> list[str]:
        """The tensors that differ, from the first on."""
        far = [parted for parted in self.parted if not parted.same]
        if not far:
            return []
        lines = ["", f"  {'tensor':<48} {'largest difference':>20} {'as a share':>14}"]
        for parted in far[:SHOWN]:
            lines.append(f"  {parted.name[:72]:<48} {parted.absolute:>20.3g} {parted.relative:>14.3g}")
        if len(far) > SHOWN:
            lines.append(f"  … and {len(far) - SHOWN} more in .parted")
        return lines


def difference(here: Trace, there: Trace, rtol: float = 1e-4, atol: float = 1e-5) -> Difference:
    """Where two traces part; see `Trace.diff`."""
    shared = [name for name in here.names if name in there]
    counts = max(((len(here.calls(name)), len(there.calls(name))) for name in shared), default=(0, 0), key=_apart)
    return Difference(
        models=(here.model, there.model),
        tokens=tuple(_tokens(here.tokens, there.tokens)),
        parted=tuple(_parted(name, here.calls(name), there.calls(name), rtol, atol) for name in shared),
        only_here=tuple(name for name in here.names if name not in there),
        only_there=tuple(name for name in there.names if name not in here),
        calls=counts if _apart(counts) else None,
        rtol=rtol,
        atol=atol,
    )


def _apart(counts: tuple[int, int]) -> int:
    return abs(counts[0] - counts[1])


def _tokens(here: Mapping[str, list[list[str]]], there: Mapping[str, list[list[str]]]) -> list[TokenDifference]:
    return [
        TokenDifference(stack, row, position, pair)
        for stack in here
        if stack in there
        for row, (ours, theirs) in enumerate(zip(here[stack], there[stack]))
        for position, pair in enumerate(zip_longest(ours, theirs))
        if pair[0] != pair[1]
    ]


def _parted(name: str, ours: list[Tensor], theirs: list[Tensor], rtol: float, atol: float) -> Parted:
    """One tensor over all calls that both have."""
    found: Parted | None = None
    for call, (a, b) in enumerate(zip(ours, theirs)):
        this = _one(name, call, a, b, rtol, atol)
        if found is None:
            found = this
        elif found.same and not this.same:
            found = _larger(this, found)
        else:
            found = _larger(found, this)
    assert found is not None
    return found


def _larger(first: Parted, other: Parted) -> Parted:
    """The first, with the larger of both differences."""
    if first.same and other.absolute > first.absolute:
        return replace(other, relative=max(first.relative, other.relative), whole=first.whole and other.whole)
    return replace(
        first,
        absolute=max(first.absolute, other.absolute),
        relative=max(first.relative, other.relative),
        whole=first.whole and other.whole,
    )


def _one(name: str, call: int, ours: Tensor, theirs: Tensor, rtol: float, atol: float) -> Parted:
    a, b, whole = _shared(name, ours.detach().cpu(), theirs.detach().cpu())
    shape = tuple(a.shape)
    if a.numel() == 0:
        return Parted(name, 0.0, 0.0, True, call, (), (0.0, 0.0), shape, whole)
    exact = torch.float64 if not (a.is_complex() or b.is_complex()) else torch.complex128
    a, b = a.to(exact), b.to(exact)
    if name.rpartition(".")[2] in _MASKED:
        # What may not be looked at is minus infinity, or the lowest number of a dtype: the same thing.
        a, b = (torch.where(x < -1e30, torch.full_like(x, -torch.inf), x) for x in (a, b))
    apart = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs()).nan_to_num(nan=torch.inf)
    share = torch.where(apart == 0, 0.0, apart / b.abs()).nan_to_num(nan=torch.inf, posinf=torch.inf)
    size = b.abs().nan_to_num(nan=0.0, posinf=0.0)
    far = (apart > atol * max(1.0, float(size.max())) + rtol * size).flatten()
    same = not bool(far.any())
    flat = int(apart.flatten().argmax() if same else far.to(torch.uint8).argmax())
    index = tuple(int(place) for place in torch.unravel_index(torch.tensor(flat), a.shape)) if a.dim() else ()
    values = (float(a.flatten()[flat].real), float(b.flatten()[flat].real))
    return Parted(name, float(apart.max()), float(share.max()), same, call, index, values, shape, whole)


def _shared(name: str, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor, bool]:
    """The parts of two tensors that both have, from the start of each dimension, and whether that is all of both.

    A leading dimension that one lacks is repeated, and of positions and masks one that is there once for all rows.
    """
    while ours.dim() < theirs.dim():
        ours = ours.expand(theirs.shape[theirs.dim() - ours.dim() - 1], *ours.shape)
    while theirs.dim() < ours.dim():
        theirs = theirs.expand(ours.shape[ours.dim() - theirs.dim() - 1], *theirs.shape)
    alike = name.rpartition(".")[2] in _ALIKE
    if alike and ours.dim() and ours.shape[0] != theirs.shape[0] and 1 in (ours.shape[0], theirs.shape[0]):
        rows = max(ours.shape[0], theirs.shape[0])
        ours = ours.expand(rows, *ours.shape[1:]) if ours.shape[0] == 1 else ours
        theirs = theirs.expand(rows, *theirs.shape[1:]) if theirs.shape[0] == 1 else theirs
    part = tuple(slice(0, min(sizes)) for sizes in zip(ours.shape, theirs.shape))
    return ours[part], theirs[part], ours.shape == theirs.shape
