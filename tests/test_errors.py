"""Bad input gets one sentence that names what was found and the way out, in a class that the peer's callers expect."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import glassformer as gf

IDS = torch.tensor([[5, 6, 7]])


def gpt2(**keys: Any) -> Any:
    sizes = {"vocab_size": 9, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 4}
    return gf.GPT2Config(**{**sizes, **keys})


CONFIGURATIONS: dict[str, tuple[str, type[Exception], list[str]]] = {
    "nothing": ("{}", ValueError, ["model_type", "bert", "llama"]),
    "unknown family": ('{"model_type": "mamba"}', ValueError, ["'mamba'", "gpt2"]),
    "no weights": ('{"model_type": "bert"}', OSError, ["model.safetensors", "config.json"]),
    "cut short": ('{"model_type": ', OSError, ["config.json", "JSON"]),
    "a list": ("[1]", OSError, ["config.json"]),
    "a word for a number": ('{"model_type": "bert", "hidden_size": "x"}', ValueError, ["hidden_size", "'x'", "number"]),
    "heads that do not divide": ('{"model_type": "bert", "hidden_size": 30}', ValueError, ["30", "12"]),
    "unknown activation": ('{"model_type": "bert", "hidden_act": "foo"}', ValueError, ["'foo'", "gelu"]),
    "a key that is not computed": (
        *('{"model_type": "bert", "position_embedding_type": "relative_key"}', ValueError),
        ["position_embedding_type", "relative_key"],
    ),
    "padding outside the vocabulary": (
        '{"model_type": "bert", "vocab_size": 9, "pad_token_id": 9}', ValueError, ["pad_token_id", "9"]
    ),
    "unknown rotary scaling": (
        '{"model_type": "llama", "rope_parameters": {"rope_type": "spiral"}}', ValueError, ["rope_parameters", "spiral"]
    ),
    "rotary scaling without its number": (
        '{"model_type": "llama", "rope_scaling": {"type": "linear"}}', ValueError, ["linear", "factor"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_folders(name: str, tmp_path: Path) -> None:
    """A folder whose config.json is wrong, or that has nothing else."""
    text, error, words = CONFIGURATIONS[name]
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(error) as raised:
        built_and_loaded(tmp_path)
    assert isinstance(raised.value, gf.GlassformerError)
    one_sentence(raised.value, words)


def built_and_loaded(folder: Path) -> None:
    with torch.device("meta"):
        gf.AutoModel.from_config(gf.AutoConfig.from_pretrained(folder))
    gf.AutoModel.from_pretrained(folder)


CALLS: dict[str, tuple[Callable[[], Any], type[Exception], list[str]]] = {
    "an Auto class without a fitting class": (
        lambda: gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-t5"),
        *(ValueError, ["AutoModelForCausalLM", "t5", "AutoModelForSeq2SeqLM"]),
    ),
    "a class of another family": (
        lambda: gf.BertModel.from_pretrained("glassformer/tiny-t5"),
        *(ValueError, ["BertModel", "'t5'", "AutoModel"]),
    ),
    "a configuration class of another family": (
        lambda: gf.BertConfig.from_pretrained("glassformer/tiny-t5"),
        *(ValueError, ["'t5'", "bert", "AutoConfig"]),
    ),
    "no such folder": (
        lambda: gf.AutoModel.from_pretrained("./nowhere/at/all"),
        *(OSError, ["nowhere/at/all", "folder"]),
    ),
    "offline and not cached": (
        lambda: gf.AutoModel.from_pretrained("acme/none", local_files_only=True),
        *(OSError, ["acme/none", "cache", "network"]),
    ),
    "unknown keyword": (
        lambda: gf.AutoModel.from_pretrained("glassformer/tiny-t5", colour="red"),
        *(ValueError, ["'colour'", "T5Config"]),
    ),
    "unknown attention": (
        lambda: gf.AutoModel.from_pretrained("glassformer/tiny-t5", attn_implementation="magic"),
        *(ValueError, ["magic", "eager"]),
    ),
    "unknown dtype": (
        lambda: gf.AutoModel.from_pretrained("glassformer/tiny-t5", dtype="float12"),
        *(ValueError, ["float12", "bfloat16"]),
    ),
    "several devices": (
        lambda: gf.AutoModel.from_pretrained("glassformer/tiny-t5", device_map={"a": "cpu", "b": "cuda"}),
        *(ValueError, ["device_map"]),
    ),
    "other sizes": (
        lambda: gf.AutoModel.from_pretrained("glassformer/tiny-t5", d_ff=48),
        *(RuntimeError, ["48", "ignore_mismatched_sizes"]),
    ),
    "an Auto class made": (gf.AutoModel, ValueError, ["AutoModel.from_pretrained"]),
    "a configuration of another family": (
        lambda: gf.BertForMaskedLM(gpt2()),
        *(ValueError, ["BertConfig", "GPT2Config", "from_pretrained"]),
    ),
    "no input": (lambda: gf.GPT2Model(gpt2())(), ValueError, ["input_ids", "inputs_embeds"]),
    "two inputs": (
        lambda: gf.GPT2Model(gpt2())(IDS, inputs_embeds=torch.zeros(1, 3, 8)),
        *(ValueError, ["input_ids", "inputs_embeds"]),
    ),
    "an unknown argument": (
        lambda: gf.GPT2Model(gpt2())(IDS, colour=1),
        *(ValueError, ["GPT2Model", "'colour'", "attention_mask"]),
    ),
    "an argument given twice": (lambda: gf.GPT2Model(gpt2())(IDS, input_ids=IDS), ValueError, ["input_ids", "twice"]),
    "too many arguments": (lambda: gf.GPT2Model(gpt2())(*[None] * 10), ValueError, ["9", "10"]),
    "a mask of another length": (
        lambda: gf.GPT2Model(gpt2())(IDS, attention_mask=torch.ones(1, 5)),
        *(ValueError, ["attention_mask", "(1, 5)", "3"]),
    ),
    "ids of one dimension": (lambda: gf.GPT2Model(gpt2())(IDS[0]), ValueError, ["(3,)", "(batch, tokens)"]),
    "an id outside the vocabulary": (lambda: gf.GPT2Model(gpt2())(IDS + 2), IndexError, ["7 to 9", "9 rows"]),
    "a text that is too long": (
        lambda: gf.GPT2Model(gpt2())(torch.ones(1, 5, dtype=torch.long)),
        *(ValueError, ["5 tokens", "4 positions"]),
    ),
    "something else as a cache": (
        lambda: gf.GPT2Model(gpt2())(IDS, past_key_values=3),
        *(ValueError, ["past_key_values", "int"]),
    ),
    "an encoder's output without cross-attention": (
        lambda: gf.GPT2Model(gpt2())(IDS, encoder_hidden_states=torch.zeros(1, 2, 8)),
        *(ValueError, ["cross-attention", "add_cross_attention"]),
    ),
    "several texts and no padding": (
        lambda: gf.GPT2ForSequenceClassification(gpt2())(IDS.repeat(2, 1)),
        *(ValueError, ["pad_token_id"]),
    ),
    "an answer of three labels": (
        lambda: gf.AutoModelForQuestionAnswering.from_pretrained("glassformer/tiny-bert", num_labels=3)(IDS),
        *(ValueError, ["num_labels", "3", "2"]),
    ),
    "a decoder without input": (
        lambda: gf.AutoModelForSeq2SeqLM.from_pretrained("glassformer/tiny-t5")(IDS),
        *(ValueError, ["decoder_input_ids", "labels", "generate"]),
    ),
    "a save into a file": (
        lambda: gf.GPT2Model(gpt2()).save_pretrained(__file__),
        *(ValueError, ["test_errors.py", "file"]),
    ),
    "a pickle": (
        lambda: gf.GPT2Model(gpt2()).save_pretrained("unused", safe_serialization=False),
        *(ValueError, ["safe_serialization"]),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    """A call that cannot be done."""
    call, error, words = CALLS[name]
    with pytest.raises(error) as raised:
        call()
    assert isinstance(raised.value, gf.GlassformerError)
    one_sentence(raised.value, words)


def one_sentence(error: Exception, words: list[str]) -> None:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 500
    for word in words:
        assert word in text, f"{word!r} is not in: {text}"


def test_a_known_key_that_the_family_does_not_compute() -> None:
    """No silent numbers: any key of the defaults that nobody reads must be at its default."""
    for model_type in ("bart", "bert", "gpt2", "llama", "t5"):
        from glassformer import families
        from glassformer.config import NEUTRAL, Reader

        family = families.family(model_type)
        config = gf.AutoConfig.for_model(model_type)
        reader = Reader(config)
        family.spec(reader)
        reader.refuse_unread(family.no_effect)
        unread = set(family.defaults) - reader._read - NEUTRAL - set(family.no_effect)
        assert not unread, f"{model_type} reads {unread} nowhere: say so in no_effect, or compute it"


def test_quiet(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    """An ordinary call prints nothing and warns of nothing."""
    tokenizer = gf.AutoTokenizer.from_pretrained("glassformer/tiny-t5")
    model = gf.AutoModelForSeq2SeqLM.from_pretrained("glassformer/tiny-t5")
    inputs = tokenizer(["3 May 1999", "12 de agosto de 2001"], return_tensors="pt", padding=True)
    model(**inputs, labels=inputs["input_ids"], output_attentions=True).loss.backward()
    tokenizer.batch_decode(model.generate(**inputs))
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_missing_weights_are_one_warning(tmp_path: Path) -> None:
    """A backbone loaded into a class with a head says which weights are new."""
    gf.GPT2Model(gpt2()).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"1 tensors of GPT2ForSequenceClassification .*score.weight.* train them"):
        model = gf.GPT2ForSequenceClassification.from_pretrained(tmp_path)
    assert model.classifier.linear.weight.isfinite().all()
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["GPT2Model"]
