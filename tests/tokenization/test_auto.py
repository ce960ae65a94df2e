"""AutoTokenizer takes the class that the peer takes."""

from __future__ import annotations

import json
import shutil

import pytest
import transformers
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from glassformer.tokenization import AutoTokenizer
from glassformer.tokenization.auto import BY_MODEL_TYPE

from .corpus import TEXTS
from .test_parity import assert_same


def test_the_table_of_model_types():
    """Every model type is for the class that the peer's table names."""
    for model_type, cls in BY_MODEL_TYPE.items():
        name = TOKENIZER_MAPPING_NAMES[model_type]
        if name not in ("TokenizersBackend", "MistralCommonBackend"):
            assert getattr(transformers, name).__name__ == cls.__name__, model_type
        else:
            assert cls.__name__ == "TokenizersBackend", model_type


@pytest.mark.parametrize(
    ("folder", "declared", "model_type"),
    [
        ("gpt2", None, "gpt2"),
        ("gpt2", "PreTrainedTokenizerFast", "gpt2"),
        ("gpt2", "GPT2TokenizerFast", "bart"),
        ("gpt2", "GPT2Tokenizer", "gpt_neox"),
        ("gpt2", "PreTrainedTokenizer", None),
        ("gpt2", "TokenizersBackend", "llama"),
        ("gpt2", "LlamaTokenizerFast", "llama"),
        ("gpt2", "NoSuchTokenizer", "gpt2"),
        ("gpt2", "NoSuchTokenizer", None),
        ("gpt2", None, "llama"),
        ("bart", "BartTokenizer", "bart"),
        ("bart", "BartTokenizerFast", "roberta"),
        ("bart", "RobertaTokenizerFast", "bart"),
        ("bert", "BertTokenizerFast", "distilbert"),
        ("bert", "BertTokenizer", None),
        ("t5", "T5TokenizerFast", "umt5"),
        ("t5", None, "mt5"),
        ("llama", None, "llama"),
        ("llama", "LlamaTokenizer", "llama"),
        ("llama", "LlamaTokenizerFast", "olmo2"),
    ],
)
@pytest.mark.parametrize("place", ["tokenizer_config.json", "config.json"])
def test_who_decides(folders, tmp_path, folder, declared, model_type, place):
    """tokenizer_config.json, config.json and the model type, agreeing or not."""
    shutil.copytree(folders[folder], tmp_path / "t")
    tokenizer_config = json.loads((tmp_path / "t" / "tokenizer_config.json").read_text())
    tokenizer_config.pop("tokenizer_class")
    config = {} if model_type is None else {"model_type": model_type}
    if declared is not None:
        (tokenizer_config if place == "tokenizer_config.json" else config)["tokenizer_class"] = declared
    (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    (tmp_path / "t" / "config.json").write_text(json.dumps(config))
    ours = AutoTokenizer.from_pretrained(tmp_path / "t")
    if declared in ("NoSuchTokenizer", "PreTrainedTokenizer") and model_type is None and place == "config.json":
        assert type(ours).__name__ == "TokenizersBackend"  # the peer fails inside its own code
        return
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "t")
    assert type(ours).__name__ == type(theirs).__name__
    assert repr(ours) == repr(theirs)
    assert_same(ours(TEXTS, return_offsets_mapping=True), theirs(TEXTS, return_offsets_mapping=True))


def test_a_config_object(folders):
    """`config=` stands in for config.json."""
    folder = folders["bert-old-bare"]
    ours = AutoTokenizer.from_pretrained(folder, config=transformers.BertConfig())
    assert type(ours).__name__ == "BertTokenizer"
