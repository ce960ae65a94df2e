"""Padding: rows of one length from rows of several."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from glassformer.errors import InputError
from glassformer.tokenization import options
from glassformer.tokenization.encoding import BatchEncoding
from glassformer.tokenization.options import PaddingStrategy, TensorType, TruncationStrategy
from glassformer.tokenization.vocabulary import Vocabulary


class Padding(Vocabulary):
    """A tokenizer that pads what was tokenized before."""

    model_input_names: list[str] = ["input_ids", "attention_mask"]  # noqa: RUF012 - replaced, never changed in place
    padding_side: str = "right"
    model_max_length: int

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | TensorType | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pad what was tokenized before, one row or several; fit to collate batches.

        Args:
            encoded_inputs: A mapping of values (T,) or (B, T), or a list of B mappings of values (T,); lists, arrays
                or tensors.
            padding: As in the call.
            max_length: As in the call.
            pad_to_multiple_of: As in the call.
            padding_side: As in the call.
            return_attention_mask: Whether a mask is made where there is none.
            return_tensors: As in the call; arrays and tensors stay what they are when left out.
            verbose: Whether warnings are given.

        Raises:
            InputError: `input_ids` are missing, rows differ in number, or the values are no numbers.
        """
        name = self.model_input_names[0]
        if isinstance(encoded_inputs, (list, tuple)) and encoded_inputs and isinstance(encoded_inputs[0], Mapping):
            data: dict[str, Any] = {key: [row[key] for row in encoded_inputs] for key in encoded_inputs[0]}
        elif isinstance(encoded_inputs, Mapping):
            data = dict(encoded_inputs)
        else:
            raise InputError(f"pad takes a mapping, or a list of them, not a {type(encoded_inputs).__name__}.")
        if name not in data:
            raise InputError(f"pad needs {name!r}, but was given {list(data)}: pass what the tokenizer returned.")
        ids = data[name]
        if ids is None or len(ids) == 0:
            if return_attention_mask:
                data["attention_mask"] = []
            return BatchEncoding(data)
        return_tensors = return_tensors or _kind(ids)
        # Masks of more than two dimensions have no padding of their own: they are stacked as they are.
        mask = data.get("attention_mask")
        stacked = data.pop("attention_mask") if isinstance(mask, list) and getattr(mask[0], "ndim", 0) > 1 else None
        data = {key: to_list(value) for key, value in data.items()}
        pad, _, max_length = self._strategies(padding, None, max_length, verbose=verbose)
        with_mask = self._by_default("attention_mask", return_attention_mask)
        side = options.side("padding_side", padding_side or self.padding_side)
        if not isinstance(data[name][0], (list, tuple)):
            length = len(data[name]) if pad is PaddingStrategy.LONGEST else max_length
            row = self._pad_row(data, pad, length, pad_to_multiple_of, side, with_mask)
            return BatchEncoding(row, tensor_type=return_tensors)
        if uneven := [key for key, value in data.items() if len(value) != len(data[name])]:
            raise InputError(f"{uneven[0]!r} has another number of rows than {name!r}: pass one of each per row.")
        length = max(map(len, data[name])) if pad is PaddingStrategy.LONGEST else max_length
        rows = [
            self._pad_row(
                {key: value[i] for key, value in data.items()}, pad, length, pad_to_multiple_of, side, with_mask
            )
            for i in range(len(data[name]))
        ]
        batch: dict[str, Any] = {key: [row[key] for row in rows] for key in rows[0]}
        if stacked is not None:
            import numpy as np

            if _kind(stacked) == "pt":
                import torch

                batch["attention_mask"] = torch.stack(stacked)
            else:
                batch["attention_mask"] = np.stack(stacked)
        return BatchEncoding(batch, tensor_type=return_tensors)

    def _pad_row(
        self,
        row: dict[str, Any],
        pad: PaddingStrategy,
        length: int | None,
        multiple: int | None,
        side: str,
        with_mask: bool,
    ) -> dict[str, Any]:
        ids = row[self.model_input_names[0]]
        if with_mask and "attention_mask" not in row:
            row["attention_mask"] = [1] * len(ids)
        if pad is PaddingStrategy.DO_NOT_PAD or length is None:
            return row
        if multiple:
            length = -(-length // multiple) * multiple
        fillers = {
            "token_type_ids": self.pad_token_type_id,
            "special_tokens_mask": 1,
            self.model_input_names[0]: self.pad_token_id,
        }
        if with_mask:
            fillers["attention_mask"] = 0
        for key, filler in fillers.items():
            if key in row:
                filling = [filler] * (length - len(ids))
                row[key] = list(row[key]) + filling if side == "right" else filling + list(row[key])
        return row

    def _strategies(
        self,
        padding: bool | str | PaddingStrategy,
        truncation: bool | str | TruncationStrategy | None,
        max_length: int | None,
        pad_to_multiple_of: int | None = None,
        verbose: bool = True,
    ) -> tuple[PaddingStrategy, TruncationStrategy, int | None]:
        """What the padding and truncation arguments of a call come to."""
        if max_length is not None and padding is False and truncation is None:
            truncation = TruncationStrategy.LONGEST_FIRST
        pad, cut = options.padding_strategy(padding), options.truncation_strategy(truncation)
        if verbose and padding is True and max_length is not None and cut is TruncationStrategy.DO_NOT_TRUNCATE:
            warnings.warn(
                "padding=True pads to the longest row and does not use max_length: "
                "pass padding='max_length' to pad to it, or truncation=True to cut at it.",
                stacklevel=4,
            )
        if max_length is None:
            unlimited = self.model_max_length > options.LARGE
            if unlimited and pad is PaddingStrategy.MAX_LENGTH:
                pad = PaddingStrategy.DO_NOT_PAD
            if unlimited:
                cut = TruncationStrategy.DO_NOT_TRUNCATE
            elif pad is PaddingStrategy.MAX_LENGTH or cut is not TruncationStrategy.DO_NOT_TRUNCATE:
                max_length = self.model_max_length
        if pad is PaddingStrategy.DO_NOT_PAD:
            return pad, cut, max_length
        if self.pad_token_id is None:
            raise InputError(
                "This tokenizer has no padding token: set one (tokenizer.pad_token = tokenizer.eos_token) or add one "
                "(tokenizer.add_special_tokens({'pad_token': '[PAD]'}))."
            )
        cutting = cut is not TruncationStrategy.DO_NOT_TRUNCATE
        if cutting and max_length and pad_to_multiple_of and max_length % pad_to_multiple_of:
            raise InputError(
                f"max_length={max_length} is no multiple of pad_to_multiple_of={pad_to_multiple_of}: "
                "change one, since rows would be cut at one length and padded to another."
            )
        return pad, cut, max_length

    def _by_default(self, key: str, wanted: bool | None) -> bool:
        return key in self.model_input_names if wanted is None else wanted


def describe(value: Any) -> str:
    """The type of a value, or of the first thing in its lists, for an error."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return f"a {type(value).__name__}"


def _kind(value: Any) -> str | None:
    """`"pt"` or `"np"` for a tensor, an array, or a list that starts with one."""
    while isinstance(value, (list, tuple)) and len(value):
        value = value[0]
    module = type(value).__module__.split(".")[0]
    if isinstance(value, (int, list, tuple)):
        return None
    if module in ("torch", "numpy"):
        return "pt" if module == "torch" else "np"
    raise InputError(f"Ids are numbers, not {describe(value)}: pass lists, arrays or tensors of integers.")


def to_list(value: Any) -> Any:
    """Lists and numbers from tensors and arrays, also inside lists and mappings."""
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, Mapping):
        return {key: to_list(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [item if type(item) is int else to_list(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value
