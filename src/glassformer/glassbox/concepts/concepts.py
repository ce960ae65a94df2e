"""The table from concept to call: each term of the textbook with the line of Python that shows it for one model.

The rows are made from the model at hand: what applies to it, what its call gives and in which shape, and which line of
this library's source computes it. Nothing is run to make the table but the tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import InputError
from .example import Example
from .glossary import CONCEPTS
from .rows import Row, rows


@dataclass(frozen=True)
class Concepts:
    """The table of one model; as a string it is drawn for a terminal, in a notebook as HTML.

    Attributes:
        model: the name of the model's class.
        name: where it was loaded from, or "".
        kind: "encoder-only", "decoder-only" or "encoder-decoder".
        setup: the lines of Python that make the inputs of the calls.
        sizes: the numbers behind the symbols.
        rows: one a concept.
    """

    model: str
    name: str
    kind: str
    setup: tuple[str, ...]
    sizes: dict[str, int]
    rows: tuple[Row, ...]

    def __getitem__(self, concept: str) -> Row:
        """The row of a concept.

        Raises:
            InputError: if there is none.
        """
        found = next((row for row in self if row.concept.name == concept), None)
        if found is None:
            raise InputError(f"No row is named {concept!r}; they are {', '.join(row.concept.name for row in self)}.")
        return found

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        from .drawing import concepts_text

        return concepts_text(self)

    def _repr_html_(self) -> str:
        from .drawing import concepts_html

        return concepts_html(self)

    def to_dict(self) -> dict[str, Any]:
        """The table as data that JSON can hold."""
        data = {name: getattr(self, name) for name in ("model", "name", "kind", "sizes")}
        return {**data, "setup": list(self.setup), "rows": [row.to_dict() for row in self]}


def concepts(model: Any, tokenizer: Any = None, texts: Sequence[str] | None = None) -> Concepts:
    """The table from concept to call for a model: what each term of the textbook is there, and how to get it.

    Args:
        model: any model class of this library.
        tokenizer: of the model; the one beside it if not given; without one the example's ids are made up.
        texts: the example's; two short sentences if not given.

    Raises:
        InputError: if it is no such model.

    Example:
        >>> print(concepts(model))
        >>> concepts(model)["attention weights"].run()[0].shape
        torch.Size([2, 4, 9, 9])
    """
    if not hasattr(model, "base_model") or not hasattr(model, "family"):
        raise InputError(f"concepts needs a model class of this library, but got a {type(model).__name__}.")
    example = Example(model, tokenizer, texts)
    return Concepts(
        model=type(model).__name__,
        name=str(getattr(model.config, "name_or_path", "")),
        kind=example.kind,
        setup=example.setup,
        sizes=_shown_sizes(example),
        rows=rows(example, CONCEPTS),
    )


def _shown_sizes(example: Example) -> dict[str, int]:
    """The sizes that the table's shapes name, of the stack that reads the inputs."""
    known = {**example.lengths, **example.sizes()}
    unused = {"S"} if example.both else {"S", "U"}
    if example.task not in ("SequenceClassification", "TokenClassification"):
        unused.add("L")
    return {symbol: number for symbol, number in known.items() if symbol not in unused}
