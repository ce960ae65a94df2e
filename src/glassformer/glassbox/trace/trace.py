"""Trace: one call as a story, from the text to the choice, every tensor under its name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...structure.maps import ALL, Maps
from ..inputs import Inputs, prepared, tokenizer_beside
from ..listen import Patterns, listening, matching, places
from ..stacks import STACKS
from ..tokens import names_of
from .choices import choices_of
from .lines import lines_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..sources import Source
    from .choices import Candidates
    from .difference import Difference


class Trace:
    """The tensors of one call of a model, or of the calls that one `generate` makes; recorded while it is open.

    Args:
        model: whose calls are recorded.
        record: a name or pattern ("*.attention.weights"), several, or from patterns to `Maps` for a part of the
            attention maps; only these tensors are computed and kept.
        tokenizer: for the tokens' text; the one beside the model if not given and there is one.
        texts: what the model is given, where it is known.
        detach: whether the tensors are cut from the graph of gradients.

    Attributes:
        model: the name of the model's class.
        meanings: by name, what each recorded tensor is and its shape in symbols.
        tokens: by stack ("encoder", "decoder") the tokens of every row that it has read.
        texts: the texts, where they are known.
        padding: the token that fills up short texts, where there is one.
        choices: what the scores came to, if they were recorded: the likeliest tokens or classes.
        lines: by name, the line of code that computed each tensor.

    Raises:
        InputError: if a pattern selects nothing.

    Example:
        >>> with model.trace("*.attention.weights") as t:
        ...     model(**inputs)
        >>> t["decoder.layers.0.attention.weights"].shape
        torch.Size([1, 4, 9, 9])
    """

    def __init__(
        self,
        model: Any,
        record: Patterns = "*",
        tokenizer: Any = None,
        texts: Sequence[str] | None = None,
        detach: bool = True,
    ) -> None:
        self.model = type(model).__name__
        self.texts = list(texts) if texts is not None else None
        self.records: dict[str, list[Tensor]] = {}
        self._wanted = matching(model, record)
        known = places(model)
        self.meanings = {name: known[name] for name in self._wanted}
        self.tokens: dict[str, list[list[str]]] = {}
        self.padding: str | None = None
        self.choices: list[Candidates] = []
        self.lines: dict[str, Source] = {}
        self._ids: dict[str, list[Tensor]] = {}
        self._reads = {f"{stack}.input_ids": stack for stack in STACKS if f"{stack}.input_ids" in known}
        self._source = model
        self._tokenizer = tokenizer
        self._detach = detach
        self._open: ExitStack | None = None

    # While a model runs

    def __enter__(self) -> Self:
        if not hasattr(self, "_source"):
            raise InputError("A trace records once, and this one has: make another with model.trace().")
        self._open = ExitStack()
        self._open.enter_context(listening(self._source, self, {*self._wanted, *self._reads}))
        return self

    def __exit__(self, *_: object) -> None:
        assert self._open is not None
        self._open.close()
        self.meanings = {name: self.meanings[name] for name in self.records}
        tokenizer = self._tokenizer or tokenizer_beside(self._source)
        self.tokens = {stack: _tokens(pieces, tokenizer) for stack, pieces in self._ids.items()}
        if self.texts is None and tokenizer is not None and self._ids:
            ids = _joined(next(iter(self._ids.values())))
            self.texts = [tokenizer.decode(row, skip_special_tokens=True) for row in ids.tolist()]
        pad = getattr(getattr(self._source, "config", None), "pad_token_id", None)
        self.padding = names_of([pad], tokenizer)[0] if pad is not None else None
        read = self._ids.get("decoder", self._ids.get("encoder", []))
        self.choices = choices_of(self._source, self.records, read, tokenizer)
        self.lines = self.lines or {n: line for n, line in lines_of(self._source).items() if n in self.records}
        del self._source, self._tokenizer, self._ids

    def wants(self, name: str) -> Maps | None:
        """What of a tensor is recorded."""
        return ALL if name in self._reads else self._wanted.get(name)

    def changes(self, name: str) -> bool:
        """A trace changes nothing."""
        return False

    def take(self, name: str, tensor: Tensor) -> Tensor:
        """Record a tensor."""
        if name in self._reads:
            self._ids.setdefault(self._reads[name], []).append(tensor.detach())
        if name in self._wanted:
            self.records.setdefault(name, []).append(tensor.detach() if self._detach else tensor)
        return tensor

    # Afterwards

    @property
    def names(self) -> list[str]:
        """The names that were recorded, in the order in which they were computed."""
        return list(self.records)

    def calls(self, name: str) -> list[Tensor]:
        """A tensor in every call of the model, one a step of `generate`.

        Raises:
            InputError: if it was not recorded.
        """
        if name not in self.records:
            raise InputError(
                f"{name!r} was not recorded; recorded were {', '.join(self.names[:4]) or 'none'}"
                f"{', ...' if len(self.names) > 4 else ''}: record it, or see .names."
            )
        return self.records[name]

    def __getitem__(self, name: str) -> Tensor:
        """A tensor of the last call."""
        return self.calls(name)[-1]

    def __contains__(self, name: str) -> bool:
        return name in self.records

    def find(self, patterns: str | Iterable[str]) -> dict[str, Tensor]:
        """The tensors of the last call whose names a pattern, or one of several, selects."""
        several = [patterns] if isinstance(patterns, str) else list(patterns)
        return {name: self[name] for name in self.names if any(fnmatchcase(name, one) for one in several)}

    def stitched(self, name: str) -> Tensor:
        """A tensor over all calls of a `generate` with a cache: what was new in each, end to end.

        Args:
            name: of states (B, T, ...), heads (B, H, T, head_dim), or attention maps (B, H, T, S), whose keys are
                filled up with zeros to the right.
        """
        calls, place = self.calls(name), name.rpartition(".")[2]
        if place in ("weights", "scores"):
            most = max(call.shape[3] for call in calls)
            empty = 0.0 if place == "weights" else torch.finfo(torch.float32).min
            calls = [nn.functional.pad(call, (0, most - call.shape[3]), value=empty) for call in calls]
        return torch.cat(calls, dim=2 if calls[0].dim() == 4 else 1)

    def diff(self, other: Trace, rtol: float = 1e-4, atol: float = 1e-5) -> Difference:
        """Where two traces part; see `Difference`.

        Args:
            other: of another prompt, another model, or the same one after a step of training.
            rtol: how far values may be apart, as a share of the other's.
            atol: how far they may be apart beyond that, times the largest value of a tensor if that is over 1.
        """
        from .difference import difference

        return difference(self, other, rtol, atol)

    def save(self, folder: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write the trace into a folder, as trace.safetensors and trace.json; see `Trace.load`.

        Args:
            folder: made if need be.

        Returns:
            The paths written.

        Raises:
            InputError: if `folder` is a file.
            OSError: if the disk is full, or the folder may not be written to.
        """
        from .files import save

        return save(self, folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Trace:
        """Read what `save` wrote; every tensor has the dtype and the bits that it was recorded with.

        Args:
            folder: with trace.safetensors and trace.json.

        Raises:
            MissingFileError: if one of the two is not there.
            BrokenFileError: if one is malformed, or they do not belong together.

        Example:
            >>> Trace.load("before").diff(Trace.load("after")).first
        """
        from .files import load

        return load(folder)

    def story(self, fold: bool = True) -> str:
        """The call as a story, for a terminal; `print(t)` shows it too.

        Args:
            fold: whether layers after the first have one line each, or all their tensors.
        """
        from .story import told

        return told(self, fold)

    def __str__(self) -> str:
        return self.story()

    def __repr__(self) -> str:
        return f"<Trace of {self.model}: {len(self.records)} tensors>"

    def _repr_html_(self) -> str:
        from .markup import fragment

        return fragment(self)


def trace(
    model: Any,
    inputs: Inputs,
    tokenizer: Any = None,
    record: Patterns = "*",
    detach: bool = True,
) -> Trace:
    """Run a model once and record the call.

    Args:
        model: of this library; or one of Hugging Face Transformers, of a family that there is here too, whose tensors
            get the same names, so that `t.diff` can compare both.
        inputs: a text, several, or what the tokenizer made of them. A model with an encoder and a decoder and no
            decoder_input_ids begins with its start token, unless its head reads the encoder's tokens again.
        tokenizer: of the model; the one beside it if not given.
        record: as in `Trace`.
        detach: as in `Trace`.

    Raises:
        InputError: if texts are given and there is no tokenizer; or if the class of a foreign model is not known.

    Example:
        >>> print(trace(model, "To be or not to be"))
    """
    from . import foreign

    is_foreign = foreign.is_foreign(model)
    anatomy = foreign.anatomy(model) if is_foreign else model
    call, texts, tokenizer = prepared(model, inputs, tokenizer, anatomy)
    recorded = Trace(anatomy, record, tokenizer, texts, detach)
    recorded.model = type(model).__name__
    with torch.set_grad_enabled(torch.is_grad_enabled() and not detach), recorded:
        if is_foreign:
            foreign.run(model, anatomy, recorded, call)
        else:
            model(**call)
    return recorded


def _joined(pieces: list[Tensor]) -> Tensor:
    """What was read of all rows, (B, T); only the last piece where each repeats what was read before."""
    if len(pieces) > 1 and pieces[1].shape[1] > 1 and pieces[1].shape[1] > pieces[0].shape[1]:
        return pieces[-1]
    rows = pieces[-1].shape[0]
    return torch.cat([piece for piece in pieces if piece.shape[0] == rows], dim=1)


def _tokens(pieces: list[Tensor], tokenizer: Any) -> list[list[str]]:
    return [names_of(row, tokenizer) for row in _joined(pieces).tolist()]
