"""The words that a tokenizer's call understands for padding, truncation and tensors, and what they resolve to."""

from __future__ import annotations

from enum import Enum
from typing import Any

from glassformer.errors import InputError

UNLIMITED = int(1e30)  # `model_max_length` of a tokenizer that knows no limit
LARGE = int(1e20)  # above this a limit counts as none


class Option(str, Enum):
    """A choice among a few words; an unknown word is an error that lists them."""

    @classmethod
    def _missing_(cls, value: object) -> None:
        words = ", ".join(repr(member.value) for member in cls)
        raise InputError(f"{value!r} is not a {cls.__name__}: choose one of {words}.")


class PaddingStrategy(Option):
    """How far sequences are padded."""

    LONGEST = "longest"
    MAX_LENGTH = "max_length"
    DO_NOT_PAD = "do_not_pad"


class TruncationStrategy(Option):
    """Which sequence of a pair loses tokens."""

    ONLY_FIRST = "only_first"
    ONLY_SECOND = "only_second"
    LONGEST_FIRST = "longest_first"
    DO_NOT_TRUNCATE = "do_not_truncate"


class TensorType(Option):
    """What lists of numbers become."""

    PYTORCH = "pt"
    NUMPY = "np"


def padding_strategy(padding: bool | str | PaddingStrategy | None) -> PaddingStrategy:
    """`True` is `"longest"`, `False` is `"do_not_pad"`."""
    if isinstance(padding, bool) or padding is None:
        return PaddingStrategy.LONGEST if padding else PaddingStrategy.DO_NOT_PAD
    return PaddingStrategy(padding)


def truncation_strategy(truncation: bool | str | TruncationStrategy | None) -> TruncationStrategy:
    """`True` is `"longest_first"`, `False` and `None` are `"do_not_truncate"`."""
    if isinstance(truncation, bool) or truncation is None:
        return TruncationStrategy.LONGEST_FIRST if truncation else TruncationStrategy.DO_NOT_TRUNCATE
    return TruncationStrategy(truncation)


def side(name: str, value: Any) -> str:
    """`value` if it names a side of a sequence."""
    if value not in ("left", "right"):
        raise InputError(f"{name} is {value!r}: choose 'left' or 'right'.")
    return str(value)
