"""The peer's streamer classes: what `generate(streamer=...)` hands its tokens to, as text on the way.

`model.stream(...)` needs none of them, nor a thread.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from queue import Queue
from typing import TYPE_CHECKING, Any

from glassformer.errors import GenerationError

if TYPE_CHECKING:
    from torch import Tensor

# Ideographs are words by themselves, and are shown at once.
_IDEOGRAPHS = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0x2F800, 0x2FA1F)),
)


class BaseStreamer(ABC):
    """What `generate` calls with the prompt, (1, T), then every new token, (1,), then the end."""

    @abstractmethod
    def put(self, value: Tensor) -> None:
        """Take the next tokens."""

    @abstractmethod
    def end(self) -> None:
        """Learn that there are no more."""


class TextStreamer(BaseStreamer):
    r"""Prints the text of one sequence, a word as soon as it is whole.

    Args:
        tokenizer: the model's.
        skip_prompt: whether the prompt is left out.
        **decode_kwargs: for the tokenizer's `decode`, such as `skip_special_tokens`.

    Raises:
        GenerationError: from `put`, for more than one sequence.

    Example:
        >>> model.generate(**inputs, streamer=TextStreamer(tokenizer), max_new_tokens=20)
    """

    def __init__(self, tokenizer: Any, skip_prompt: bool = False, **decode_kwargs: Any) -> None:
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.decode_kwargs = decode_kwargs
        self.token_cache: list[int] = []  # since the last line break
        self.print_len = 0  # how many of their characters are shown
        self.next_tokens_are_prompt = True

    def put(self, value: Tensor) -> None:
        """Take tokens, (1, n) or (n,), and show the words that they complete."""
        if value.dim() > 1:
            if len(value) > 1:
                raise GenerationError(
                    f"{type(self).__name__} shows one sequence, not {len(value)}: use model.stream(...) for a batch."
                )
            value = value[0]
        if self.skip_prompt and self.next_tokens_are_prompt:
            self.next_tokens_are_prompt = False
            return
        self.token_cache.extend(value.tolist())
        text = self.tokenizer.decode(self.token_cache, **self.decode_kwargs)
        if text.endswith("\n"):
            shown, self.token_cache, self.print_len = text[self.print_len :], [], 0
        else:
            # The word at the end may go on.
            whole = text if text and self._is_chinese_char(ord(text[-1])) else text[: text.rfind(" ") + 1]
            shown = whole[self.print_len :]
            self.print_len += len(shown)
        self.on_finalized_text(shown)

    def end(self) -> None:
        """Show what is left."""
        rest = self.tokenizer.decode(self.token_cache, **self.decode_kwargs) if self.token_cache else ""
        shown, self.token_cache, self.print_len = rest[self.print_len :], [], 0
        self.next_tokens_are_prompt = True
        self.on_finalized_text(shown, stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print a piece; a subclass does something else with it."""
        print(text, flush=True, end="\n" if stream_end else "")

    def _is_chinese_char(self, cp: int) -> bool:
        return any(first <= cp <= last for first, last in _IDEOGRAPHS)


class TextIteratorStreamer(TextStreamer):
    """Iterates over the pieces of text, while `generate` runs in another thread.

    Args:
        tokenizer: the model's.
        skip_prompt: whether the prompt is left out.
        timeout: seconds to wait for the next piece, before `queue.Empty` is raised; None waits for ever.
        **decode_kwargs: for the tokenizer's `decode`.

    Example:
        >>> streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
        >>> Thread(target=model.generate, kwargs={**inputs, "streamer": streamer}).start()
        >>> for piece in streamer: ...
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.text_queue: Queue[str | None] = Queue()
        self.stop_signal = None
        self.timeout = timeout

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Put a piece into the queue, and after the last one the signal to stop."""
        self.text_queue.put(text, timeout=self.timeout)
        if stream_end:
            self.text_queue.put(self.stop_signal, timeout=self.timeout)

    def __iter__(self) -> TextIteratorStreamer:
        return self

    def __next__(self) -> str:
        piece = self.text_queue.get(timeout=self.timeout)
        if piece is self.stop_signal:
            raise StopIteration
        assert piece is not None
        return piece


class AsyncTextIteratorStreamer(TextStreamer):
    """Iterates over the pieces of text in a coroutine, while `generate` runs in a thread; made in the coroutine.

    Args:
        tokenizer: the model's.
        skip_prompt: whether the prompt is left out.
        timeout: seconds to wait for the next piece, before TimeoutError is raised; None waits for ever.
        **decode_kwargs: for the tokenizer's `decode`.

    Example:
        >>> streamer = AsyncTextIteratorStreamer(tokenizer)
        >>> Thread(target=model.generate, kwargs={**inputs, "streamer": streamer}).start()
        >>> async for piece in streamer: ...
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.text_queue: asyncio.Queue[str | None] = asyncio.Queue()
        self.stop_signal = None
        self.timeout = timeout
        self.loop = asyncio.get_running_loop()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Put a piece into the queue of the coroutine's loop, and after the last one the signal to stop."""
        self.loop.call_soon_threadsafe(self.text_queue.put_nowait, text)
        if stream_end:
            self.loop.call_soon_threadsafe(self.text_queue.put_nowait, self.stop_signal)

    def __aiter__(self) -> AsyncTextIteratorStreamer:
        return self

    async def __anext__(self) -> str:
        try:
            piece = await asyncio.wait_for(self.text_queue.get(), self.timeout)
        except asyncio.TimeoutError:  # another class before Python 3.11
            raise TimeoutError(f"No text came within {self.timeout} seconds.") from None
        if piece is self.stop_signal:
            raise StopAsyncIteration
        assert piece is not None
        return piece
