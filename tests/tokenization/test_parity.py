"""Every family, from new files and old, gives what the peer gives: ids, masks, offsets, overflow, text, keys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from glassformer.errors import GlassformerError
from glassformer.tokenization import AutoTokenizer

from .corpus import TEXTS

NAMES = [
    "bert", "bert-cased", "bert-settings", "bert-old", "bert-old-cased", "bert-old-bare",
    "gpt2", "gpt2-prefix", "gpt2-old", "gpt2-old-prefix", "gpt2-old-bare",
    "bart", "bart-old", "bart-old-offsets", "bart-old-bare",
    "t5", "t5-old", "t5-old-few", "t5-old-bare",
    "llama", "llama-legacy", "llama-old", "llama-old-legacy", "llama-old-noprefix", "llama-old-defaults",
    "llama-old-bare", "generic", "generic-old-unigram",
]  # fmt: skip

PAIRS = list(zip(TEXTS, reversed(TEXTS)))
OPTIONS = [
    {},
    {"add_special_tokens": False},
    {"padding": True},
    {"padding": True, "padding_side": "left", "pad_to_multiple_of": 8},
    {"padding": "max_length", "max_length": 24, "truncation": True},
    {"truncation": True, "max_length": 9},
    {"max_length": 7},
    {"truncation": "only_first", "max_length": 12},
    {"truncation": True, "max_length": 12, "stride": 3, "return_overflowing_tokens": True},
    {"return_token_type_ids": True, "return_attention_mask": False},
    {"return_token_type_ids": False, "return_length": True},
    {"return_special_tokens_mask": True, "return_offsets_mapping": True},
    {"split_special_tokens": True},
    {"truncation": True, "max_length": 8, "padding": True, "stride": 1, "return_offsets_mapping": True,
     "return_length": True, "return_special_tokens_mask": True, "return_token_type_ids": True,
     "return_overflowing_tokens": True},
]  # fmt: skip


def both(folder, **kwargs):
    ours = AutoTokenizer.from_pretrained(folder, **kwargs)
    theirs = transformers.AutoTokenizer.from_pretrained(folder, **kwargs)
    return ours, theirs


@pytest.fixture(scope="module", params=NAMES)
def pair(request, folders):
    ours, theirs = both(folders[request.param])
    if theirs.pad_token is None:
        for tokenizer in (ours, theirs):
            tokenizer.pad_token = tokenizer.eos_token
    return ours, theirs


def plain(value):
    return value.tolist() if hasattr(value, "tolist") else value


def assert_same(ours, theirs):
    assert list(ours.keys()) == list(theirs.keys())
    for key in theirs:
        assert plain(ours[key]) == plain(theirs[key]), key
    assert len(ours.encodings) == len(theirs.encodings)
    for a, b in zip(ours.encodings, theirs.encodings):
        assert (a.tokens, a.word_ids, a.sequence_ids, a.offsets) == (b.tokens, b.word_ids, b.sequence_ids, b.offsets)


def assert_same_call(ours, theirs, *args, **kwargs):
    """The same result, or an error on both sides."""
    try:
        expected = theirs(*args, **kwargs)
    except Exception:
        with pytest.raises(GlassformerError):
            ours(*args, **kwargs)
    else:
        assert_same(ours(*args, **kwargs), expected)


def test_what_it_is(pair):
    ours, theirs = pair
    for name in (
        "padding_side", "truncation_side", "model_max_length", "model_input_names", "special_tokens_map", "vocab_size",
        "all_special_tokens", "all_special_ids", "extra_special_tokens", "added_tokens_encoder", "added_tokens_decoder",
        "is_fast", "init_kwargs", "chat_template", "clean_up_tokenization_spaces", "max_len_single_sentence",
        "bos_token_id", "eos_token_id", "unk_token_id", "sep_token_id", "pad_token_id", "cls_token_id",
        "mask_token_id", "add_bos_token", "add_eos_token", "name_or_path", "pad_token_type_id", "add_prefix_space",
    ):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name
    assert type(ours).__name__ == type(theirs).__name__
    assert len(ours) == len(theirs)
    assert ours.get_vocab() == theirs.get_vocab()
    assert repr(ours) == repr(theirs)
    assert [ours.num_special_tokens_to_add(p) for p in (False, True)] == [
        theirs.num_special_tokens_to_add(p) for p in (False, True)
    ]
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_batches(pair, options):
    ours, theirs = pair
    assert_same(ours(TEXTS, **options), theirs(TEXTS, **options))


@pytest.mark.parametrize(
    "options",
    [*OPTIONS, {"truncation": "only_second", "max_length": 500}, {"truncation": "only_first", "max_length": 500}],
    ids=str,
)
def test_batches_of_pairs(pair, options):
    ours, theirs = pair
    # The overflowing parts of a pair are combined each with each: long texts would take minutes.
    pairs = [texts for texts in PAIRS if len("".join(texts)) < 60] if "stride" in str(options) else PAIRS
    first, second = (list(column) for column in zip(*pairs))
    assert_same_call(ours, theirs, first, second, **options)
    assert_same_call(ours, theirs, pairs, **options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_single(pair, options):
    ours, theirs = pair
    for text in TEXTS:
        assert_same(ours(text, **options), theirs(text, **options))
    assert_same(ours("first one", "second one", **options), theirs("first one", "second one", **options))
    assert_same(ours("first one", "", **options), theirs("first one", "", **options))


@pytest.mark.parametrize("tensors", ["pt", "np"])
def test_tensors(pair, tensors):
    ours, theirs = pair
    for call in (
        {"text": TEXTS, "padding": True},
        {"text": "one text"},
        {"text": "one text", "max_length": 4, "truncation": True, "return_overflowing_tokens": True, "padding": True},
        {"text": "", "add_special_tokens": False},
    ):
        a, b = ours(**call, return_tensors=tensors), theirs(**call, return_tensors=tensors)
        assert list(a) == list(b)
        for key in b:
            assert a[key].dtype == b[key].dtype
            assert a[key].shape == b[key].shape
            assert (a[key] == b[key]).all()


@pytest.mark.parametrize(
    "options", [{}, {"padding": True, "return_offsets_mapping": True, "max_length": 6, "truncation": True}]
)
def test_words(pair, options):
    """Lists of words, as for token classification."""
    ours, theirs = pair
    words = ["Hello", "wörld", "", "don't", "日本", "a" * 20, " spaced ", "."]
    options = {"is_split_into_words": True, **options}
    assert_same(ours(words, **options), theirs(words, **options))
    assert_same(ours([words, words[:2], ["x"]], **options), theirs([words, words[:2], ["x"]], **options))
    assert_same(ours(words, words[:3], **options), theirs(words, words[:3], **options))
    a, b = ours(words, **options), theirs(words, **options)
    for index in range(len(words)):
        assert a.word_to_tokens(index) == b.word_to_tokens(index)
    assert a.tokens() == b.tokens()


def test_back_to_text(pair):
    ours, theirs = pair
    batch = theirs(TEXTS)["input_ids"]
    for skip in (False, True):
        for clean in (None, False, True):
            options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
            assert ours.batch_decode(batch, **options) == theirs.batch_decode(batch, **options)
            assert ours.decode(batch, **options) == theirs.decode(batch, **options)
    for ids in batch:
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decode(np.array(ids, dtype=np.int64)) == theirs.decode(np.array(ids, dtype=np.int64))
        tokens = theirs.convert_ids_to_tokens(ids)
        assert ours.convert_ids_to_tokens(ids) == tokens
        assert ours.convert_ids_to_tokens(torch.tensor(ids, dtype=torch.long)) == tokens
        assert ours.convert_ids_to_tokens(ids, skip_special_tokens=True) == theirs.convert_ids_to_tokens(
            ids, skip_special_tokens=True
        )
        assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
        assert ours.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)
        assert ours.get_special_tokens_mask(ids, already_has_special_tokens=True) == theirs.get_special_tokens_mask(
            ids, already_has_special_tokens=True
        )
    assert ours.decode(5) == theirs.decode(5)
    assert ours.decode([]) == theirs.decode([])
    assert ours.convert_ids_to_tokens(10**9) is theirs.convert_ids_to_tokens(10**9) is None


def test_encode_and_tokenize(pair):
    ours, theirs = pair
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.encode(text, "pair", max_length=9, padding="max_length", truncation=True) == theirs.encode(
            text, "pair", max_length=9, padding="max_length", truncation=True
        )
        assert ours.tokenize(text) == theirs.tokenize(text)
        assert ours.tokenize(text, pair="b", add_special_tokens=True) == theirs.tokenize(
            text, pair="b", add_special_tokens=True
        )


def test_targets(pair):
    ours, theirs = pair
    call = {"text": TEXTS[:3], "text_target": TEXTS[3:6], "max_length": 9, "max_target_length": 5, "truncation": True}
    assert_same(ours(**call), theirs(**call))
    assert_same(ours(text_target="only labels"), theirs(text_target="only labels"))


def test_pad(pair):
    ours, theirs = pair
    rows = theirs(TEXTS[:6], return_special_tokens_mask=True)
    listed = [{key: value[i] for key, value in rows.items()} for i in range(6)]
    for given in (dict(rows), listed, listed[0]):
        for options in (
            {},
            {"padding": "max_length", "max_length": 70},
            {"padding_side": "left", "pad_to_multiple_of": 16},
            {"padding": False},
            {"return_attention_mask": False},
            {"return_tensors": "np"},
        ):
            if options.get("padding") is False and given is not listed[0]:
                options = {"padding": False}
            a = ours.pad(copied(given), **options)
            b = theirs.pad(copied(given), **options)
            assert list(a) == list(b)
            for key in b:
                assert plain(a[key]) == plain(b[key]), key
    arrays = [{"input_ids": torch.tensor(row["input_ids"], dtype=torch.long)} for row in listed]
    a, b = ours.pad(arrays), theirs.pad(arrays)
    assert torch.equal(a["input_ids"], b["input_ids"])
    assert torch.equal(a["attention_mask"], b["attention_mask"])


def copied(value):
    return [dict(row) for row in value] if isinstance(value, list) else dict(value)


def test_characters_and_tokens(pair):
    """The way from characters to words to tokens and back, in pairs too."""
    ours, theirs = pair
    text, other = "Hello wörld 日本 don't", "A second one."
    for call in ({"text": text}, {"text": text, "text_pair": other}, {"text": [text, other]}):
        a, b = ours(**call), theirs(**call)
        for row in range(len(b.encodings)):
            for index in range(len(b.encodings[row].ids)):
                assert a.token_to_chars(row, index) == b.token_to_chars(row, index)
                assert a.token_to_word(row, index) == b.token_to_word(row, index)
                assert a.token_to_sequence(row, index) == b.token_to_sequence(row, index)
            assert a.word_ids(row) == b.word_ids(row)
            assert a.sequence_ids(row) == b.sequence_ids(row)
        for index in range(len(text)):
            assert a.char_to_token(index) == b.char_to_token(index)
            assert a.char_to_word(index) == b.char_to_word(index)
        for index in {word for word in b.word_ids() if word is not None}:
            assert a.word_to_chars(index) == b.word_to_chars(index)
        assert a.n_sequences == b.n_sequences


def test_growing(folders):
    """Tokens added afterwards, with every way to take spaces along."""
    from tokenizers import AddedToken

    for name in ("bert", "gpt2", "bart-old", "t5-old", "llama-old"):
        ours, theirs = both(folders[name])
        for tokenizer in (ours, theirs):
            assert tokenizer.add_tokens(["newword", "Größe", AddedToken("<l>", lstrip=True, normalized=False)]) == 3
            assert tokenizer.add_tokens([AddedToken("<r>", rstrip=True), AddedToken("One", single_word=True)]) == 2
            assert tokenizer.add_tokens("newword") == 0
            assert tokenizer.add_special_tokens({"cls_token": "<CLS>", "extra_special_tokens": ["<e1>", "<e2>"]}) == 3
            assert (
                tokenizer.add_special_tokens({"extra_special_tokens": ["<e3>"]}, replace_extra_special_tokens=False)
                == 1
            )
            tokenizer.pad_token = "<e1>"
            tokenizer.padding_side = tokenizer.truncation_side = "left"
        texts = ["a newword here Größe grösse", "x  <l>  y <r>  z", "One Oneness <e1> <e3> <CLS> <l><r>"]
        assert_same(ours(texts, padding=True), theirs(texts, padding=True))
        assert_same(ours(texts, max_length=6, truncation=True), theirs(texts, max_length=6, truncation=True))
        assert ours.special_tokens_map == theirs.special_tokens_map
        assert ours.extra_special_tokens == theirs.extra_special_tokens == ["<e1>", "<e2>", "<e3>"]
        ids = theirs(texts)["input_ids"]
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
        ours.mask_token_id = theirs.mask_token_id = 7
        assert ours.mask_token == theirs.mask_token
        assert len(ours) == len(theirs)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bert", {"do_lower_case": False, "cls_token": "[X]", "model_max_length": 5, "padding_side": "left"}),
        ("bert-old", {"strip_accents": True, "unk_token": "[MASK]", "extra_special_tokens": ["<a>", "<b>"]}),
        ("bert-old", {"additional_special_tokens": ["<a>"], "image_token": "<img>"}),
        ("gpt2", {"add_prefix_space": True, "add_bos_token": True, "pad_token": "<pad>"}),
        ("gpt2-old", {"bos_token": "<s>", "add_bos_token": True, "add_eos_token": True}),
        ("bart-old", {"add_prefix_space": True, "trim_offsets": False, "mask_token": "[M]"}),
        ("t5-old", {"extra_ids": 3, "eos_token": "</s>"}),
        ("t5", {"model_input_names": ["input_ids", "token_type_ids"]}),
        ("llama", {"add_eos_token": True, "add_bos_token": False, "legacy": True}),
        ("llama-old", {"add_prefix_space": False, "use_fast": False, "split_special_tokens": True}),
        ("generic", {"clean_up_tokenization_spaces": False, "truncation_side": "left", "add_bos_token": True}),
        ("generic", {"extra_special_tokens": {"boi_token": "<boi>", "eoi_token": "<eoi>"}}),
    ],
)
def test_arguments_override_files(folders, name, options):
    ours, theirs = both(folders[name], **options)
    assert type(ours).__name__ == type(theirs).__name__
    assert repr(ours) == repr(theirs)
    assert ours.init_kwargs == theirs.init_kwargs
    assert_same(ours(TEXTS, return_offsets_mapping=True), theirs(TEXTS, return_offsets_mapping=True))
    for role in ("image_token", "boi_token"):
        if role in str(options):
            assert getattr(ours, role) == getattr(theirs, role)
            assert getattr(ours, role + "_id") == getattr(theirs, role + "_id")
