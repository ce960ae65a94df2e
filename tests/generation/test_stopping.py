"""Stopping criteria against the peer's, and what `generate` does after a row has stopped."""

import time
from typing import Any

import pytest
import tokenizers
import torch
import transformers
import transformers.generation.stopping_criteria as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from glassformer.errors import GenerationError
from glassformer.generation import stopping

from .tiny import ALL, DECODERS, ENDS, both, ours, ragged

TEXT = ["Stop here, please. The stopper stopped at the last stop; \u00e9t\u00e9 \U0001f600 na\u00efve, stops!"] * 3


def byte_level() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def byte_fallback() -> tokenizers.Tokenizer:
    letters = sorted(set("".join(TEXT)) - {"\u00e9", "\U0001f600"} - {" "})
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *letters, "op", "\u2581st", "pp"]
    merges = [("o", "p"), ("\u2581", "s"), ("p", "p")]
    vocabulary = {piece: n for n, piece in enumerate([*pieces, "\u2581s"])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def word_piece() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator([*TEXT, "abcdef"], trainer)
    return tokenizer


TOKENIZERS = {
    make.__name__: transformers.PreTrainedTokenizerFast(tokenizer_object=make())
    for make in (byte_level, byte_fallback, word_piece)
}
STOPS = [
    ["stop"],
    ["op"],
    [" st", "please."],
    ["\u00e9"],
    ["\u00e9t\u00e9", "ver"],
    ["\U0001f600"],
    ["s, t"],
    ["p"],
    ["ppers!"],
]


@pytest.mark.parametrize("strings", STOPS, ids=map(str, STOPS))
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_stop_strings_equal_the_peer(kind: str, strings: list[str]) -> None:
    """On every beginning of a text, and on random tokens, a stop string is seen where the peer sees it."""
    tokenizer = TOKENIZERS[kind]
    other = theirs.StopStringCriteria(tokenizer, strings)
    own = stopping.StopStringCriteria(tokenizer, strings)
    ids = torch.tensor(tokenizer(TEXT[0], add_special_tokens=False)["input_ids"])[None]
    for length in range(1, ids.shape[1] + 1):
        assert torch.equal(own(ids[:, :length], None), other(ids[:, :length], None)), tokenizer.decode(ids[0, :length])
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(1, len(tokenizer), (2000, 6), generator=generator)
    assert torch.equal(own(noise, None), other(noise, None))


def test_stop_strings_stop_somewhere() -> None:
    """The comparison above is of something: the text holds the strings, and only its ends are matches."""
    tokenizer = TOKENIZERS["byte_level"]
    ids = torch.tensor(tokenizer(TEXT[0])["input_ids"])[None]
    own = stopping.StopStringCriteria(tokenizer, "please.")
    seen = [n for n in range(1, ids.shape[1] + 1) if own(ids[:, :n], None)]
    assert len(seen) == 1
    assert tokenizer.decode(ids[0, : seen[0]]).rstrip().endswith("please.")


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text("stoper", min_size=1, max_size=4), min_size=1, max_size=6), st.text("stop", min_size=1, max_size=3)
)
def test_stop_strings_are_found_in_the_text(pieces: list[str], stop: str) -> None:
    """Whatever the pieces: stopped at the first token after which the text holds the string."""

    class Pieces:
        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [-1]}

        def convert_ids_to_tokens(self, ids: Any) -> Any:
            return ["abcdef"] if isinstance(ids, list) else pieces[ids]

        def convert_tokens_to_string(self, tokens: list[str]) -> str:
            return "".join(tokens)

    criterion = stopping.StopStringCriteria(Pieces(), stop)
    row = torch.arange(len(pieces))[None]
    seen = [bool(criterion(row[:, : n + 1], None)) for n in range(len(pieces))]
    holds = [stop in "".join(pieces[: n + 1]) for n in range(len(pieces))]
    assert [*seen, True].index(True) == [*holds, True].index(True)


def test_stop_strings_refused() -> None:
    """No string, or an empty one, would stop nothing or at once."""
    for strings in ("", [], ["a", ""]):
        with pytest.raises(GenerationError, match="stop_strings"):
            stopping.StopStringCriteria(TOKENIZERS["byte_level"], strings)


def test_simple_criteria_equal_the_peer() -> None:
    """Length and end criteria, for one end or several, over one new token or several, and their list."""
    ids = torch.tensor([[5, 6, 7], [7, 6, 5], [1, 7, 2]])
    for end in (7, [7, 2], torch.tensor([6])):
        for count in (1, 2):
            own, other = stopping.EosTokenCriteria(end), theirs.EosTokenCriteria(end)
            assert torch.equal(own(ids, None, new_token_length=count), other(ids, None, new_token_length=count))
    for length in (2, 3, 4):
        assert torch.equal(stopping.MaxLengthCriteria(length)(ids, None), theirs.MaxLengthCriteria(length)(ids, None))
    both_kinds = stopping.StoppingCriteriaList([stopping.EosTokenCriteria(5), stopping.MaxLengthCriteria(9)])
    assert both_kinds(ids, None).tolist() == [False, True, False]
    assert both_kinds.max_length == 9
    assert stopping.StoppingCriteriaList().max_length is None


def test_time() -> None:
    """Time counts from when the criterion was made, or from the time given, in seconds."""
    ids = torch.ones(2, 3)
    assert stopping.MaxTimeCriteria(5.0)(ids, None).tolist() == [False, False]
    assert stopping.MaxTimeCriteria(5.0, time.time() - 6)(ids, None).tolist() == [True, True]
    out = ours(DECODERS[1]).generate(ragged()[0], max_time=0.0, max_new_tokens=20, eos_token_id=None)
    assert out.shape[1] == 8


@pytest.mark.parametrize("ends", [ENDS, None], ids=["ends", "no ends"])
@pytest.mark.parametrize("name", [DECODERS[1], ALL[-1]])
def test_generate_with_stop_strings(name: str, ends: list[int] | None) -> None:
    """`generate` stops rows at a stop string as the peer does, with end tokens beside it and without."""
    tokenizer = TOKENIZERS["word_piece"]
    ids, mask = ragged()
    for strings in (["s", "t", "o"], ["stop", "e"]):
        found, expected = both(
            name, ids, attention_mask=mask, max_new_tokens=15, do_sample=True, eos_token_id=ends, stop_strings=strings,
            tokenizer=tokenizer,
        )  # fmt: skip
        assert torch.equal(found, expected)
        assert len(strings) < 3 or found.shape[1] < 7 + 15


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    name=st.sampled_from(ALL),
    do_sample=st.booleans(),
    new=st.integers(1, 9),
    least=st.integers(0, 9),
    words=st.lists(st.lists(st.integers(3, 60), min_size=1, max_size=2), min_size=1, max_size=12),
)
def test_invariants(seed: int, name: str, do_sample: bool, new: int, least: int, words: list[list[int]]) -> None:
    """Lengths are within bounds, nothing follows an end but padding, and forbidden words never appear."""
    ids, mask = ragged(seed=seed)
    least = min(least, new)
    ends = [end for end in ENDS if [end] not in words]
    torch.manual_seed(seed)
    out = ours(name).generate(
        ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=least, do_sample=do_sample, bad_words_ids=words,
        eos_token_id=ends,
    )  # fmt: skip
    prompt = 7 if name in DECODERS else 1
    if name in DECODERS:
        assert torch.equal(out[:, :7], ids)
    tokens = out[:, prompt:].tolist()
    lengths = [next((n for n, token in enumerate(row) if token in ends), new - 1) + 1 for row in tokens]
    assert out.shape[1] - prompt == max(lengths)
    assert all(min(least + 1, new) <= length <= new for length in lengths)
    for row, length in zip(tokens, lengths):
        assert all(token == 0 for token in row[length:])
        text = row[:length]
        for word in words:
            assert all(text[i : i + len(word)] != word for i in range(length))
