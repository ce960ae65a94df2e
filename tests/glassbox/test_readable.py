"""Readable tokens: what a person reads in the place of a vocabulary's own writing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassformer import AutoTokenizer
from glassformer.glassbox import plot


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["She", "Ġhad", "Ċ", "ĊĊ", "<|endoftext|>"], ["She", "·had", "↵", "↵↵", "<|endoftext|>"]),
        (["Ġcaf", "Ã©", "Ã", "©"], ["·caf", "é", "\\xc3", "\\xa9"]),
        (["▁der", "▁", "s", "</s>", "<0x0A>", "<0xE2>"], ["·der", "·", "s", "</s>", "↵", "\\xe2"]),
        (["[CLS]", "play", "##ing", "##", "Ġ"], ["[CLS]", "play", "-ing", "##", "Ġ"]),
        (["##", "Ġtitle"], ["##", "·title"]),
        (["é", "Ã©"], ["é", "é"]),
        (
            ["", "\t", "\u200b", "\u0301", "\ud800", "\x00", None, 7],
            *[[*"∅⇥", "\\u200b", "◌\u0301", "\\ud800", "\\x00", "∅", "7"]],
        ),
    ],
)
def test_readable(tokens, expected) -> None:
    """Each vocabulary's way to write is turned into what a person reads."""
    assert plot.readable(tokens) == expected


@given(st.lists(st.text(st.characters(exclude_categories=())), max_size=4))
def test_readable_takes_any_string(tokens) -> None:
    """It never raises, keeps the number of tokens, and lets nothing unseen through."""
    found = plot.readable(tokens)
    assert len(found) == len(tokens)
    assert all(text and not any(character.isspace() or character < " " for character in text) for text in found)


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-t5"])
def test_readable_tokens_are_the_text(name) -> None:
    """Put together, the readable tokens of a plain text are the text."""
    tokenizer = AutoTokenizer.from_pretrained(f"glassformer/{name}")
    text = "tuesday, 3 may 2011"
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert "".join(plot.readable(tokens)).replace("·", " ").strip() == text
