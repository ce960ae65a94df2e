"""Chat templates: Jinja from a checkpoint, a stranger's program, rendered where it can only make text."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any

from glassformer.errors import InputError, TokenizerError

Message = dict[str, Any]

# The names under which chats carry a message's reasoning; templates read the first, some older ones the second.
REASONING = ("reasoning_content", "thinking", "reasoning")
CUT_HERE = "GLASSFORMER_CUT_HERE "
PLAIN: dict[type, Callable[[Any], Any]] = {str: str.__str__, int: int.__int__, float: float.__float__}


@dataclasses.dataclass
class Record:
    """A rendering that watches for what the assistant wrote."""

    text: list[str] = dataclasses.field(default_factory=list)
    spans: list[tuple[int, int]] = dataclasses.field(default_factory=list)


RECORD: ContextVar[Record | None] = ContextVar("RECORD", default=None)


@lru_cache(maxsize=64)
def compiled(template: str) -> Any:
    """The template, compiled in a sandbox.

    Raises:
        TokenizerError: It is no valid Jinja.
    """
    import jinja2
    from jinja2 import ext, nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(ext.Extension):
        """`{% generation %}` ... `{% endgeneration %}` marks what the assistant wrote."""

        tags = {"generation"}  # noqa: RUF012 - the extension protocol

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

        def mark(self, caller: Callable[[], str]) -> str:
            text = caller()
            if (record := RECORD.get()) is not None:
                start = sum(map(len, record.text))
                record.spans.append((start, start + len(text)))
            return text

    class Dict:
        """`dict` without the attributes of the class."""

        def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
            return dict(*args, **kwargs)

        def fromkeys(self, *args: Any) -> dict[Any, Any]:
            return dict.fromkeys(*args)

    class Namespace(jinja2.utils.Namespace):
        """A namespace that stores no name with an underscore in front, so none of Python's own."""

        def __init__(*args: Any, **kwargs: Any) -> None:  # a template may pass `self=`
            self, *given = args
            attributes = dict(*given, **kwargs)
            for name in attributes:
                check(name)
            jinja2.utils.Namespace.__init__(self, attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            check(name)
            super().__setitem__(name, value)

    def check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace stores no {name!r}")

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(
        raise_exception=raise_exception,
        strftime_now=lambda form: datetime.now().strftime(form),
        dict=Dict(),
        namespace=Namespace,
    )
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise TokenizerError(f"The chat template is no valid Jinja (line {error.lineno}: {error.message}).") from error


@lru_cache(maxsize=64)
def literal_text(template: str) -> str:
    """What a template writes by itself, piece by piece, with a null character between."""
    from jinja2 import nodes

    tree = compiled(template).environment.parse(template)
    pieces = {node.data for node in tree.find_all(nodes.TemplateData)}
    pieces |= {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    return "\0".join(pieces)


def render(
    chat: Sequence[Message],
    template: str,
    *,
    tools: list[Any] | None = None,
    documents: list[dict[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool | str = False,
    mark_assistant: bool = False,
    variables: dict[str, Any],
) -> tuple[str, list[tuple[int, int]]]:
    """One chat as text, and the characters that the assistant wrote if `mark_assistant`.

    Raises:
        InputError: The chat is not what the template takes.
        TokenizerError: The template is broken, raises an error itself, or tries to leave its sandbox.
    """
    import jinja2

    program = compiled(template)
    messages = [_with_reasoning(message) for message in plain(list(chat))]
    cut = _mark_the_cut(messages, template, continue_final_message) if continue_final_message else None
    context = {
        **plain(variables),
        "messages": messages,
        "tools": plain(tools),
        "documents": plain(documents),
        "add_generation_prompt": add_generation_prompt,
    }
    record = Record()
    token = RECORD.set(record if mark_assistant else None)
    try:
        # One piece after the other, because a mark counts the characters before it.
        for piece in program.generate(context):
            record.text.append(piece)
    except jinja2.exceptions.SecurityError as error:
        raise TokenizerError(f"The chat template tries what no template may do ({error}): do not use it.") from error
    except jinja2.TemplateError as error:
        raise TokenizerError(f"The chat template refuses this chat: {error}.") from error
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
        raise TokenizerError(f"The chat template fails on this chat ({type(error).__name__}: {error}).") from error
    finally:
        RECORD.reset(token)
    text = "".join(record.text)
    return (text if cut is None else _cut(text, cut)), record.spans


def plain(value: Any) -> Any:
    """A copy made of plain Python values only, so that a template meets no object with methods worth attacking."""
    if value is None or isinstance(value, bool):
        return value
    for kind, strip in PLAIN.items():
        if isinstance(value, kind):
            return strip(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (tuple if isinstance(value, tuple) else list)(map(plain, value))
    if type(value).__module__ == "numpy" and type(value).__name__ != "ndarray":
        return plain(value.item())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if callable(getattr(value, "model_dump", None)):
        return plain(value.model_dump())
    return f"<{type(value).__name__}>"


def _with_reasoning(message: Any) -> Message:
    if not isinstance(message, dict):
        raise InputError(f"A chat message is a dictionary with 'role' and 'content', not {message!r}.")
    reasoning = next((message[name] for name in REASONING if message.get(name) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _mark_the_cut(messages: list[Message], template: str, field: bool | str) -> str:
    """Put a mark behind the last message's text; returns the text."""
    field = field if isinstance(field, str) else "content"
    last = messages[-1] if messages else {}
    text = last.get(field)
    if text is None:
        raise InputError(f"continue_final_message: the last message has no {field!r} to continue.")
    fields = [name for name in REASONING if last.get(name) == text] if field in REASONING else [field]
    if not any(name in template for name in fields):
        raise InputError(f"continue_final_message: the chat template never writes {field!r}.")
    if isinstance(text, (list, tuple)):
        block = next((block for block in reversed(text) if "text" in block), None)
        if block is None:
            raise InputError("continue_final_message: the last message has no text to continue.")
        text = block["text"]
        block["text"] += CUT_HERE
    else:
        for name in fields:
            last[name] += CUT_HERE
    return str(text)


def _cut(rendered: str, text: str) -> str:
    """The rendered chat up to the mark, without the spaces that the template took away."""
    place = rendered.rfind(CUT_HERE.strip())
    if place < 0 or text.strip() not in rendered:
        raise InputError("continue_final_message: the chat template does not write the last message as it is.")
    whole = rendered.startswith(CUT_HERE, place)
    return rendered[:place] if whole else rendered[:place].rstrip()


def has_generation(template: str) -> bool:
    """Whether the template marks what the assistant wrote."""
    return re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None
