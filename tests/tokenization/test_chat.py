"""Chat templates give the peer's text and ids, and cannot leave their sandbox."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Literal

import numpy as np
import pytest
import transformers
from transformers.utils import get_json_schema as peer_schema

from glassformer.errors import GlassformerError, InputError, TokenizerError
from glassformer.tokenization import get_json_schema

from .test_parity import both, plain

CHATML = (
    "{% for message in messages %}\n"
    "    {{- '<|user|>' if message.role == 'user' else '<s>' }}{{ message['role'] }}: "
    "{% if message.role == 'assistant' %}{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ message['content'] | trim }}{% endif %}\n"
    "{% endfor %}\n"
    "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{{ documents or '' }}{{ bos_token }}{{ mood }}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
TRICKS = (
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
    "{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ m.content }}{{ dict(a=1) }}{% if ns.n > 1 %}{% break %}{% endif %}"
    "{% endfor %}{{ {'ä': '<&>'} | tojson }}{{ strftime_now('%Y') }}{{ messages | length }}{{ eos_token }}"
    "{{ messages[0].get('thinking', '') }}{{ messages[-1].tool_calls is defined }}"
)
CHAT = [
    {"role": "system", "content": "  Be brief. "},
    {"role": "user", "content": "Hello there, is Größe 日本 fine?"},
    {"role": "assistant", "content": "Yes.", "tool_calls": None},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Still yes, indeed"},
]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def weather(
    city: str, days: int = 3, units: Literal["c", "f"] = "c", tags: list[str] | None = None
) -> dict[str, float]:
    """
    Tell the weather.

    It looks ahead.

    Args:
        city: Where,
            in the world: anywhere
        days: How far ahead (choices: [1, 3, 7])
        units: Which scale
        tags: What to
            look at

    Returns:
        The temperature by day
    """
    return {}


class Tools:
    def paint(self, colour: Colour, at: tuple[int, float], how: int | str | None, more: dict[str, list[bool]], x: Any):
        """Paint.

        Args:
            colour: c
            at: a
            how: h
            more: m
            x: anything
        """


@dataclasses.dataclass
class Message:
    role: str
    content: str


@pytest.fixture(params=["llama-old", "gpt2", "bert"])
def pair(request, folders):
    ours, theirs = both(folders[request.param])
    for tokenizer in (ours, theirs):
        tokenizer.chat_template = CHATML
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
    return ours, theirs


def assert_same_chat(pair, *args, **kwargs):
    ours, theirs = (tokenizer.apply_chat_template(*args, **kwargs) for tokenizer in pair)
    assert type(ours).__name__ == type(theirs).__name__
    if hasattr(theirs, "keys"):
        assert list(ours) == list(theirs)
        assert {key: plain(ours[key]) for key in ours} == {key: plain(theirs[key]) for key in theirs}
    else:
        assert plain(ours) == plain(theirs)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tokenize": False},
        {"tokenize": False, "add_generation_prompt": True, "mood": "☺"},
        {"return_dict": False, "truncation": True, "max_length": 9},
        {"return_assistant_tokens_mask": True},
        {"return_assistant_tokens_mask": True, "return_tensors": "np"},
        {"return_assistant_tokens_mask": True, "truncation": True, "max_length": 20},
        {"continue_final_message": True, "tokenize": False},
        {"tokenize": False, "tools": [weather, Tools().paint, {"type": "x", "f": 1}]},
        {"tokenize": False, "documents": [{"title": "a", "text": "b"}]},
        {"tokenize": False, "chat_template": TRICKS},
        {"sanitize_control_tokens": True},
        {"tokenizer_kwargs": {"return_offsets_mapping": True}},
    ],
    ids=lambda options: ", ".join(options) or "as it is",
)
def test_chats(pair, options):
    assert_same_chat(pair, CHAT, **options)
    if "continue_final_message" not in options:
        assert_same_chat(
            pair, [Message(**{k: v for k, v in m.items() if k != "tool_calls"}).__dict__ for m in CHAT], **options
        )
    if "return_tensors" not in options:
        assert_same_chat(pair, [CHAT, CHAT[1:3]], **options)


def test_batches_with_masks(pair):
    options = {"padding": True, "return_tensors": "np", "return_assistant_tokens_mask": True}
    assert_same_chat(pair, [CHAT, CHAT[:3]], **options)


@pytest.mark.parametrize("text", ["<|end|>", "a <s>b</s> [SEP] <|user|> \U000f0000<s>\U000f0001", "<|us<s>er|>"])
def test_control_tokens_in_messages_are_text(pair, text):
    chat = [{"role": "user", "content": text}]
    try:
        pair[1].apply_chat_template(chat, sanitize_control_tokens=True)
    except ValueError:
        with pytest.raises(TokenizerError, match="ordinary text"):
            pair[0].apply_chat_template(chat, sanitize_control_tokens=True)
        return
    assert_same_chat(pair, chat, sanitize_control_tokens=True)
    assert_same_chat(pair, chat, sanitize_control_tokens=True, max_length=5, truncation=True, return_tensors="np")


def test_continue_inside_blocks_and_reasoning(pair):
    blocks = [{"role": "assistant", "content": [{"type": "image"}, {"type": "text", "text": "Go on "}]}]
    template = "{% for m in messages %}{% for b in m.content %}{{ b.text }}{% endfor %}<end>{% endfor %}"
    assert_same_chat(pair, blocks, chat_template=template, continue_final_message=True, tokenize=False)
    thinking = [{"role": "assistant", "thinking": "Hmm", "content": "x"}]
    template = "{% for m in messages %}[{{ m.reasoning_content }}]{{ m.content }}{% endfor %}"
    assert_same_chat(pair, thinking, chat_template=template, tokenize=False)
    for field in ("thinking", "reasoning_content"):
        assert_same_chat(pair, thinking, chat_template=template, continue_final_message=field, tokenize=False)


def test_one_message_after_the_other(pair):
    ours, theirs = pair
    for end in range(1, len(CHAT)):
        assert ours.encode_message_with_chat_template(
            CHAT[end], CHAT[:end]
        ) == theirs.encode_message_with_chat_template(CHAT[end], CHAT[:end])
    assert ours.encode_message_with_chat_template(CHAT[0]) == theirs.encode_message_with_chat_template(CHAT[0])


def test_named_templates(pair):
    ours, theirs = pair
    for tokenizer in pair:
        tokenizer.chat_template = {"default": "d{{ messages }}", "tool_use": "t", "rag": "r"}
    for options in ({}, {"tools": [weather]}, {"chat_template": "rag"}, {"chat_template": "own {{ 1 + 1 }}"}):
        assert_same_chat(pair, CHAT, tokenize=False, **options)
        assert ours.get_chat_template(**options) == theirs.get_chat_template(**options)
    ours.chat_template = {"rag": "r"}
    with pytest.raises(TokenizerError, match="rag"):
        ours.apply_chat_template(CHAT)


@pytest.mark.parametrize("function", [weather, Tools().paint, Tools.paint])
def test_functions_become_schemas(function):
    assert get_json_schema(function) == peer_schema(function)


def undescribed(x: int):
    """Do."""


def unhinted(x):
    """Do.

    Args:
        x: a
    """


def unknown_type(x: np.ndarray):
    """Do.

    Args:
        x: a
    """


@pytest.mark.parametrize("function", [lambda: 0, undescribed, unhinted, unknown_type])
def test_what_is_no_tool(function):
    with pytest.raises(InputError, match="cannot be a tool"):
        get_json_schema(function)


ATTACKS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__ }}",
    "{{ (messages|attr('__class__')) }}",
    "{{ dict.__init__.__globals__ }}",
    "{{ dict.__call__.__globals__['__builtins__'] }}",
    "{{ raise_exception.__globals__['os'].system('true') }}",
    "{{ strftime_now.__code__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ namespace(__class__=1) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ tools.secret() }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ '%s' | format(messages.__class__) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ range(10**9) | list }}",
    "{{ open('/etc/passwd').read() }}",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_template_leaves_the_sandbox(folders, attack):
    """Whatever reaches for Python's insides is refused, or finds nothing."""
    ours, _ = both(folders["gpt2"])
    chat = [{"role": "user", "content": "x"}]
    try:
        text = ours.apply_chat_template(chat, chat_template=attack, tokenize=False)
    except GlassformerError:
        return
    for leak in ("<class", "<function", "module", "root:", "uid=", "object at"):
        assert leak not in text
    assert chat == [{"role": "user", "content": "x"}]


def test_templates_meet_plain_values_only(folders):
    """Objects inside a chat lose their methods on the way."""

    class Secret(str):
        def leak(self):
            return "leaked"

    ours, theirs = both(folders["gpt2"])
    chat = [
        {"role": "user", "content": Secret("hi"), "image": np.zeros(2), "n": np.int64(3), "f": object(), "t": (1, [2])}
    ]
    template = "{{ messages[0].content.leak is defined }}{{ messages }}"
    assert ours.apply_chat_template(chat, chat_template=template, tokenize=False) == theirs.apply_chat_template(
        chat, chat_template=template, tokenize=False
    )


@pytest.mark.parametrize(
    ("chat", "options", "error", "message"),
    [
        ([], {}, InputError, "empty"),
        ("hi", {}, InputError, "list of messages"),
        (["hi"], {}, InputError, "dictionary"),
        (CHAT, {"chat_template": "{% if %}"}, TokenizerError, "Jinja"),
        (CHAT, {"chat_template": "{{ raise_exception('no system') }}"}, TokenizerError, "no system"),
        (CHAT, {"chat_template": "{{ 1 / 0 }}"}, TokenizerError, "ZeroDivisionError"),
        (CHAT, {"chat_template": "{{ nothing.at.all }}"}, TokenizerError, "undefined"),
        (CHAT, {"documents": ["x"]}, InputError, "documents"),
        (CHAT, {"tools": [3]}, InputError, "tool"),
        (CHAT, {"continue_final_message": True, "add_generation_prompt": True}, InputError, "leave out"),
        (CHAT, {"continue_final_message": "nothing"}, InputError, "nothing"),
        (CHAT, {"continue_final_message": True, "chat_template": "{# content #}"}, InputError, "as it is"),
        (CHAT, {"return_assistant_tokens_mask": True, "tokenize": False}, InputError, "tokenize=True"),
        (CHAT, {"sanitize_control_tokens": True, "tokenize": False}, InputError, "tokenize=True"),
    ],
)
def test_bad_chats_are_one_sentence(folders, chat, options, error, message):
    ours, _ = both(folders["gpt2"])
    ours.chat_template = CHATML
    with pytest.raises(error, match=message) as caught:
        ours.apply_chat_template(chat, **options)
    assert "\n" not in str(caught.value)


def test_no_template_at_all(folders):
    ours, theirs = both(folders["bert"])
    with pytest.raises(ValueError, match="chat template"):
        theirs.apply_chat_template(CHAT)
    with pytest.raises(TokenizerError, match="no chat template"):
        ours.apply_chat_template(CHAT)
    assert issubclass(TokenizerError, ValueError)
    assert transformers.__version__
