"""Logits processors: each changes the scores of the next token, (B, vocabulary), by the ids so far, (B, T).

The names, arguments and arithmetic are the peer's. Those that narrow the distribution for sampling are in `warpers`.
A processor returns new scores or the ones it was given, and never writes into them.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from glassformer.errors import GenerationError
from glassformer.generation.config import token_list

NEVER = -math.inf


class LogitsProcessor:
    """What every processor is: a call from ids (B, T) and scores (B, V) to scores (B, V)."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) for the token after `input_ids` (B, T), changed."""
        raise TypeError(f"{type(self).__name__} has no __call__: give it one, from (input_ids, scores) to scores.")


class LogitsProcessorList(list[Any]):
    """Processors that are applied one after another.

    Example:
        >>> LogitsProcessorList([TemperatureLogitsWarper(0.7), TopKLogitsWarper(50)])(input_ids, scores)
    """

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Scores (B, V) after every processor.

        Raises:
            GenerationError: a processor needs a keyword argument that `kwargs` lacks.
        """
        for processor in self:
            if not kwargs and isinstance(processor, LogitsProcessor):
                scores = processor(input_ids, scores)
                continue
            extra = list(inspect.signature(processor.__call__).parameters)[2:]
            if missing := [name for name in extra if name not in kwargs]:
                raise GenerationError(f"{type(processor).__name__} needs {', '.join(missing)}: pass it to the call.")
            scores = processor(input_ids, scores, **kwargs) if extra else processor(input_ids, scores)
        return scores


class _TokenMask:
    """Which tokens of a vocabulary are in a fixed set, as a mask (V,) made once per size and device."""

    def __init__(self, tokens: Any) -> None:
        self.tokens = token_list(tokens)
        self._mask: Tensor | None = None

    def __call__(self, scores: Tensor) -> Tensor:
        mask = self._mask
        if mask is None or mask.shape[0] != scores.shape[-1] or mask.device != scores.device:
            mask = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
            mask[[token for token in self.tokens if 0 <= token < len(mask)]] = True
            self._mask = mask
        return mask


class MinLengthLogitsProcessor(LogitsProcessor):
    """Forbids the end before the whole sequence has `min_length` tokens (with a decoder-only model's prompt).

    Args:
        min_length: in tokens.
        eos_token_id: one id, or several.
        device: taken for the peer's sake; the mask goes where the scores are.
    """

    def __init__(self, min_length: int, eos_token_id: int | list[int] | Tensor, device: Any = None) -> None:
        self.min_length = whole("min_length", min_length, least=0)
        self._eos = _TokenMask(eos_token_id)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores with the end at -inf while the sequence is too short."""
        return scores.masked_fill(self._eos(scores), NEVER) if input_ids.shape[-1] < self.min_length else scores


class MinNewTokensLengthLogitsProcessor(MinLengthLogitsProcessor):
    """Forbids the end before `min_new_tokens` tokens were added to a prompt of `prompt_length_to_skip`."""

    def __init__(
        self,
        prompt_length_to_skip: int,
        min_new_tokens: int,
        eos_token_id: int | list[int] | Tensor,
        device: Any = None,
    ) -> None:
        self.prompt_length_to_skip = whole("prompt_length_to_skip", prompt_length_to_skip, least=0)
        self.min_new_tokens = whole("min_new_tokens", min_new_tokens, least=0)
        super().__init__(self.prompt_length_to_skip + self.min_new_tokens, eos_token_id)


class RepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """Makes tokens that already occur less likely (or more, below 1): positive scores / penalty, negative * penalty.

    Args:
        penalty: 1.0 changes nothing.
        prompt_ignore_length: how many tokens at the start of the ids do not count: one number, or one a row (B,).
    """

    def __init__(self, penalty: float, prompt_ignore_length: int | Tensor | None = None) -> None:
        self.penalty = positive("repetition_penalty", penalty)
        if isinstance(prompt_ignore_length, Tensor) and prompt_ignore_length.dim() != 1:
            raise GenerationError("prompt_ignore_length must have one number a row, as a tensor of shape (B,).")
        if isinstance(prompt_ignore_length, int):
            whole("prompt_ignore_length", prompt_ignore_length, least=0)
        self.prompt_ignore_length = prompt_ignore_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores with every token that occurs in its row penalised once."""
        size = scores.shape[-1]
        ignored = self.prompt_ignore_length
        if isinstance(ignored, int):
            input_ids = input_ids[:, ignored:]
        elif ignored is not None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device)
            input_ids = input_ids.masked_fill(positions < ignored.to(input_ids.device)[:, None], size)
        # One column more takes the ids that do not count and those outside the vocabulary.
        padded = torch.nn.functional.pad(scores, (0, 1))
        ids = input_ids.clamp(max=size)
        return padded.scatter(1, ids, _penalised(padded.gather(1, ids), self.penalty))[:, :size]


class EncoderRepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """Makes tokens of the encoder's input more likely, by the inverse of the repetition penalty.

    Args:
        penalty: 1.0 changes nothing; above 1 favours the input's tokens.
        encoder_input_ids: (B, S), or (B / n, S) where every row is searched n times.
    """

    def __init__(self, penalty: float, encoder_input_ids: Tensor) -> None:
        self.penalty = 1 / positive("encoder_repetition_penalty", penalty)
        self.encoder_input_ids = encoder_input_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores with the encoder's tokens favoured."""
        ids = _per_row(self.encoder_input_ids, scores)
        return scores.scatter(1, ids, _penalised(scores.gather(1, ids), self.penalty))


class NoRepeatNGramLogitsProcessor(LogitsProcessor):
    """Forbids to complete an n-gram that the row already has.

    Args:
        ngram_size: n, at least 1.
    """

    def __init__(self, ngram_size: int) -> None:
        self.ngram_size = whole("no_repeat_ngram_size", ngram_size, least=1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores with the tokens that would repeat an n-gram at -inf."""
        return _without_ngrams_of(input_ids, input_ids, scores, self.ngram_size)


class EncoderNoRepeatNGramLogitsProcessor(LogitsProcessor):
    """Forbids to complete an n-gram that the encoder's input has.

    Args:
        encoder_ngram_size: n, at least 1.
        encoder_input_ids: (B, S), (S,), or (B / n, S) where every row is searched n times.
    """

    def __init__(self, encoder_ngram_size: int, encoder_input_ids: Tensor) -> None:
        self.ngram_size = whole("encoder_no_repeat_ngram_size", encoder_ngram_size, least=1)
        self.encoder_input_ids = encoder_input_ids if encoder_input_ids.dim() > 1 else encoder_input_ids[None]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores with the tokens that would copy an n-gram at -inf."""
        return _without_ngrams_of(_per_row(self.encoder_input_ids, scores), input_ids, scores, self.ngram_size)


class SequenceBiasLogitsProcessor(LogitsProcessor):
    """Adds a number to the score of the token that would complete a sequence.

    Args:
        sequence_bias: `{(token, ...): number}`, or `[[[token, ...], number], ...]`.

    Example:
        >>> SequenceBiasLogitsProcessor({(5,): -2.0, (7, 8): 10.0})  # 8 after 7 becomes likely
    """

    def __init__(self, sequence_bias: Mapping[tuple[int, ...], float] | Sequence[Any]) -> None:
        self.sequence_bias = _checked_biases(sequence_bias)
        self._groups: list[tuple[Tensor, Tensor, Tensor]] = []
        self._single: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores with the biases of the sequences that could end here added."""
        if self._single is None:
            self._prepare(scores)
        assert self._single is not None
        bias = torch.zeros_like(scores) + self._single
        for prefixes, last, values in self._groups:
            if (length := prefixes.shape[1]) <= input_ids.shape[1]:
                fits = (input_ids[:, None, -length:] == prefixes).all(dim=-1)
                bias.index_add_(1, last, torch.where(fits, values, 0.0).to(bias.dtype))
        return scores + bias

    def _prepare(self, scores: Tensor) -> None:
        """Make the tensors: one bias a token (V,), and by length the prefixes (N, n - 1), last tokens and biases."""
        size, device = scores.shape[-1], scores.device
        if outside := [token for tokens in self.sequence_bias for token in tokens if token >= size]:
            raise GenerationError(
                f"bad_words_ids or sequence_bias names tokens {outside}, but the vocabulary has {size}: remove them."
            )
        self._single = torch.zeros(size, device=device)
        by_length: dict[int, list[tuple[int, ...]]] = {}
        for tokens, value in self.sequence_bias.items():
            if len(tokens) == 1:
                self._single[tokens[0]] = value
            else:
                by_length.setdefault(len(tokens), []).append(tokens)
        for group in by_length.values():
            values = torch.tensor([self.sequence_bias[tokens] for tokens in group], device=device)
            ids = torch.tensor(group, device=device)
            self._groups.append((ids[:, :-1], ids[:, -1], values))


class NoBadWordsLogitsProcessor(SequenceBiasLogitsProcessor):
    """Forbids sequences of tokens: the last of each is impossible after the others.

    Args:
        bad_words_ids: the sequences.
        eos_token_id: an end that stands alone among them is not forbidden.
    """

    def __init__(self, bad_words_ids: Sequence[Sequence[int]], eos_token_id: int | list[int] | Tensor | None = None):
        words = _checked_words(bad_words_ids)
        ends = token_list(eos_token_id)
        super().__init__({word: NEVER for word in words if not (len(word) == 1 and word[0] in ends)})


class PrefixConstrainedLogitsProcessor(LogitsProcessor):
    """Allows only the tokens that a function names.

    Args:
        prefix_allowed_tokens_fn: from the number of the batch's row and its ids so far (T,) to the allowed tokens.
        num_beams: how many rows of the scores belong to one of the batch.
    """

    def __init__(self, prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]], num_beams: int) -> None:
        self._allowed = prefix_allowed_tokens_fn
        self._num_beams = num_beams

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores with what is not allowed at -inf.

        Raises:
            GenerationError: nothing is allowed for some row.
        """
        mask = torch.full_like(scores, NEVER)
        for row, ids in enumerate(input_ids):
            allowed = self._allowed(row // self._num_beams, ids)
            if len(allowed) == 0:
                raise GenerationError(
                    f"prefix_allowed_tokens_fn allows no token after {ids.tolist()} (row {row // self._num_beams} of "
                    "the batch): let it return at least one, such as the end."
                )
            mask[row, allowed] = 0
        result = scores + mask
        # Where another processor forbade all that is allowed here, what is allowed here wins.
        stuck = result.amax(dim=-1).isneginf().view(-1, self._num_beams).all(dim=-1)
        return torch.where(stuck.repeat_interleave(self._num_beams)[:, None], mask, result)


class ForcedBOSTokenLogitsProcessor(LogitsProcessor):
    """Makes one token certain right after the first, such as the language in a multilingual model."""

    def __init__(self, bos_token_id: int) -> None:
        self.bos_token_id = bos_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores of which only the forced token is possible, if one token is there so far."""
        return _only(scores, [self.bos_token_id]) if input_ids.shape[-1] == 1 else scores


class ForcedEOSTokenLogitsProcessor(LogitsProcessor):
    """Makes the end certain where `max_length` would cut the sequence."""

    def __init__(self, max_length: int, eos_token_id: int | list[int] | Tensor, device: Any = None) -> None:
        self.max_length = max_length
        self.eos_token_id = _checked_tokens("forced_eos_token_id", eos_token_id)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores of which only the end is possible, for the last token that fits."""
        return _only(scores, self.eos_token_id) if input_ids.shape[-1] == self.max_length - 1 else scores


class InfNanRemoveLogitsProcessor(LogitsProcessor):
    """Replaces nan by 0 and infinities by the largest numbers of the type."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores that are all finite."""
        return torch.nan_to_num(scores, nan=0.0)


class ExponentialDecayLengthPenalty(LogitsProcessor):
    """Raises the end's score exponentially after some tokens.

    Args:
        exponential_decay_length_penalty: after how many new tokens it begins, and the factor a token.
        eos_token_id: one id, or several.
        input_ids_seq_length: tokens of the prompt.
    """

    def __init__(
        self,
        exponential_decay_length_penalty: Sequence[float],
        eos_token_id: int | list[int] | Tensor,
        input_ids_seq_length: int,
    ) -> None:
        try:
            start, factor = exponential_decay_length_penalty
        except (TypeError, ValueError):
            raise GenerationError(
                f"exponential_decay_length_penalty is {exponential_decay_length_penalty!r}: give (start, factor)."
            ) from None
        self.regulation_start = start + input_ids_seq_length
        self.regulation_factor = factor
        self.eos_token_id = _checked_tokens("eos_token_id", eos_token_id)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores with the end's raised by |score| (factor^n - 1), n tokens after the start."""
        beyond = input_ids.shape[-1] - self.regulation_start
        if beyond <= 0:
            return scores
        ends = scores[:, self.eos_token_id]
        raised = (ends.abs() * (self.regulation_factor**beyond - 1)).masked_fill(~ends.isfinite(), 0.0)
        result = scores.clone()
        result[:, self.eos_token_id] = ends + raised
        return result


class LogitNormalization(LogitsProcessor):
    """Turns scores into log-probabilities."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Log-probabilities (B, V)."""
        return scores.log_softmax(dim=-1)


class SuppressTokensLogitsProcessor(LogitsProcessor):
    """Forbids tokens everywhere."""

    def __init__(self, suppress_tokens: Iterable[int], device: Any = None) -> None:
        self._suppressed = _TokenMask(suppress_tokens)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores with the tokens at -inf."""
        return scores.masked_fill(self._suppressed(scores), NEVER)


class SuppressTokensAtBeginLogitsProcessor(SuppressTokensLogitsProcessor):
    """Forbids tokens where the ids have just `begin_index` tokens."""

    def __init__(self, begin_suppress_tokens: Iterable[int], begin_index: int, device: Any = None) -> None:
        super().__init__(begin_suppress_tokens)
        self.begin_index = begin_index

    def set_begin_index(self, begin_index: int) -> None:
        """Move the place where the tokens are forbidden."""
        self.begin_index = begin_index

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores with the tokens at -inf, at the beginning."""
        return super().__call__(input_ids, scores) if input_ids.shape[-1] == self.begin_index else scores


# What the processors share


def whole(name: str, value: Any, least: int) -> int:
    """A setting as an int.

    Raises:
        GenerationError: it is not a whole number, or less than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise GenerationError(f"{name} is {value!r}: it must be a whole number, {least} or more.")
    return number


def positive(name: str, value: Any) -> float:
    """A setting as a number above 0.

    Raises:
        GenerationError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise GenerationError(f"{name} is {value!r}: it must be a number above 0.")
    return value


def _penalised(scores: Tensor, penalty: float) -> Tensor:
    return torch.where(scores < 0, scores * penalty, scores / penalty)


def _per_row(encoder_ids: Tensor, scores: Tensor) -> Tensor:
    """Encoder ids (B, S) for as many rows as the scores have."""
    times = scores.shape[0] // encoder_ids.shape[0]
    return encoder_ids.repeat_interleave(times, dim=0) if times > 1 else encoder_ids


def _without_ngrams_of(source: Tensor, input_ids: Tensor, scores: Tensor, n: int) -> Tensor:
    """Forbid the tokens that, after the last n - 1 of `input_ids`, make an n-gram of `source` (both (B, T))."""
    length, size = input_ids.shape[-1], scores.shape[-1]
    if length < n - 1 or source.shape[-1] < n:
        return scores
    windows = source.unfold(1, n, 1)  # (B, windows, n)
    fits = (windows[..., :-1] == input_ids[:, None, length - n + 1 :]).all(dim=-1)
    # One column more takes the windows that do not fit and the ids outside the vocabulary.
    banned = scores.new_zeros((scores.shape[0], size + 1), dtype=torch.bool)
    banned.scatter_(1, torch.where(fits, windows[..., -1].clamp(max=size), size), True)
    return scores.masked_fill(banned[:, :size], NEVER)


def _only(scores: Tensor, tokens: list[int]) -> Tensor:
    result = torch.full_like(scores, NEVER)
    result[:, tokens] = 0
    return result


def _checked_tokens(name: str, tokens: Any) -> list[int]:
    ids = token_list(tokens)
    if any(token < 0 for token in ids) or (isinstance(tokens, Tensor) and tokens.is_floating_point()):
        raise GenerationError(f"{name} is {tokens!r}: it must be ids of the vocabulary.")
    return ids


def _checked_biases(biases: Any) -> dict[tuple[int, ...], float]:
    try:
        pairs = biases.items() if isinstance(biases, Mapping) else biases
        result = {tuple(whole("token", token, 0) for token in tokens): float(bias) for tokens, bias in pairs}
        if () in result:
            raise ValueError
    except (TypeError, ValueError):
        raise GenerationError(
            f"sequence_bias is {biases!r}: give {{(token, ...): number}} or [[[token, ...], number], ...]."
        ) from None
    return result


def _checked_words(words: Any) -> list[tuple[int, ...]]:
    try:
        result = [tuple(whole("token", token, 0) for token in word) for word in words]
        if not result or () in result:
            raise ValueError
    except (TypeError, ValueError):
        raise GenerationError(
            f"bad_words_ids is {words!r}: give a list of lists of token ids, none of them empty."
        ) from None
    return result
