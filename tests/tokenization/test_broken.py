"""Files from strangers: cut short, malformed, oversized or hostile, each is one sentence and runs nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from glassformer.errors import BrokenFileError, GlassformerError, MissingFileError, TokenizerError, WrongClassError
from glassformer.tokenization import (
    AutoTokenizer,
    BertTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    T5Tokenizer,
)
from glassformer.tokenization import (
    sentencepiece as reader,
)

from .conftest import write


def assert_one_sentence(call, error=GlassformerError):
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert str(caught.value)


def assert_whole_or_one_sentence(path):
    try:
        assert reader.read_model(path).pieces
    except BrokenFileError as broken:
        message = str(broken)
    else:
        message = ""
    assert "\n" not in message


@pytest.mark.parametrize("kind", ["t5-old", "llama-old"])
def test_the_protobuf_is_read_as_the_real_library_reads_it(folders, kind):
    """Pieces, scores, kinds and special ids of a SentencePiece model."""
    (path,) = folders[kind].glob("*.model")
    spm = reader.read_model(path)
    real = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert [piece.text for piece in spm.pieces] == [real.id_to_piece(i) for i in range(real.get_piece_size())]
    assert [piece.score for piece in spm.pieces] == [real.get_score(i) for i in range(real.get_piece_size())]
    for i, piece in enumerate(spm.pieces):
        assert (piece.kind == reader.CONTROL) == real.is_control(i)
        assert (piece.kind == 6) == real.is_byte(i)
    assert (spm.unk_id, spm.bos_id, spm.eos_id) == (real.unk_id(), real.bos_id(), real.eos_id())
    assert spm.byte_fallback == (kind == "llama-old")
    assert spm.algorithm == (reader.BPE if kind == "llama-old" else reader.UNIGRAM)


def test_a_cut_protobuf(folders, tmp_path):
    """Cut anywhere, a model is complete after a piece by chance, or one sentence."""
    data = (folders["t5-old"] / "spiece.model").read_bytes()
    for length in [*range(40), *range(40, len(data), 997)]:
        path = tmp_path / "spiece.model"
        path.write_bytes(data[:length])
        assert_whole_or_one_sentence(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x0a",
        b"\x0a\xff\xff\xff\xff\x0f",  # a piece of 4 GB
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length of more than ten bytes
        b"\x0b\x00",  # a group, which no such file has
        b"\x08\x01",  # a number where a piece is expected
        b"\x0a\x03\x0a\x01\xff",  # text that is no UTF-8
        b"\x0a\x02\x10\x01",  # a score that is a number
        b"\x0a\x06\x0a\x01a\x18\xff",  # a piece cut short
        b"\x0a\x03\x0a\x01a\x12\x02\x18\x07",  # an unknown algorithm
        b"\x0a\x03\x0a\x01a\x12\x03\xc0\x02\x09",  # an unknown token beyond the pieces
        b"\x0a\xec\x07\x0a\xe9\x07" + b"a" * 1001,  # a piece of absurd length
        b"not a protobuf at all, but a text",
        b'{"model": "json"}',
    ],
)
def test_broken_protobufs(tmp_path, data):
    (tmp_path / "tokenizer.model").write_bytes(data)
    assert_one_sentence(lambda: LlamaTokenizer.from_pretrained(tmp_path), BrokenFileError)
    assert_one_sentence(lambda: T5Tokenizer(str(tmp_path / "tokenizer.model")), BrokenFileError)


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=80))
def test_no_bytes_do_harm(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("m") / "tokenizer.model"
    path.write_bytes(data)
    assert_whole_or_one_sentence(path)


def test_sizes_are_checked_first(tmp_path):
    """A file of many gigabytes (of holes) is refused by its size."""
    for name, call in {
        "tokenizer.model": lambda: LlamaTokenizer.from_pretrained(tmp_path),
        "tokenizer.json": lambda: PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json")),
        "vocab.txt": lambda: BertTokenizer(str(tmp_path / "vocab.txt")),
    }.items():
        with open(tmp_path / name, "wb") as file:
            file.truncate(40 * 2**30)
        assert_one_sentence(call, BrokenFileError)
        (tmp_path / name).unlink()


MODEL = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{", "null", "{}", '{"model": 1}', '{"model": {"vocab": 3}}', "[" * 100_000,
        json.dumps({"model": {**MODEL, "vocab": {"a": "x"}}}),
        json.dumps({"model": {**MODEL, "merges": ["a"]}}),
        json.dumps({"model": {**MODEL, "merges": [["a", "zz"]]}}),
        json.dumps({"model": {**MODEL, "merges": 7}}),
        json.dumps({"model": MODEL, "post_processor": {"type": "Evil"}}),
        json.dumps({"model": MODEL, "padding": {"strategy": 1}}),
        json.dumps({"model": MODEL, "added_tokens": [{"id": "x", "content": "a"}]}),
        json.dumps({"model": MODEL, "added_tokens": [{"id": 1, "what": "a"}]}),
        json.dumps({"model": {"type": "Unigram", "vocab": [["a"]], "unk_id": 0}}),
        json.dumps({"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 9}}),
        "\ud800".encode("utf-8", "surrogatepass"),
    ],
    ids=range(19),
)  # fmt: skip
def test_broken_tokenizer_json(tmp_path, content):
    """In every class that may read it."""
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "tokenizer.json").write_bytes(data)
    for cls in (GPT2Tokenizer, PreTrainedTokenizerFast, AutoTokenizer):
        if cls is GPT2Tokenizer and b"unk_id" in data:
            continue
        assert_one_sentence(lambda cls=cls: cls.from_pretrained(tmp_path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", '{"pad_token": 3}'),
        ("tokenizer_config.json", '{"extra_special_tokens": 3}'),
        ("tokenizer_config.json", '{"model_max_length": "long"}'),
        ("tokenizer_config.json", '{"padding_side": "top"}'),
        ("tokenizer_config.json", '{"chat_template": 3}'),
        ("tokenizer_config.json", '{"chat_template": [{"name": "x"}]}'),
        ("tokenizer_config.json", '{"decode": "x"}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"a": {"content": "x"}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"1": {"what": "x"}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}'),
        ("tokenizer_config.json", '{"model_input_names": 4}'),
        ("tokenizer_config.json", '{"do_lower_case": "maybe"}'),
        ("special_tokens_map.json", '{"pad_token": {"what": 1}}'),
        ("special_tokens_map.json", "nonsense"),
        ("added_tokens.json", '{"<a>": "x"}'),
        ("vocab.txt", b"\xff\xfe"),
        ("chat_template.jinja", b"\xff\xfe"),
    ],
    ids=str,
)
def test_broken_settings(folders, tmp_path, name, content):
    shutil.copytree(folders["bert-old"], tmp_path / "t")
    (tmp_path / "t" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_one_sentence(lambda: BertTokenizer.from_pretrained(tmp_path / "t"))


def test_broken_bpe_files(folders, tmp_path):
    vocab = json.loads((folders["gpt2-old"] / "vocab.json").read_text())
    for files in (
        {"vocab_json": "[]", "merges_txt": "a b\n"},
        {"vocab_json": {"a": -1}, "merges_txt": ""},
        {"vocab_json": {"a": 2**40}, "merges_txt": ""},
        {"vocab_json": {"a": 1.5}, "merges_txt": ""},
        {"vocab_json": vocab, "merges_txt": "one two three\n"},
        {"vocab_json": vocab, "merges_txt": "neither nor\n"},
    ):
        folder = write(tmp_path / "broken", **files)
        assert_one_sentence(lambda folder=folder: GPT2Tokenizer.from_pretrained(folder), BrokenFileError)
    folder = write(tmp_path / "half", vocab_json=vocab)
    assert_one_sentence(lambda: GPT2Tokenizer.from_pretrained(folder), MissingFileError)


def test_a_broken_normalizer_fails_in_one_sentence(folders, tmp_path):
    """A SentencePiece normalizer whose table leads nowhere stops at the first text, and not the interpreter."""
    content = {
        "version": "1.0",
        "model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0},
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAGFiY2R4eXo="},
    }
    tokenizer = PreTrainedTokenizerFast.from_pretrained(write(tmp_path / "t", tokenizer_json=content))
    assert_one_sentence(lambda: tokenizer("hello"), TokenizerError)


def test_the_wrong_family(folders, tmp_path):
    """A vocabulary of another algorithm than the class runs would give wrong ids."""
    for cls, name in ((BertTokenizer, "gpt2"), (GPT2Tokenizer, "bert"), (LlamaTokenizer, "t5"), (T5Tokenizer, "llama")):
        assert_one_sentence(lambda cls=cls, name=name: cls.from_pretrained(folders[name]), WrongClassError)
    assert_one_sentence(lambda: LlamaTokenizer(str(folders["t5-old"] / "spiece.model")), WrongClassError)


def test_what_is_not_there(folders, tmp_path):
    """The message says what was looked for, what was found, and which call would work."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match=r"tokenizer\.json"):
        AutoTokenizer.from_pretrained(tmp_path / "empty")
    bare = write(tmp_path / "bare", vocab_txt="[UNK]\n")
    with pytest.raises(MissingFileError, match="BertTokenizer"):
        AutoTokenizer.from_pretrained(bare)
    with pytest.raises(MissingFileError, match="neither a folder"):
        AutoTokenizer.from_pretrained(str(tmp_path / "no" / "such" / "folder"))
    with pytest.raises(TokenizerError, match="from_pretrained"):
        AutoTokenizer()
    with pytest.raises(TokenizerError, match="choose one of"):
        AutoTokenizer.from_pretrained(bare, tokenizer_type="nothing")
    with pytest.raises(TokenizerError, match="nothing to make"):
        PreTrainedTokenizerFast()


def test_no_code_of_a_checkpoint_runs(folders, tmp_path):
    """Python beside the tokenizer stays unread, asked for or not; tokenizer.json stands in for it."""
    trap = "open('trapped', 'w').write('x')\nclass MyTokenizer: ...\n"
    config = {"tokenizer_class": "MyTokenizer", "auto_map": {"AutoTokenizer": ["tok.MyTokenizer", "tok.MyTokenizer"]}}
    only_code = write(tmp_path / "code", tok_py=trap, tokenizer_config_json=config)
    for options in ({}, {"trust_remote_code": True}):
        with pytest.raises(TokenizerError, match="Python code only"):
            AutoTokenizer.from_pretrained(only_code, **options)
    both = write(tmp_path / "both", tok_py=trap, tokenizer_config_json=config)
    shutil.copy(folders["gpt2"] / "tokenizer.json", both)
    tokenizer = AutoTokenizer.from_pretrained(both, trust_remote_code=True)
    assert tokenizer("hello")["input_ids"] == AutoTokenizer.from_pretrained(folders["gpt2"])("hello")["input_ids"]
    assert not any(path.name == "trapped" for path in tmp_path.rglob("*"))


def test_settings_cannot_name_files(folders, tmp_path):
    """Paths in tokenizer_config.json are not followed."""
    secret = tmp_path / "secret.txt"
    secret.write_text("[UNK]\nsecret\n")
    shutil.copytree(folders["bert-old"], tmp_path / "t")
    for key in ("vocab", "vocab_file", "tokenizer_file", "merges_file", "tokenizer_object"):
        config = {"tokenizer_class": "BertTokenizer", key: str(secret)}
        write(tmp_path / "t", tokenizer_config_json=config)
        assert "secret" not in AutoTokenizer.from_pretrained(tmp_path / "t").get_vocab()
    config = {"tokenizer_class": "BertTokenizer", "fast_tokenizer_files": ["../secret.txt", "tokenizer.9.0.json"]}
    write(tmp_path / "t", tokenizer_config_json=config)
    assert "secret" not in AutoTokenizer.from_pretrained(tmp_path / "t").get_vocab()


def test_links_out_of_the_folder_are_refused(folders, tmp_path):
    shutil.copytree(folders["bert-old"], tmp_path / "t")
    secret = tmp_path / "secret.jinja"
    secret.write_text("secret")
    (tmp_path / "t" / "chat_template.jinja").symlink_to(secret)
    assert_one_sentence(lambda: AutoTokenizer.from_pretrained(tmp_path / "t"), BrokenFileError)


def test_light_and_quiet(folders):
    """Loading and calling a tokenizer imports neither torch nor the hub's library nor Jinja, and prints nothing."""
    program = (
        "import sys\n"
        "from glassformer.tokenization import AutoTokenizer\n"
        "for folder in sys.argv[1:]:\n"
        "    tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        "    tokenizer.decode(tokenizer('a text', max_length=5, truncation=True)['input_ids'])\n"
        "for name in ('torch', 'huggingface_hub', 'jinja2', 'transformers', 'sentencepiece', 'google.protobuf'):\n"
        "    assert name not in sys.modules, name\n"
    )
    names = ("bert", "gpt2-old", "bart", "t5-old", "llama-old", "generic")
    done = subprocess.run(
        [sys.executable, "-c", program, *(str(folders[name]) for name in names)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


KEYS = [
    "bos_token", "pad_token", "image_token", "additional_special_tokens", "extra_special_tokens", "model_max_length",
    "model_specific_special_tokens", "padding_side", "model_input_names", "chat_template", "chat_control_tokens",
    "added_tokens_decoder", "add_bos_token", "add_prefix_space", "legacy", "do_lower_case", "extra_ids", "errors",
    "trim_offsets", "unk_id", "init_inputs", "tokenizer_class", "fast_tokenizer_files", "auto_map", "vocab", "merges",
    "tokenizer_object", "post_processor", "tokenizer_padding", "decoder", "self", "cls", "inputs", "_backend",
]  # fmt: skip
VALUES = [
    None, True, 0, -1, 10**40, 1.5, "", "x", "</s>", [], ["a"], [1], [["a"]], {}, {"a": 1}, {"1": {"content": "q"}},
    {"__type": "AddedToken"}, {"__type": "AddedToken", "content": "zz"}, [{"name": "default", "template": "t"}],
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(["bert-old", "gpt2", "bart-old", "t5-old", "llama-old", "generic"]),
    file=st.sampled_from(["tokenizer_config.json", "special_tokens_map.json"]),
    changes=st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), min_size=1, max_size=2),
)
def test_no_setting_does_harm(folders, tmp_path_factory, name, file, changes):
    """Any setting with any value: a tokenizer that works and is saved, or one sentence."""
    folder = tmp_path_factory.mktemp("t") / "t"
    shutil.copytree(folders[name], folder)
    present = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps({**present, **changes}))
    message = ""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert len(tokenizer(["hello world", "a"], ["b", "c"])["input_ids"]) == 2
        tokenizer.save_pretrained(folder / "saved")
    except GlassformerError as broken:
        message = str(broken)
    assert "\n" not in message
