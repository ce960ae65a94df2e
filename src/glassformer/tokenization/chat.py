"""Chats as input: a list of messages becomes text by the checkpoint's template, and the text becomes ids."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from glassformer.errors import InputError, TokenizerError
from glassformer.tokenization import templates
from glassformer.tokenization.calling import Caller
from glassformer.tokenization.options import PaddingStrategy, TensorType
from glassformer.tokenization.toolschema import tool_schemas

logger = logging.getLogger(__name__)

# Private characters around a control token that a user wrote, so that it is told from those that the template writes.
OPEN, CLOSE = "\U000f0000", "\U000f0001"


class ChatTemplates(Caller):
    """A tokenizer that reads chats."""

    chat_template: str | dict[str, str] | None
    chat_control_tokens: list[str] | None

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        tools: list[dict[str, Any] | Callable[..., Any]] | None = None,
        documents: list[dict[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        sanitize_control_tokens: bool = False,
        padding: bool | str | PaddingStrategy = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | TensorType | None = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Turn a chat, or a list of chats, into text or ids.

        Args:
            conversation: Messages, each a dictionary with `"role"` and `"content"`; or a list of such chats.
            tools: What the model may call: functions with type hints and docstrings, or JSON schemas.
            documents: What the model may read, dictionaries with `"title"` and `"text"`.
            chat_template: A template, or the name of one of the checkpoint's; its default when left out.
            add_generation_prompt: Whether the text ends where the assistant starts to write.
            continue_final_message: Whether the text ends inside the last message, so that the model goes on with it;
                a string names the message's field that ends so.
            tokenize: Whether ids are returned rather than text.
            sanitize_control_tokens: Whether control tokens in messages are read as ordinary text.
            padding: As in the call.
            truncation: As in the call.
            max_length: As in the call.
            return_tensors: As in the call.
            return_dict: Whether all of the call's keys are returned rather than the ids alone.
            return_assistant_tokens_mask: Whether `assistant_masks` tells the assistant's tokens (1), for templates
                that mark them with `{% generation %}`.
            tokenizer_kwargs: Further arguments of the tokenizer's call.
            kwargs: Further variables of the template.

        Returns:
            Text (or a list of texts), ids of shape (T,) or (B, T), or a `BatchEncoding`.

        Raises:
            InputError: The chat or the arguments are wrong.
            TokenizerError: There is no template, or it fails.

        Example:
            >>> tokenizer.apply_chat_template([{"role": "user", "content": "Hi!"}], tokenize=False)
            '<|user|>Hi!<|end|>'
        """
        if return_assistant_tokens_mask and not (tokenize and return_dict):
            raise InputError("return_assistant_tokens_mask needs tokenize=True and return_dict=True.")
        if continue_final_message and (add_generation_prompt or return_assistant_tokens_mask):
            other = "add_generation_prompt" if add_generation_prompt else "return_assistant_tokens_mask"
            raise InputError(f"continue_final_message goes on with the last message, so leave out {other}.")
        template = self.get_chat_template(chat_template, tools)
        if return_assistant_tokens_mask and not templates.has_generation(template):
            logger.warning("The chat template marks nothing by {%% generation %%}: assistant_masks are all 0.")
        if documents is not None and not all(isinstance(document, dict) for document in documents):
            raise InputError("documents are dictionaries with 'title' and 'text'.")
        chats, batched = _chats(conversation)
        inputs: dict[str, Any] = {"tools": tool_schemas(tools), "documents": documents, "kwargs": kwargs}
        if sanitize_control_tokens:
            if not tokenize or return_assistant_tokens_mask:
                raise InputError("sanitize_control_tokens needs tokenize=True, and gives no assistant_masks.")
            pattern = _any_of(self._control_tokens(template))
            chats, inputs = _marked(chats, pattern), _marked(inputs, pattern)
        rendered = [
            templates.render(
                chat,
                template,
                tools=inputs["tools"],
                documents=inputs["documents"],
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                mark_assistant=return_assistant_tokens_mask,
                variables={**self.special_tokens_map, **inputs["kwargs"]},
            )
            for chat in chats
        ]
        texts = [text for text, _ in rendered]
        if not tokenize:
            return texts if batched else texts[0]
        arguments = {
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
            "return_tensors": return_tensors,
            **(tokenizer_kwargs or {}),
        }
        if sanitize_control_tokens:
            encoded = self._encode_marked(texts, batched, **arguments)
        else:
            encoded = self(texts if batched else texts[0], add_special_tokens=False, **arguments)
        if return_assistant_tokens_mask:
            rows = encoded["input_ids"] if batched or return_tensors else [encoded["input_ids"]]
            masks = [_mask(encoded, i, len(row), rendered[i][1]) for i, row in enumerate(rows)]
            encoded["assistant_masks"] = masks if batched or return_tensors else masks[0]
            encoded.convert_to_tensors(return_tensors)
        return encoded if return_dict else encoded["input_ids"]

    def get_chat_template(self, chat_template: str | None = None, tools: list[Any] | None = None) -> str:
        """The template that a chat is rendered by.

        Args:
            chat_template: A template or the name of one; the checkpoint's own when left out.
            tools: With tools, a template named `tool_use` is preferred.

        Raises:
            TokenizerError: The checkpoint has no template, or several and no default.
        """
        own = self.chat_template
        if isinstance(own, dict):
            if chat_template is not None:
                return own.get(chat_template, chat_template)
            for name in ("tool_use", "default") if tools is not None else ("default",):
                if name in own:
                    return own[name]
            raise TokenizerError(f"There are several chat templates: pass chat_template= one of {sorted(own)}.")
        if chat_template is not None:
            return chat_template
        if own is None:
            raise TokenizerError("This tokenizer has no chat template: pass chat_template=, or set the attribute.")
        return own

    def encode_message_with_chat_template(
        self, message: dict[str, Any], conversation_history: list[dict[str, Any]] | None = None, **kwargs: Any
    ) -> list[int]:
        """The ids that a message adds to the chat before it.

        Args:
            message: The new message.
            conversation_history: The messages before.
            kwargs: Arguments of `apply_chat_template`.

        Raises:
            InputError: `add_generation_prompt` is among them.
        """
        if "add_generation_prompt" in kwargs:
            raise InputError("A message has no generation prompt: add it by apply_chat_template on the whole chat.")
        kwargs = {**kwargs, "tokenize": True, "return_dict": False}
        history = conversation_history or []
        ids: list[int] = self.apply_chat_template([*history, message], **kwargs)
        before: list[int] = self.apply_chat_template(history, **kwargs) if history else []
        # A template may write the chat before differently once a message follows: what is new starts at the first
        # difference.
        same = next((i for i, (a, b) in enumerate(zip(before, ids)) if a != b), min(len(before), len(ids)))
        return ids[same:]

    def _control_tokens(self, template: str) -> list[str]:
        added = list(self.added_tokens_decoder.values())
        if self.chat_control_tokens is not None:
            return [token.content for token in added if token.special or token.content in self.chat_control_tokens]
        text = templates.literal_text(template)
        return [
            token.content for token in added if token.special or (token.content in text and not token.content.isspace())
        ]

    def _encode_marked(self, texts: list[str], batched: bool, **arguments: Any) -> Any:
        padding, max_length = arguments.pop("padding"), arguments.pop("max_length")
        _, cut, limit = self._strategies(padding, arguments.pop("truncation"), max_length)
        rows = [self._encode_marked_text(text) for text in texts]
        if cut.value != "do_not_truncate" and limit is not None:
            rows = [row[:limit] if self.truncation_side == "right" else row[-limit:] for row in rows]
        ids: Any = rows if batched or arguments["return_tensors"] else rows[0]
        return self.pad({"input_ids": ids}, padding=padding, max_length=max_length, **arguments)

    def _encode_marked_text(self, text: str) -> list[int]:
        """Ids of a text whose marked control tokens are ordinary text."""
        pattern = re.compile(f"{OPEN}({_any_of(list(self.added_tokens_encoder)).pattern}){CLOSE}|[{OPEN}{CLOSE}]")
        # Splitting gives text, token, text, token, ..., text, with `None` for a mark that the template tore off.
        pieces = pattern.split(text)
        ids: list[int] = self.encode(pieces[0], add_special_tokens=False)
        for i, piece in enumerate(pieces[1:], start=1):
            if piece:
                encode = self._encode_as_text if i % 2 else self._encode_text
                new = self._after_newline(encode, piece)
                if i % 2 and self.convert_tokens_to_ids(piece) in new:
                    raise TokenizerError(f"{piece!r} cannot be written as ordinary text: take it out of the chat.")
                ids += new
        return ids

    def _after_newline(self, encode: Callable[[str], list[int]], piece: str) -> list[int]:
        """Ids of a piece inside a text: behind a newline, no space is put in front of it."""
        newline = self._encode_text("\n")
        ids = encode("\n" + piece)
        return ids[len(newline) :] if ids[: len(newline)] == newline else encode(piece)

    def _encode_text(self, text: str) -> list[int]:
        return list(self.encode(text, add_special_tokens=False))

    def _encode_as_text(self, text: str) -> list[int]:
        """Ids by the model alone, blind to added tokens."""
        backend = self._tokenizer
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        words = [text]
        if backend.pre_tokenizer is not None:
            words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        return [token.id for word in words for token in backend.model.tokenize(word)]


def _chats(conversation: Sequence[Any]) -> tuple[list[list[Any]], bool]:
    """The chats, without what is `None` in their messages, and whether there were several."""
    if not isinstance(conversation, (list, tuple)) and not hasattr(conversation, "messages"):
        raise InputError(f"A chat is a list of messages, not a {type(conversation).__name__}.")
    if isinstance(conversation, (list, tuple)) and not conversation:
        raise InputError("The chat is empty: pass at least one message.")
    first = conversation[0] if isinstance(conversation, (list, tuple)) else None
    batched = isinstance(first, (list, tuple)) or hasattr(first, "messages")
    chats = [getattr(chat, "messages", chat) for chat in (conversation if batched else [conversation])]
    return [[_without_none(message) for message in chat] for chat in chats], batched


def _without_none(message: Any) -> dict[str, Any]:
    message = templates.plain(message)
    if not isinstance(message, dict):
        raise InputError(f"A chat message is a dictionary with 'role' and 'content', not {message!r}.")
    return {key: value for key, value in message.items() if value is not None}


def _mask(encoded: Any, row: int, length: int, spans: list[tuple[int, int]]) -> list[int]:
    mask = [0] * length
    for start, end in spans:
        first, last = encoded.char_to_token(row, start), encoded.char_to_token(row, end - 1)
        if first is None:  # cut off
            break
        for index in range(first, last + 1 if last else length):
            mask[index] = 1
    return mask


def _any_of(tokens: list[str]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _marked(value: Any, pattern: re.Pattern[str]) -> Any:
    """The value with marks around every control token in its strings; marks that were there are dropped first."""
    if isinstance(value, str):
        return pattern.sub(f"{OPEN}\\g<0>{CLOSE}", value.replace(OPEN, "").replace(CLOSE, ""))
    if isinstance(value, Mapping):
        return {key: _marked(item, pattern) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_marked(item, pattern) for item in value]
    return value
