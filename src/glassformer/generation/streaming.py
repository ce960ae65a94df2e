"""`stream`: generation as a plain iterator, a step at a time, without a thread; who stops asking stops the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glassformer.errors import GenerationError
from glassformer.generation.config import GenerationConfig
from glassformer.generation.generate import Run, begin
from glassformer.generation.strategies import BEAM_MODES

_UNFINISHED = "\ufffd"  # what decoders write for a character of which bytes are missing
_CONTEXT = 6  # tokens before a piece that may change how it is written


@dataclass(frozen=True)
class StreamStep:
    """What one step of generation gave.

    Attributes:
        tokens: (B,), the new token of every row; padding in rows that ended before.
        texts: of every row the text that the token adds; "" while a character is not whole, and for special tokens
            that are left out. None without a tokenizer.
        probabilities: (B,), of each token among all, after the processors; 1 in rows that ended before.
        finished: of every row why it has ended ("eos", "stop_string", "time", "length", "criterion"), or None.
    """

    tokens: Tensor
    texts: list[str] | None
    probabilities: Tensor
    finished: list[str | None]


def stream(
    model: Any,
    inputs: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    *,
    tokenizer: Any = None,
    skip_special_tokens: bool = True,
    **kwargs: Any,
) -> Iterator[StreamStep]:
    """Generate as `generate` does, and give every step when it is made.

    The texts of a row, put together, are what its new tokens add to the decoded prompt.

    Args:
        model: the model.
        inputs: token ids (B, T), as in `generate`.
        generation_config: settings, as in `generate`.
        tokenizer: for the texts, and for `stop_strings`.
        skip_special_tokens: whether special tokens are left out of the texts.
        **kwargs: what else `generate` takes; greedy decoding, sampling and assisted decoding can be streamed.

    Returns:
        An iterator over the steps.

    Raises:
        GenerationError: as in `generate`, in the call itself; or the strategy has no steps, such as beam search.

    Example:
        >>> for step in model.stream(**tokenizer("Once", return_tensors="pt"), tokenizer=tokenizer):
        ...     print(step.texts[0], end="")
    """
    if kwargs.get("streamer") is not None:
        raise GenerationError("stream() is a streamer itself: leave out streamer=, or call generate().")
    kwargs.pop("streamer", None)
    run = begin(model, inputs, generation_config, tokenizer=tokenizer, **kwargs)
    if run.mode in BEAM_MODES:
        raise GenerationError("Beams have no text to show before their end: set num_beams to 1, or call generate().")
    writers = None
    if tokenizer is not None:
        writers = [_Writer(tokenizer, row, skip_special_tokens) for row in run.feed.ids.tolist()]
    return _steps(run, writers)


@torch.no_grad()
def _steps(run: Run, writers: list[_Writer] | None) -> Iterator[StreamStep]:
    ended = [False] * len(run.feed.ids)
    for tokens in run.steps:
        assert run.record.latest is not None
        chosen = run.record.latest.softmax(dim=-1).gather(1, tokens[:, None]).squeeze(1)
        reasons = list(run.finish.reasons)
        texts = None
        if writers is not None:
            texts = [
                "" if was else writer.write(token, last=reason is not None)
                for writer, token, reason, was in zip(writers, tokens.tolist(), reasons, ended)
            ]
        chosen = chosen.masked_fill(torch.tensor(ended, device=chosen.device), 1.0)
        ended = [reason is not None for reason in reasons]
        yield StreamStep(tokens, texts, chosen, reasons)


class _Writer:
    """The text of one sequence, a piece a token: what decoding with the token says more than without it."""

    def __init__(self, tokenizer: Any, prompt: list[int], skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._ids = prompt
        self._written = ""
        self._keep_context()
        self._written = self._written.rstrip(_UNFINISHED)  # a character that only the new tokens complete

    def write(self, token: int, last: bool) -> str:
        """The text that a token adds; what was held back comes with the `last` one at the latest."""
        self._ids.append(token)
        text = self._text()
        if text.endswith(_UNFINISHED) and not last:
            return ""
        piece = text[len(self._written) :]
        self._keep_context()
        return piece

    def _keep_context(self) -> None:
        """Of tokens whose text is out, keep the last few, from the beginning of a character on."""
        ids, start = self._ids, max(0, len(self._ids) - _CONTEXT)
        self._ids = ids[start:]
        self._written = self._text()
        while start > 0 and self._written.startswith(_UNFINISHED):
            start -= 1
            self._ids = ids[start:]
            self._written = self._text()

    def _text(self) -> str:
        text: str = self._tokenizer.decode(
            self._ids, skip_special_tokens=self._skip, clean_up_tokenization_spaces=False
        )
        return text
