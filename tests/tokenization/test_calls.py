"""The call's own rules: what a BatchEncoding is, what is refused, what is warned of, and random text as a whole."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Mapping

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import glassformer.tokenization as tokenization
from glassformer.errors import GlassformerError, InputError, TokenizerError
from glassformer.tokenization import AutoTokenizer, BatchEncoding, GPT2Tokenizer, T5Tokenizer

from .test_parity import assert_same, both

FAMILIES = ["bert", "gpt2", "bart", "t5", "llama", "llama-legacy", "generic"]


@pytest.fixture(scope="module")
def pairs(folders):
    return {name: both(folders[name]) for name in FAMILIES}


@pytest.fixture
def bert(folders):
    return AutoTokenizer.from_pretrained(folders["bert"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(max_size=60) | st.text(alphabet="aé ▁<s>/[MASK]\n\u200d\u0301日👍🏽ﬁİ", max_size=40),
    other=st.text(max_size=20),
    max_length=st.integers(4, 30) | st.none(),
)
def test_any_text(pairs, text, other, max_length):
    """Ids, offsets, words and decoded text are the peer's for whatever Unicode holds."""
    options = {"return_offsets_mapping": True, "return_token_type_ids": True}
    if max_length is not None:
        options |= {"max_length": max_length, "truncation": True}
    for ours, theirs in pairs.values():
        a, b = ours(text, **options), theirs(text, **options)
        assert_same(a, b)
        assert_same(ours([text, other], **options), theirs([text, other], **options))
        assert_same(
            ours(text, other, return_special_tokens_mask=True), theirs(text, other, return_special_tokens_mask=True)
        )
        for skip in (False, True):
            assert ours.decode(a["input_ids"], skip_special_tokens=skip) == theirs.decode(
                b["input_ids"], skip_special_tokens=skip
            )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_ids(pairs, data):
    """Any ids, in any order, are decoded as the peer decodes them."""
    for ours, theirs in pairs.values():
        ids = data.draw(st.lists(st.integers(0, len(theirs) + 3), max_size=30))
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)


def test_the_signatures_are_the_peers():
    """Same arguments with the same defaults, in the same order."""
    for name in ("__call__", "encode", "pad", "batch_decode", "apply_chat_template", "tokenize", "add_tokens",
                 "add_special_tokens", "get_special_tokens_mask", "convert_ids_to_tokens", "get_chat_template",
                 "encode_message_with_chat_template", "decode", "save_vocabulary"):  # fmt: skip
        mine = inspect.signature(getattr(tokenization.PreTrainedTokenizerFast, name)).parameters
        peer = inspect.signature(getattr(transformers.PreTrainedTokenizerFast, name)).parameters
        assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in peer.values()], name
    for name in ("token_to_chars", "char_to_token", "word_to_tokens", "word_ids", "to", "convert_to_tensors"):
        mine = inspect.signature(getattr(BatchEncoding, name)).parameters
        peer = inspect.signature(getattr(transformers.BatchEncoding, name)).parameters
        assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in peer.values()], name


def test_every_public_name():
    for name in tokenization.__all__:
        assert getattr(tokenization, name) is not None
    assert set(tokenization.__all__) <= set(dir(tokenization))
    with pytest.raises(AttributeError, match="AutoTokenizer"):
        _ = tokenization.Nothing


def test_a_batch_encoding_is_a_mapping_with_attributes(bert):
    batch = bert(["one text", "two"], padding=True, return_tensors="pt")
    assert isinstance(batch, Mapping)
    assert batch.input_ids is batch["input_ids"]
    assert {**batch}.keys() == batch.keys() == {"input_ids", "token_type_ids", "attention_mask"}
    assert batch[0].ids == batch.encodings[0].ids == batch["input_ids"][0].tolist()
    assert "input_ids" in batch
    assert "length" not in batch
    moved = batch.to("cpu", non_blocking=True)
    assert moved is batch
    assert batch.to(torch.device("meta"))["input_ids"].device.type == "meta"
    with pytest.raises(AttributeError, match="attention_mask"):
        _ = batch.labels
    loose = BatchEncoding({"input_ids": [[1, 2], [3, 4]]})
    assert loose[0:1] == {"input_ids": [[1, 2]]}
    with pytest.raises(KeyError, match="name or a slice"):
        _ = loose[0]
    with pytest.raises(TokenizerError, match="followed"):
        loose.tokens()
    assert not loose.is_fast
    assert loose.n_sequences is None
    assert BatchEncoding({"x": [1]}, tensor_type="np", prepend_batch_axis=True)["x"].shape == (1, 1)
    assert batch.token_to_word(0, -2) == bert(["one text", "two"], padding=True).token_to_word(0, len(batch[0].ids) - 2)


def test_a_dtype_does_not_change_ids(bert, caplog):
    batch = bert("a", return_tensors="pt")
    with caplog.at_level(logging.WARNING):
        assert batch.to(torch.float16)["input_ids"].dtype == torch.int64
    assert len(caplog.records) == 1


def test_empty_batches(bert):
    """Nothing in, nothing out, with the usual keys; the peer fails here."""
    empty = bert([])
    assert dict(empty) == {"input_ids": [], "token_type_ids": [], "attention_mask": []}
    assert bert([], return_tensors="pt")["input_ids"].dtype == torch.int64
    assert bert([], return_tensors="np")["input_ids"].shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t(), "no text"),
        (lambda t: t(5), "int"),
        (lambda t: t([1, 2]), "int"),
        (lambda t: t("a", 5), "int"),
        (lambda t: t(["a", None]), "neither a string"),
        (lambda t: t(["a", "b"], "c"), "2 texts"),
        (lambda t: t(["a", "b"], ["c"]), "but 1"),
        (lambda t: t("a", padding="longst"), "longest"),
        (lambda t: t("a", truncation="first"), "only_first"),
        (lambda t: t("a", return_tensors="tf"), "'pt'"),
        (lambda t: t("a", max_length=4, stride=9, truncation=True), "stride"),
        (lambda t: t("a b c d e f", "d", max_length=5, truncation="only_second"), "max_length"),
        (lambda t: t("a", max_length=-3, truncation=True), "other lengths"),
        (lambda t: t("a", padding=True, padding_side="top"), "left"),
        (lambda t: t("a", max_length=9, truncation=True, padding=True, pad_to_multiple_of=8), "multiple"),
        (lambda t: t(["a", "b c d"], return_tensors="pt"), "padding=True"),
        (lambda t: t.pad({"labels": [1]}), "input_ids"),
        (lambda t: t.pad({"input_ids": ["a"]}), "str"),
        (lambda t: t.pad({"input_ids": [[1], [2]], "attention_mask": [[1]]}), "number of rows"),
        (lambda t: t.pad(7), "mapping"),
        (lambda t: t.decode([-1]), "whole numbers"),
        (lambda t: t.decode("abc"), "whole numbers"),
        (lambda t: t.decode([1.5]), "whole numbers"),
        (lambda t: t.add_tokens([3]), "no token"),
        (lambda t: t.add_special_tokens({"my_token": "x"}), "no role"),
        (lambda t: t.add_special_tokens({"pad_token": 3}), "string"),
        (lambda t: t.add_special_tokens({"extra_special_tokens": "x"}), "list"),
        (lambda t: setattr(t, "pad_token", 3), "string"),
        (lambda t: setattr(t, "extra_special_tokens", 3), "list"),
        (lambda t: t.get_special_tokens_mask([1]), "already_has_special_tokens"),
        (lambda t: t("ab").word_to_chars(7), "no word"),
        (lambda t: type(t)(extra_special_tokens=3), "list"),
        (lambda t: type(t)(padding_side="top"), "left"),
    ],
)
def test_bad_input_is_one_sentence(bert, call, message):
    with pytest.raises(GlassformerError, match=message) as caught:
        call(bert)
    assert "\n" not in str(caught.value)


def test_no_padding_token(folders):
    tokenizer = AutoTokenizer.from_pretrained(folders["gpt2-old"])
    assert tokenizer.pad_token is None
    assert tokenizer.pad_token_id is None
    with pytest.raises(InputError, match=r"pad_token = tokenizer\.eos_token"):
        tokenizer(["a", "b c"], padding=True)
    tokenizer.pad_token_id = 3
    assert tokenizer.pad_token == tokenizer.convert_ids_to_tokens(3)
    assert tokenizer(["a", "b c"], padding=True)["input_ids"][0][-1] == 3


def test_warnings(bert, caplog):
    """A text too long is mentioned once, an argument without effect every time, and all else never."""
    long = "a " * 100
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")
        bert(long, truncation=True)
        bert("short", padding="max_length")
        assert not caplog.records
        bert(long)
        bert([long, long])
        assert len(caplog.records) == 1
        bert("a", pading=True)
        assert "pading" in caplog.records[-1].message
    with pytest.warns(UserWarning, match="max_length"):
        bert("a", padding=True, max_length=5)


def test_roles_and_their_ids(folders):
    """Special tokens by role, unknown attributes, and older names."""
    tokenizer = GPT2Tokenizer.from_pretrained(folders["gpt2-old"], image_token="<image>")
    assert tokenizer.image_token == "<image>"
    assert tokenizer.image_token_id == len(tokenizer) - 1
    assert tokenizer.special_tokens_map["image_token"] == "<image>"
    assert tokenizer.mask_token is None
    assert "image_token" not in GPT2Tokenizer.SPECIAL_TOKENS_ATTRIBUTES
    with pytest.raises(AttributeError, match="nothing_token"):
        _ = tokenizer.nothing_token
    tokenizer.additional_special_tokens = ["<s>"]
    assert tokenizer.extra_special_tokens == tokenizer.additional_special_tokens == ["<s>"]
    tokenizer.extra_special_tokens_ids = [5, 6]
    assert tokenizer.extra_special_tokens_ids == [5, 6]
    assert bool(tokenizer)
    assert tokenizer.convert_tokens_to_ids("quite unknown") == tokenizer.unk_token_id
    t5 = T5Tokenizer.from_pretrained(folders["t5-old"])
    assert sorted(t5.get_sentinel_tokens()) == sorted(f"<extra_id_{i}>" for i in range(100))
    assert t5.decode(t5.get_sentinel_token_ids()[:2]) == "<extra_id_0><extra_id_1>"


def test_what_stands_around_a_text_can_be_changed(folders):
    ours, theirs = both(folders["llama-old"])
    for tokenizer in (ours, theirs):
        tokenizer.add_eos_token = True
        tokenizer.add_bos_token = False
    assert_same(ours("a", "b"), theirs("a", "b"))
    for tokenizer in (ours, theirs):
        tokenizer.add_bos_token = True
        tokenizer.bos_token = None
        tokenizer.update_post_processor()
    assert ours.add_bos_token is theirs.add_bos_token is False
    assert_same(ours("a", "b"), theirs("a", "b"))


def test_masks_of_several_dimensions_are_stacked(bert):
    rows = [{"input_ids": [1, 2], "attention_mask": np.ones((1, 2, 2))} for _ in range(2)]
    assert bert.pad(rows, return_tensors="np")["attention_mask"].shape == (2, 1, 2, 2)
    rows = [{"input_ids": [1, 2], "attention_mask": torch.ones(1, 2, 2)} for _ in range(2)]
    assert bert.pad(rows, return_tensors="pt")["attention_mask"].shape == (2, 1, 2, 2)
