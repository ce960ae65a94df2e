"""The structure of a model as plain data: the parts the textbook names, each with its shape, size, cost and place.

The data is read from the modules themselves, so that a model on the meta device, without weights, has it too. It is
drawn for terminals in `drawing.py` and for notebooks in `markup.py`; `anatomy.py` reads it from a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...errors import InputError
from ..sources import Source


@dataclass(frozen=True)
class Part:
    """A part of a model, with the parts inside it.

    Numbers are of one such part and all that is inside; `times` says how many there are.

    Attributes:
        name: its path inside the Transformer, `decoder.layers.*.attention`; `*` where layers are alike.
        title: what the textbook calls it.
        kind: how it is drawn: "input", "stack", "embedding", "layer", "step" (of the residual stream), "attention",
            "feedforward", "norm", "positions", "table", "matrix", "product" (of two activations), "pick" or "readout".
        detail: its sizes and settings, in words.
        symbols: the shape of what it gives, "(B, T, D)".
        shape: the same with the model's numbers, "(B, T, 768)".
        parameters: how many numbers it has learned; those of another part, which are tied, are not counted again.
        bytes: what they take in memory.
        operations: multiplications and additions of matrix products for one token, with `Structure.context` tokens in
            view.
        operations_per_key: the share of them that each token in view takes.
        operations_per_text: those that are done once a text.
        tied: the part whose parameters it uses, or "".
        checkpoint: its tensors' names in the checkpoint, with `*` for the layer; without those of the parts inside.
        source: the code that computes it.
        layers: the layers that it stands for, where they are alike.
        parts: what is inside, in the order of computation.
    """

    name: str
    title: str
    kind: str
    detail: str = ""
    symbols: str = ""
    shape: str = ""
    parameters: int = 0
    bytes: int = 0
    operations: int = 0
    operations_per_key: int = 0
    operations_per_text: int = 0
    tied: str = ""
    checkpoint: tuple[str, ...] = ()
    source: Source | None = None
    layers: tuple[int, ...] = ()
    parts: tuple[Part, ...] = ()

    @property
    def times(self) -> int:
        """How many such parts there are."""
        return len(self.layers) or 1

    def walk(self) -> Iterator[Part]:
        """The part itself and all inside it, from the outside in."""
        yield self
        for part in self.parts:
            yield from part.walk()

    @property
    def stored(self) -> str:
        """What its checkpoint calls it and the parts inside, in short: `h.*.attn.{c_attn (q, k, v), c_proj}`."""
        tensors = {name for part in self.walk() for name in part.checkpoint}
        users: dict[str, dict[str, None]] = {}
        for part in self.walk():
            short = part.name.rpartition(".")[2].removesuffix("_proj")
            for tensor in part.checkpoint:
                module, _, leaf = tensor.rpartition(".")
                # A tensor that has no weight beside it keeps its own name.
                whole = leaf in ("weight", "bias") and f"{module}.weight" in tensors
                users.setdefault(module if whole else tensor, {})[short] = None
        return braced([name + (f" ({', '.join(parts)})" if len(parts) > 1 else "") for name, parts in users.items()])

    def to_dict(self) -> dict[str, Any]:
        """The part as data that JSON can hold; a source is its file and line."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            **data,
            "checkpoint": list(self.checkpoint),
            "source": str(self.source) if self.source else None,
            "layers": list(self.layers),
            "times": self.times,
            "stored": self.stored,
            "parts": [part.to_dict() for part in self.parts],
        }


def braced(names: list[str]) -> str:
    """Names that begin alike, in short: `a.b.c` and `a.b.d` are `a.b.{c, d}`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition(".")[0] if "." in name else name, []).append(name)
    return ", ".join(_group(group) for group in groups.values())


def _group(names: list[str]) -> str:
    split = [name.partition(" ")[0].split(".") for name in names]
    common = 0
    while all(len(parts) > common + 1 and parts[common] == split[0][common] for parts in split):
        common += 1
    if len(names) == 1 or not common:
        return ", ".join(names)
    prefix = ".".join(split[0][:common]) + "."
    return f"{prefix}{{{', '.join(name.removeprefix(prefix) for name in names)}}}"


@dataclass(frozen=True)
class Structure:
    """A whole model; as a string it is the drawing for a terminal, in a notebook a picture.

    Attributes:
        class_name: of the model.
        name: where it was loaded from, or "".
        kind: "encoder-only", "decoder-only" or "encoder-decoder".
        dtype: of the parameters.
        context: how many tokens `operations` assumes to be in view of each token, in each stack.
        sizes: the numbers behind the symbols of shapes.
        parts: from the tokens to the scores.

    Example:
        >>> print(model.structure())
        >>> model.structure()["decoder.layers.*.attention"].parameters
        83520
    """

    class_name: str
    name: str
    kind: str
    dtype: str
    context: int
    sizes: dict[str, int]
    parts: tuple[Part, ...]

    @property
    def parameters(self) -> int:
        """How many numbers the model has learned."""
        return sum(part.times * part.parameters for part in self.parts)

    @property
    def bytes(self) -> int:
        """What they take in memory."""
        return sum(part.times * part.bytes for part in self.parts)

    @property
    def operations(self) -> int:
        """Multiplications and additions for one token; in an encoder-decoder, for one read and one written."""
        return sum(part.times * part.operations for part in self.parts)

    @property
    def operations_per_key(self) -> int:
        """The share of them that each token in view takes."""
        return sum(part.times * part.operations_per_key for part in self.parts)

    @property
    def operations_per_text(self) -> int:
        """Multiplications and additions that are done once a text."""
        return sum(part.times * part.operations_per_text for part in self.parts)

    def walk(self) -> Iterator[Part]:
        """All parts, from the outside in."""
        for part in self.parts:
            yield from part.walk()

    def __getitem__(self, name: str) -> Part:
        """The part of a name.

        Raises:
            InputError: if there is none.
        """
        found = next((part for part in self.walk() if part.name == name), None)
        if found is None:
            raise InputError(f"There is no part {name!r}; they are {', '.join(part.name for part in self.walk())}.")
        return found

    def __str__(self) -> str:
        from .drawing import text

        return text(self)

    def _repr_html_(self) -> str:
        from .markup import fragment

        return fragment(self)

    def to_dict(self) -> dict[str, Any]:
        """The structure as data that JSON can hold, with the code of every source by its file and line."""
        sources = {str(part.source): part.source.text for part in self.walk() if part.source}
        totals = ("parameters", "bytes", "operations", "operations_per_key", "operations_per_text")
        return {
            **{name: getattr(self, name) for name in (*self.__dataclass_fields__, *totals)},
            "parts": [part.to_dict() for part in self.parts],
            "sources": sources,
        }


def structure(model: Any, context: int = 128) -> Structure:
    """The structure of a model: what it is made of, and what each part takes.

    Args:
        model: any model of this library, with or without a head, also on the meta device.
        context: how many tokens are in view of each token, in each stack, where operations are counted.

    Raises:
        InputError: if it is no model of this library, or `context` is not positive.

    Example:
        >>> print(structure(AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")))
    """
    from ...heads import Head
    from ...model import Transformer
    from .anatomy import Anatomy

    if not isinstance(model, (Transformer, Head)):
        raise InputError(f"structure draws a model of this library, but got a {type(model).__name__}.")
    if context < 1:
        raise InputError(f"context is {context}; it is a number of tokens, at least 1.")
    return Anatomy(model, context).structure()
