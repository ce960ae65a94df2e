"""BatchEncoding, what a tokenizer's call gives back: a mapping that knows which token came from which characters."""

from __future__ import annotations

import logging
from collections import UserDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenizers import Encoding

from glassformer.errors import InputError, TokenizerError
from glassformer.tokenization.options import TensorType

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class CharSpan(NamedTuple):
    """Characters `start` to `end` (exclusive) of a text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens `start` to `end` (exclusive) of a sequence."""

    start: int
    end: int


class BatchEncoding(UserDict[Any, Any]):
    """The result of a tokenizer's call.

    A string as key gives a value (`input_ids`, `attention_mask`, ...), also as an attribute; a number gives the
    `tokenizers.Encoding` of a row. The methods that follow tokens, words and characters take `(index)` for row 0, or
    `(row, index)`.

    Args:
        data: The values: lists, arrays or tensors of shape (T,) or (B, T).
        encoding: What the backend made of each row, or of the only one.
        tensor_type: `"pt"` or `"np"` to turn the lists into tensors at once.
        prepend_batch_axis: Whether tensors get a leading axis of 1 on the way.
        n_sequences: 1 for texts, 2 for pairs; taken from the encodings when left out.

    Raises:
        InputError: Rows differ in length, so that they make no tensor.

    Example:
        >>> BatchEncoding({"input_ids": [[1, 2]]}, tensor_type="np").input_ids.shape
        (1, 2)
    """

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        encoding: Encoding | Sequence[Encoding] | None = None,
        tensor_type: str | TensorType | None = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
    ) -> None:
        super().__init__(data)
        self._encodings = [encoding] if isinstance(encoding, Encoding) else encoding
        if n_sequences is None and self._encodings:
            n_sequences = self._encodings[0].n_sequences
        self._n_sequences = n_sequences
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    def __getitem__(self, item: str | int | slice) -> Any:
        """A value by its name, an `Encoding` by its row, or rows by a slice."""
        if isinstance(item, str):
            return self.data[item]
        if self._encodings is not None:
            return self._encodings[item]
        if isinstance(item, slice):
            return {key: value[item] for key, value in self.data.items()}
        raise KeyError("Rows by number are there only straight from a tokenizer: use a name or a slice.")

    def __getattr__(self, name: str) -> Any:
        data = self.__dict__.get("data", {})
        if name in data:
            return data[name]
        raise AttributeError(f"This BatchEncoding has no {name!r}: its keys are {list(data)}.")

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "encodings": self._encodings, "n_sequences": self._n_sequences}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.data = state["data"]
        self._encodings = state["encodings"]
        self._n_sequences = state.get("n_sequences")

    @property
    def n_sequences(self) -> int | None:
        """1 for texts, 2 for pairs, `None` if unknown."""
        return self._n_sequences

    @property
    def is_fast(self) -> bool:
        """Whether the backend's encodings are there, and with them the methods about tokens, words and characters."""
        return self._encodings is not None

    @property
    def encodings(self) -> Sequence[Encoding] | None:
        """The backend's encoding of each row."""
        return self._encodings

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row."""
        return self._row(batch_index).tokens

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token, 0 for the first text, 1 for the second, `None` for special tokens."""
        return self._row(batch_index).sequence_ids

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token the number of its word, `None` for special tokens."""
        return self._row(batch_index).word_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The text a token is from: 0, 1, or `None` for special tokens."""
        row, index = self._token(batch_or_token_index, token_index)
        return row.token_to_sequence(index)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The word a token is part of."""
        row, index = self._token(batch_or_token_index, token_index)
        return row.token_to_word(index)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters a token was made from, in its own text."""
        row, index = self._token(batch_or_token_index, token_index)
        span = row.token_to_chars(index)
        return CharSpan(*span) if span is not None else None

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word of text `sequence_index`."""
        row, index = self._split(batch_or_word_index, word_index)
        span = row.word_to_tokens(index, sequence_index)
        return TokenSpan(*span) if span is not None else None

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan:
        """The characters of a word of text `sequence_index`."""
        row, index = self._split(batch_or_word_index, word_index)
        span = row.word_to_chars(index, sequence_index)
        if span is None:
            raise InputError(f"There is no word {index} in text {sequence_index}: word_ids() lists the words.")
        return CharSpan(*span)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token that holds a character of text `sequence_index`; `None` if none does."""
        row, index = self._split(batch_or_char_index, char_index)
        return row.char_to_token(index, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The word that holds a character of text `sequence_index`; `None` if none does."""
        row, index = self._split(batch_or_char_index, char_index)
        return row.char_to_word(index, sequence_index)

    def convert_to_tensors(
        self, tensor_type: str | TensorType | None = None, prepend_batch_axis: bool = False
    ) -> BatchEncoding:
        """Turn the values into tensors, in place.

        Args:
            tensor_type: `"pt"` for PyTorch, `"np"` for NumPy, `None` to leave all as it is.
            prepend_batch_axis: Whether each value gets a leading axis of 1.

        Raises:
            InputError: Rows differ in length (PyTorch), or a value is not made of numbers.
        """
        if tensor_type is None:
            return self
        is_tensor, as_tensor = _torch_kit() if TensorType(tensor_type) is TensorType.PYTORCH else _numpy_kit()
        for key, value in self.data.items():
            value = [value] if prepend_batch_axis else value
            if is_tensor(value):
                continue
            try:
                self.data[key] = as_tensor(value)
            except (ValueError, TypeError, RuntimeError) as error:
                raise InputError(
                    f"{key!r} makes no tensor, its rows are probably of different lengths: "
                    "pass padding=True and truncation=True."
                ) from error
        return self

    def to(self, device: str | torch.device | int, *, non_blocking: bool = False) -> BatchEncoding:
        """Move the tensors to a device, in place.

        Args:
            device: As in `torch.Tensor.to`; a dtype is refused, because token ids stay integers.
            non_blocking: Whether to copy asynchronously.
        """
        import torch

        if isinstance(device, (str, int, torch.device)):
            self.data = {
                key: value.to(device=device, non_blocking=non_blocking) if hasattr(value, "to") else value
                for key, value in self.data.items()
            }
        else:
            logger.warning("A BatchEncoding moves to a device only, not to %s: nothing was changed.", device)
        return self

    def _row(self, batch_index: int) -> Encoding:
        if not self._encodings:
            raise TokenizerError("Words and characters can be followed only in what a tokenizer's call returned.")
        return self._encodings[batch_index]

    def _split(self, row_or_index: int, index: int | None) -> tuple[Encoding, int]:
        """`(index)` means row 0, `(row, index)` means what it says."""
        return (self._row(0), row_or_index) if index is None else (self._row(row_or_index), index)

    def _token(self, row_or_index: int, index: int | None) -> tuple[Encoding, int]:
        row, index = self._split(row_or_index, index)
        return row, index + len(row.ids) if index < 0 else index


def _torch_kit() -> tuple[Any, Any]:
    try:
        import torch
    except ImportError as error:
        raise ImportError("return_tensors='pt' needs PyTorch: install torch, or pass return_tensors='np'.") from error

    def as_tensor(value: Any) -> Any:
        if type(value) is list and value and type(value[0]).__module__ == "numpy":
            import numpy as np

            return torch.from_numpy(np.array(value))
        tensor = torch.tensor(value)
        return tensor if tensor.numel() else tensor.long()

    return torch.is_tensor, as_tensor


def _numpy_kit() -> tuple[Any, Any]:
    import numpy as np

    def as_tensor(value: Any) -> Any:
        rows = isinstance(value, (list, tuple)) and value and isinstance(value[0], (list, tuple, np.ndarray))
        if rows and len({len(row) for row in value}) > 1:
            return np.asarray([np.asarray(row) for row in value], dtype=object)
        array = np.asarray(value)
        return array if array.size else array.astype(np.int64)

    return lambda value: isinstance(value, np.ndarray), as_tensor
