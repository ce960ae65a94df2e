"""From text to ids: the tokenizer's call, with its padding, truncation, pairs and tensors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tokenizers import Encoding

from glassformer.errors import InputError, TokenizerError
from glassformer.tokenization import options
from glassformer.tokenization.encoding import BatchEncoding
from glassformer.tokenization.options import PaddingStrategy, TensorType, TruncationStrategy
from glassformer.tokenization.padding import Padding, describe

logger = logging.getLogger(__name__)

Text = str | Sequence[str] | Sequence[Sequence[str]]

# What each key of the output reads from an encoding, in the order of the keys.
COLUMNS: dict[str, Callable[[Encoding], Any]] = {
    "input_ids": lambda encoding: encoding.ids,
    "token_type_ids": lambda encoding: encoding.type_ids,
    "attention_mask": lambda encoding: encoding.attention_mask,
    "special_tokens_mask": lambda encoding: encoding.special_tokens_mask,
    "offset_mapping": lambda encoding: encoding.offsets,
    "length": len,
}


class Caller(Padding):
    """A tokenizer that can be called."""

    truncation_side: str = "right"
    split_special_tokens: bool
    _warned_of_length = False

    def __call__(
        self,
        text: Text | None = None,
        text_pair: Text | None = None,
        text_target: Text | None = None,
        text_pair_target: Text | None = None,
        add_special_tokens: bool = True,
        padding: bool | str | PaddingStrategy = False,
        truncation: bool | str | TruncationStrategy | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | TensorType | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        tokenizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Turn texts, or pairs of texts, into what a model takes.

        Args:
            text: A text, or a list of B texts; with `is_split_into_words`, a list of words, or a list of B such lists.
            text_pair: The second texts, in the same form.
            text_target: Texts to predict; their ids become `labels` if `text` is given too.
            text_pair_target: The second texts of the targets.
            add_special_tokens: Whether the model's special tokens are put around the texts.
            padding: `True` or `"longest"` pads to the longest row, `"max_length"` to `max_length`.
            truncation: `True` or `"longest_first"` takes tokens from the longer text until `max_length` is kept,
                `"only_first"` and `"only_second"` from one text only. `max_length` alone truncates too.
            max_length: In tokens, special ones included; `model_max_length` when left out.
            stride: How many tokens an overflowing part repeats from the part before.
            is_split_into_words: Whether the texts are lists of words.
            pad_to_multiple_of: Rounds the padded length up.
            padding_side: `"right"` or `"left"`; the tokenizer's own when left out.
            return_tensors: `"pt"` or `"np"`; lists when left out.
            return_token_type_ids: Whether the key is there; as `model_input_names` says when left out.
            return_attention_mask: Likewise.
            return_overflowing_tokens: Whether what was cut off follows as further rows;
                `overflow_to_sample_mapping` tells the text of each row.
            return_special_tokens_mask: Whether a mask of special tokens (1) is returned.
            return_offsets_mapping: Whether the characters `(start, end)` of each token are returned.
            return_length: Whether the number of tokens is returned.
            verbose: Whether warnings are given.
            tokenizer_kwargs: Further arguments of this call, as a dictionary.
            kwargs: `max_target_length`, `split_special_tokens`; anything else is named in a warning.

        Returns:
            `input_ids` and the other keys, each (T,) for one text as lists, else (B, T).

        Raises:
            InputError: The texts or the options are wrong or contradict each other.

        Example:
            >>> tokenizer(["a text", "another, longer one"], padding=True, return_tensors="pt")["input_ids"].shape
            torch.Size([2, 7])
        """
        arguments: dict[str, Any] = {
            "add_special_tokens": add_special_tokens,
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
            "stride": stride,
            "is_split_into_words": is_split_into_words,
            "pad_to_multiple_of": pad_to_multiple_of,
            "padding_side": padding_side,
            "return_tensors": return_tensors,
            "return_token_type_ids": return_token_type_ids,
            "return_attention_mask": return_attention_mask,
            "return_overflowing_tokens": return_overflowing_tokens,
            "return_special_tokens_mask": return_special_tokens_mask,
            "return_offsets_mapping": return_offsets_mapping,
            "return_length": return_length,
            "verbose": verbose,
            **(tokenizer_kwargs or {}),
            **kwargs,
        }
        max_target_length = arguments.pop("max_target_length", None)
        if text is None and text_target is None:
            raise InputError("There is no text: pass `text`, or `text_target` for labels.")
        if text is None:
            return self._encode(text_target, text_pair_target, **self._target(arguments, max_target_length))
        encoded = self._encode(text, text_pair, **arguments)
        if text_target is not None:
            arguments = self._target(arguments, max_target_length)
            encoded["labels"] = self._encode(text_target, text_pair_target, **arguments)["input_ids"]
        return encoded

    @staticmethod
    def _target(arguments: dict[str, Any], max_length: int | None) -> dict[str, Any]:
        return arguments if max_length is None else {**arguments, "max_length": max_length}

    def encode(
        self,
        text: Text,
        text_pair: Text | None = None,
        add_special_tokens: bool = True,
        padding: bool | str | PaddingStrategy = False,
        truncation: bool | str | TruncationStrategy | None = None,
        max_length: int | None = None,
        stride: int = 0,
        padding_side: str | None = None,
        return_tensors: str | TensorType | None = None,
        **kwargs: Any,
    ) -> Any:
        """The `input_ids` of a call: a list of shape (T,), or a tensor of shape (1, T); arguments as in the call.

        Example:
            >>> tokenizer.encode("a text")
            [101, 1037, 3793, 102]
        """
        encoded = self._encode(
            text,
            text_pair,
            add_special_tokens=add_special_tokens,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            stride=stride,
            padding_side=padding_side,
            return_tensors=return_tensors,
            **kwargs,
        )
        return encoded["input_ids"]

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        """The tokens of a text (and a second one), as strings.

        Example:
            >>> tokenizer.tokenize("unbelievable")
            ['un', '##bel', '##ie', '##vable']
        """
        return self._encode(text, pair, add_special_tokens=add_special_tokens, **kwargs).tokens()

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a call puts around a text, or a pair of texts."""
        return self._tokenizer.num_special_tokens_to_add(pair)

    @property
    def max_len_single_sentence(self) -> int:
        """How many tokens of one text fit the model."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=False)

    @property
    def max_len_sentences_pair(self) -> int:
        """How many tokens of two texts fit the model together."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def _encode(
        self,
        text: Any,
        text_pair: Any = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str | PaddingStrategy = False,
        truncation: bool | str | TruncationStrategy | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | TensorType | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        split_special_tokens: bool | None = None,
        **ignored: Any,
    ) -> BatchEncoding:
        if ignored and verbose:
            logger.warning("A tokenizer's call has no argument %s: ignored.", ", ".join(ignored))
        rows, batched = _rows(text, text_pair, is_split_into_words)
        pad, cut, max_length = self._strategies(padding, truncation, max_length, pad_to_multiple_of, verbose)
        self._set_truncation_and_padding(pad, cut, max_length, stride, pad_to_multiple_of, padding_side)
        split = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        if self._tokenizer.encode_special_tokens != split:
            self._tokenizer.encode_special_tokens = split
        with _one_sentence():
            encodings = self._tokenizer.encode_batch(
                rows, add_special_tokens=add_special_tokens, is_pretokenized=is_split_into_words
            )
        samples = list(range(len(encodings)))
        if return_overflowing_tokens:
            parts = [[encoding, *encoding.overflowing] for encoding in encodings]
            samples = [sample for sample, row in enumerate(parts) for _ in row]
            encodings = [part for row in parts for part in row]
        wanted = {
            "input_ids": True,
            "token_type_ids": self._by_default("token_type_ids", return_token_type_ids),
            "attention_mask": self._by_default("attention_mask", return_attention_mask),
            "special_tokens_mask": return_special_tokens_mask,
            "offset_mapping": return_offsets_mapping,
            "length": return_length,
        }
        data: dict[str, Any] = {
            key: [read(encoding) for encoding in encodings] for key, read in COLUMNS.items() if wanted[key]
        }
        if return_overflowing_tokens:
            data["overflow_to_sample_mapping"] = samples
        if max_length is None and verbose:
            self._warn_of_length(data["input_ids"])
        if not batched and return_tensors is None and not return_overflowing_tokens:
            data = {key: value[0] if key != "length" else value for key, value in data.items()}
        return BatchEncoding(data, encodings, tensor_type=return_tensors)

    def _warn_of_length(self, rows: list[list[int]]) -> None:
        longest = max(map(len, rows), default=0)
        if longest > self.model_max_length > 0 and not self._warned_of_length:
            self._warned_of_length = True
            logger.warning(
                "A text of %d tokens is longer than the %d the model was made for: pass truncation=True.",
                longest,
                self.model_max_length,
            )

    def set_truncation_and_padding(
        self,
        padding_strategy: PaddingStrategy,
        truncation_strategy: TruncationStrategy,
        max_length: int,
        stride: int,
        pad_to_multiple_of: int | None,
        padding_side: str | None,
    ) -> None:
        """Set the backend's truncation and padding; every call of the tokenizer sets them anew."""
        self._set_truncation_and_padding(
            padding_strategy, truncation_strategy, max_length, stride, pad_to_multiple_of, padding_side
        )

    def _set_truncation_and_padding(
        self,
        pad: PaddingStrategy,
        cut: TruncationStrategy,
        max_length: int | None,
        stride: int,
        pad_to_multiple_of: int | None,
        padding_side: str | None,
    ) -> None:
        backend = self._tokenizer
        if cut is TruncationStrategy.DO_NOT_TRUNCATE:
            if backend.truncation is not None:
                backend.no_truncation()
        else:
            truncation = {
                "max_length": max_length,
                "stride": stride,
                "strategy": cut.value,
                "direction": self.truncation_side,
            }
            if backend.truncation != truncation:
                with _one_sentence():
                    backend.enable_truncation(**truncation)
        if pad is PaddingStrategy.DO_NOT_PAD:
            if backend.padding is not None:
                backend.no_padding()
        else:
            target = {
                "length": max_length if pad is PaddingStrategy.MAX_LENGTH else None,
                "direction": options.side("padding_side", padding_side or self.padding_side),
                "pad_id": self.pad_token_id,
                "pad_token": self.pad_token,
                "pad_type_id": self.pad_token_type_id,
                "pad_to_multiple_of": pad_to_multiple_of,
            }
            if backend.padding != target:
                with _one_sentence():
                    backend.enable_padding(**target)


def _rows(text: Any, text_pair: Any, words: bool) -> tuple[list[Any], bool]:
    """The rows for the backend, each a text or a pair, and whether the call was given a batch."""
    if not _is_text(text) or (text_pair is not None and not _is_text(text_pair)):
        wrong = text_pair if _is_text(text) else text
        raise InputError(
            f"A text is a string, not {describe(wrong)}: pass a string or a list of strings, or lists of words with "
            "is_split_into_words=True."
        )
    batched = isinstance(text, (list, tuple)) and (not words or (bool(text) and isinstance(text[0], (list, tuple))))
    if not batched:
        return [(text, text_pair) if text_pair else text], False
    if text_pair is None:
        return list(text), True
    if isinstance(text_pair, str) or len(text_pair) != len(text):
        found = "one string" if isinstance(text_pair, str) else f"{len(text_pair)}"
        raise InputError(f"There are {len(text)} texts but {found} as text_pair: pass as many second texts as texts.")
    return list(zip(text, text_pair)), True


def _is_text(value: Any, depth: int = 3) -> bool:
    """Whether the value is a string, or starts with one, at most three lists deep."""
    if isinstance(value, str):
        return True
    return depth > 0 and isinstance(value, (list, tuple)) and (len(value) == 0 or _is_text(value[0], depth - 1))


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Errors of the backend, its panics included, as one sentence."""
    try:
        yield
    except TypeError as error:
        raise InputError(
            "One of the texts is neither a string nor a pair of strings: check each (lists of words need "
            "is_split_into_words=True)."
        ) from error
    except (ValueError, OverflowError) as error:
        raise InputError(f"{str(error).strip(' ,.')}: choose other lengths.") from error
    except Exception as error:
        raise InputError(f"{error}: choose another max_length or truncation.") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"The tokenizer's files are broken: {error}; fetch them again.") from error
