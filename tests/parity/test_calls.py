"""The calls are the peer's: signatures, positional arguments, Auto classes, configurations, a model's methods."""

import copy
import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from .compare import close, rows, same
from .zoo import (
    BY_NAME,
    CASES,
    GENERATIVE,
    HEADS,
    LOADING,
    PEER_ON_PEER,
    PLAIN,
    PLAIN_PAIRS,
    Case,
    Inputs,
    build,
    folder,
    gf,
    load,
    ours,
    peer,
)

CLASSES = [family + head for family, heads in HEADS.items() for head in heads]
VARIABLE = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
AUTO = (
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForNextSentencePrediction",
    "AutoModelForPreTraining",
    "AutoModelForQuestionAnswering",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
)


def parameters(function: Any) -> list[tuple[str, Any]]:
    """The named parameters with their defaults, in order, without self and the variable ones."""
    signature = inspect.signature(function)
    found = [(p.name, p.default) for p in signature.parameters.values() if p.kind not in VARIABLE]
    return [(name, default) for name, default in found if name != "self"]


def auto_target(auto: str, case: Case) -> str | None:
    """The class that the peer's Auto class takes for a family."""
    try:
        found = getattr(transformers, auto)._model_mapping[type(peer(case, "Model").config)]
    except KeyError:
        return None
    return (found[0] if isinstance(found, tuple) else found).__name__


@pytest.mark.parametrize("name", CLASSES)
def test_signatures_of_forward(name: str) -> None:
    """The same parameters, in the same order, with the same defaults."""
    theirs = parameters(getattr(transformers, name).forward)
    mine = parameters(getattr(gf, name).forward)
    assert mine[: len(theirs)] == theirs
    assert {name for name, _ in mine[len(theirs) :]} <= {"output_attentions", "output_hidden_states", "return_dict"}


@pytest.mark.parametrize(("case", "head"), PLAIN_PAIRS)
def test_positional_arguments(case: Case, head: str) -> None:
    """All arguments by position, as far as the signature goes."""
    arguments = Inputs(case, head).arguments()
    order = [name for name, _ in parameters(getattr(transformers, case.family + head).forward)]
    last = max(order.index(name) for name in arguments if name in order)
    positional = [arguments.get(name) for name in order[: last + 1]]
    with torch.no_grad():
        same(ours(case, head)(*positional), peer(case, head)(*positional), real=arguments)


@pytest.mark.parametrize("case", PLAIN)
def test_wrong_arguments_are_errors(case: Case) -> None:
    """Neither or both of ids and embeddings, and an argument that does not exist."""
    model = ours(case, "Model")
    ids = Inputs(case, "Model").ids(1, 4)
    embedded = model.get_input_embeddings()(ids)
    with pytest.raises(ValueError):  # noqa: PT011 any of the peer's sentences
        model()
    with pytest.raises(ValueError):  # noqa: PT011
        model(ids, inputs_embeds=embedded, **({"decoder_input_ids": ids} if case.family in ("T5", "Bart") else {}))
    if not PEER_ON_PEER:  # the peer takes any keyword without a word
        with pytest.raises((TypeError, ValueError), match="input_idz"):
            model(input_idz=ids)


@pytest.mark.parametrize("auto", AUTO)
@pytest.mark.parametrize("case", PLAIN)
def test_auto_classes(auto: str, case: Case) -> None:
    """Each takes the peer's class for each family, from a folder and from a configuration, or says which to call."""
    target = auto_target(auto, case)
    source = folder(case, "Model")
    if target is None:
        with pytest.raises(ValueError, match=case.family if PEER_ON_PEER else "AutoModel"):
            getattr(gf, auto).from_pretrained(source)
        return
    assert type(getattr(gf, auto).from_pretrained(source)).__name__ == target
    config = gf.AutoConfig.from_pretrained(source)
    assert type(config).__name__ == f"{case.family}Config"
    model = getattr(gf, auto).from_config(config)
    assert type(model).__name__ == target


@pytest.mark.parametrize("case", PLAIN)
def test_from_config_in_half_precision(case: Case) -> None:
    config = gf.AutoConfig.from_pretrained(folder(case, "Model"))
    model = gf.AutoModel.from_config(config, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.training == transformers.AutoModel.from_config(peer(case, "Model").config).training


# The configuration


def plain(config: Any) -> dict[str, Any]:
    keys = config.to_dict()
    return {k: v for k, v in keys.items() if k not in ("transformers_version", "_name_or_path", "glassformer_version")}


@pytest.mark.parametrize("case", CASES)
def test_configurations(case: Case, tmp_path: Path) -> None:
    """Made from keywords, a configuration has the peer's keys, values, JSON and file, and reads its own file back."""
    mine = getattr(gf, f"{case.family}Config")(**case.keys())
    theirs = getattr(transformers, f"{case.family}Config")(**case.keys())
    assert plain(mine) == plain(theirs)
    assert list(plain(mine)) == list(plain(theirs)) or set(plain(mine)) == set(plain(theirs))
    texts = [json.loads(config.to_json_string()) for config in (mine, theirs)]
    for text in texts:
        text.pop("transformers_version", None)
        text.pop("glassformer_version", None)
    assert texts[0] == texts[1]
    mine.save_pretrained(tmp_path)
    assert plain(type(mine).from_pretrained(tmp_path)) == plain(theirs)
    assert plain(transformers.AutoConfig.from_pretrained(tmp_path)) == plain(theirs)
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "num_labels", "id2label"):
        assert getattr(mine, key) == getattr(theirs, key), key
    for alias, key in theirs.attribute_map.items():
        assert getattr(mine, alias) == getattr(mine, key) == getattr(theirs, key)


@pytest.mark.parametrize("case", PLAIN)
def test_setting_configuration_keys(case: Case) -> None:
    """Aliases and labels can be set, and what follows from them follows."""
    mine = getattr(gf, f"{case.family}Config")(**case.keys())
    theirs = getattr(transformers, f"{case.family}Config")(**case.keys())
    for config in (mine, theirs):
        config.num_labels = 4
        config.id2label = {0: "a", 1: "b", 2: "c"}
        config.problem_type = "regression"
        config.my_own = {"kept": True}
        for alias in config.attribute_map if config is theirs else theirs.attribute_map:
            setattr(config, alias, 2)
    assert mine.num_labels == theirs.num_labels == 3
    assert plain(mine) == plain(theirs)
    copied = copy.deepcopy(mine)
    copied.my_own["kept"] = False
    assert mine.my_own["kept"] is True
    with pytest.raises(AttributeError, match="no_such_key"):
        _ = mine.no_such_key
    assert not hasattr(mine, "no_such_key")


@pytest.mark.parametrize("options", [
    {"num_labels": 4},
    {"id2label": {0: "NO", 1: "YES", 2: "MAYBE"}, "label2id": {"NO": 0, "YES": 1, "MAYBE": 2}},
    {"num_labels": 1, "problem_type": "regression"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("case", PLAIN)
def test_labels_as_keywords(case: Case, options: dict[str, Any], tmp_path: Path) -> None:
    """Labels given while a base model is loaded for classification: in the head, the configuration and the file."""
    head = "ForSequenceClassification"
    mine = load(case, head, folder(case, "Model"), **options)
    theirs = getattr(transformers, case.family + head).from_pretrained(folder(case, "Model"), **options)
    assert mine.config.id2label == theirs.config.id2label
    assert mine.config.label2id == theirs.config.label2id
    assert mine.config.num_labels == theirs.config.num_labels
    mine.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    keys = [json.loads((tmp_path / path / "config.json").read_text()) for path in ("ours", "theirs")]
    for key in ("id2label", "label2id", "problem_type"):
        assert keys[0].get(key) == keys[1].get(key)
    files = [load_file(tmp_path / path / "model.safetensors") for path in ("ours", "theirs")]
    assert {k: v.shape for k, v in files[0].items()} == {k: v.shape for k, v in files[1].items()}


@pytest.mark.parametrize("case", PLAIN)
def test_configuration_keys_as_keywords(case: Case) -> None:
    """Any key of the configuration overrides the file's; a configuration object stands in for the file's."""
    key = {"Bert": "hidden_dropout_prob", "GPT2": "resid_pdrop", "T5": "dropout_rate", "Bart": "dropout"}.get(
        case.family, "attention_dropout"
    )
    head = GENERATIVE[case.family]
    model = load(case, head, folder(case, head), **{key: 0.37, "use_cache": False})
    assert getattr(model.config, key) == 0.37
    assert model.config.use_cache is False
    config = gf.AutoConfig.from_pretrained(folder(case, head), **{key: 0.41})
    assert getattr(config, key) == 0.41
    model = load(case, head, folder(case, head), config=config)
    assert getattr(model.config, key) == 0.41
    config, unused = gf.AutoConfig.from_pretrained(
        folder(case, head), **{key: 0.43, "no_key": 1}, return_unused_kwargs=True
    )
    assert unused == {"no_key": 1}
    assert getattr(config, key) == 0.43
    with pytest.raises((TypeError, ValueError), match="no_such_key"):
        load(case, head, folder(case, head), no_such_key=1)


def test_outputs_set_in_the_configuration() -> None:
    """`output_hidden_states=True` while loading holds for every call, unless the call says otherwise."""
    case = BY_NAME["Llama-plain"]
    arguments = Inputs(case, "Model").arguments()
    model = load(case, "Model", folder(case, "Model"), output_hidden_states=True, output_attentions=True)
    reference = transformers.LlamaModel.from_pretrained(
        folder(case, "Model"), output_hidden_states=True, output_attentions=True, attn_implementation="eager"
    )
    with torch.no_grad():
        same(model(**arguments), reference(**arguments), real=arguments)
        same(
            model(**arguments, output_hidden_states=False, output_attentions=False),
            reference(**arguments, output_hidden_states=False, output_attentions=False),
            real=arguments,
        )


# Embeddings


@pytest.mark.parametrize(("case", "head"), PLAIN_PAIRS)
def test_embeddings_and_sizes(case: Case, head: str) -> None:
    """The embeddings are where the peer has them, and parameters are counted as the peer counts them."""
    mine, theirs = ours(case, head), peer(case, head)
    assert isinstance(mine.get_input_embeddings(), torch.nn.Embedding)
    close(mine.get_input_embeddings().weight, theirs.get_input_embeddings().weight, "input embeddings")
    assert (mine.get_output_embeddings() is None) == (theirs.get_output_embeddings() is None)
    if theirs.get_output_embeddings() is not None:
        close(mine.get_output_embeddings().weight, theirs.get_output_embeddings().weight, "output embeddings")
    for options in ({}, {"only_trainable": True}, {"exclude_embeddings": True}):
        assert mine.num_parameters(**options) == theirs.num_parameters(**options), options
    assert mine.base_model_prefix == theirs.base_model_prefix
    if type(theirs.base_model).__name__ in CLASSES and theirs.base_model is not theirs:
        assert type(mine.base_model).__name__ == type(theirs.base_model).__name__
    assert mine.device == theirs.device
    assert mine.dtype == theirs.dtype
    assert mine.main_input_name == theirs.main_input_name
    assert mine.can_generate() == theirs.can_generate()


def test_frozen_parameters_do_not_count_as_trainable() -> None:
    case, head = BY_NAME["Bert-plain"], "ForMaskedLM"
    mine, theirs = load(case, head, folder(case, head)), build(case, head)
    for model in (mine, theirs):
        model.base_model.requires_grad_(False)
    assert mine.num_parameters(only_trainable=True) == theirs.num_parameters(only_trainable=True)


RESIZED = [
    *((BY_NAME[f"{family}-plain"], head) for family, head in GENERATIVE.items()),
    *((case, "Model") for case in PLAIN),
    (BY_NAME["Bert-untied"], "ForMaskedLM"),
    (BY_NAME["GPT2-gelu-untied"], "LMHeadModel"),
    (BY_NAME["Bart-scaled-embedding"], "ForConditionalGeneration"),
    (BY_NAME["Llama-tied-gelu"], "ForCausalLM"),
    (BY_NAME["Bart-plain"], "ForCausalLM"),
    (BY_NAME["T5-plain"], "EncoderModel"),
    (BY_NAME["Bert-plain"], "ForSequenceClassification"),
]


@pytest.mark.parametrize(("case", "head"), RESIZED)
@pytest.mark.parametrize("size", [50, 70])
def test_resizing_the_vocabulary(case: Case, head: str, size: int, tmp_path: Path) -> None:
    """Smaller keeps the first rows, larger keeps them all; head, biases and tying follow, also through a file."""
    mine, theirs = load(case, head, folder(case, head)), build(case, head)
    old = theirs.config.vocab_size
    for model in (mine, theirs):
        table = model.resize_token_embeddings(size, mean_resizing=False)
        assert table is model.get_input_embeddings()
        assert table.weight.shape[0] == size == model.config.vocab_size
    kept = min(size, old)
    if theirs.get_output_embeddings() is not None:
        tied = theirs.get_output_embeddings().weight is theirs.get_input_embeddings().weight
        head_weight, embeddings = mine.get_output_embeddings().weight, mine.get_input_embeddings().weight
        assert head_weight.shape == theirs.get_output_embeddings().weight.shape
        assert (head_weight.data_ptr() == embeddings.data_ptr()) is tied
    inputs = Inputs(case, head)
    arguments = {key: value.clamp(max=kept - 1) if "ids" in key else value for key, value in inputs.arguments().items()}
    assert mine.num_parameters() == theirs.num_parameters()
    with torch.no_grad():
        a, b = mine(**arguments), theirs(**arguments)
    first = next(key for key in b if key in ("last_hidden_state", "logits"))
    real = rows(first, b[first], arguments)
    if first == "logits" and b.logits.shape[-1] == size:
        close(a.logits[..., :kept], b.logits[..., :kept], "logits of the rows that were there", real)
    else:
        close(a[first], b[first], first, real)
    assert torch.isfinite(a[first]).all()
    if PEER_ON_PEER and case.name == "untied":
        return  # the peer loses the bias of a resized untied BERT in its file
    mine.save_pretrained(tmp_path)
    with torch.no_grad():
        again = load(case, head, tmp_path)(**arguments)
        close(again[first], a[first], "after saving and loading")
        read = getattr(transformers, case.family + head).from_pretrained(tmp_path, attn_implementation="eager")
        close(a[first], read(**arguments)[first], "in the peer", real)


def test_resizing_to_a_multiple() -> None:
    case, head = BY_NAME["GPT2-plain"], "LMHeadModel"
    for model in (load(case, head, folder(case, head)), build(case, head)):
        assert model.resize_token_embeddings(62, pad_to_multiple_of=8).weight.shape[0] == 64
        assert model.resize_token_embeddings(pad_to_multiple_of=16).weight.shape[0] == 64
        assert model.resize_token_embeddings() is model.get_input_embeddings()
        assert model.config.vocab_size == 64


def test_new_rows_are_like_the_old_ones_on_average() -> None:
    """By default new rows are drawn around the mean of the old: a new token starts as likely as an average one."""
    case, head = BY_NAME["Llama-plain"], "ForCausalLM"
    for model in (load(case, head, folder(case, head)), build(case, head)):
        old = model.get_input_embeddings().weight.detach().clone()
        with torch.no_grad():
            model.get_input_embeddings().weight.add_(3.0)
        model.resize_token_embeddings(400)
        new = model.get_input_embeddings().weight.detach()[61:]
        assert (new.mean(0) - (old + 3.0).mean(0)).abs().max() < 0.3
        head_rows = model.get_output_embeddings().weight.detach()
        assert (head_rows[61:].mean(0) - head_rows[:61].mean(0)).abs().max() < 0.3


@pytest.mark.parametrize("case", PLAIN)
def test_setting_the_embeddings(case: Case) -> None:
    """`set_input_embeddings` puts another table in every place that reads it."""
    mine, theirs = load(case, "Model", folder(case, "Model")), build(case, "Model")
    table = torch.randn(*theirs.get_input_embeddings().weight.shape, generator=torch.Generator().manual_seed(2))
    for model in (mine, theirs):
        new = torch.nn.Embedding.from_pretrained(table.clone(), freeze=False)
        if case.family == "Bart":  # whose tables scale what they give
            model.get_input_embeddings().weight.data.copy_(table)
        else:
            model.set_input_embeddings(new)
            assert model.get_input_embeddings() is new
    arguments = Inputs(case, "Model").arguments()
    with torch.no_grad():
        same(mine(**arguments), theirs(**arguments), real=arguments)


@pytest.mark.parametrize("case", [case for case in PLAIN if case.family in ("T5", "Bart")])
def test_parts_of_an_encoder_decoder(case: Case) -> None:
    """`get_encoder()` runs alone."""
    head = GENERATIVE[case.family]
    arguments = Inputs(case, head).arguments()
    text = {key: arguments[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        mine, theirs = (m.get_encoder()(**text).last_hidden_state for m in (ours(case, head), peer(case, head)))
    close(mine, theirs, "encoder", rows("last_hidden_state", theirs, text))
    assert ours(case, head).get_decoder() is not None


@pytest.mark.parametrize("case", PLAIN)
def test_models_stand_on_their_own(case: Case) -> None:
    """Evaluation after loading, copies that share nothing, another precision in place."""
    head = GENERATIVE[case.family]
    model = getattr(gf, case.family + head).from_pretrained(folder(case, head), **LOADING)
    assert not model.training
    arguments = Inputs(case, head).arguments()
    with torch.no_grad():
        before = model(**arguments).logits
        twin = copy.deepcopy(model)
        for p in twin.parameters():
            p.zero_()
        close(model(**arguments).logits, before, "after the copy changed")
        assert not torch.allclose(twin(**arguments).logits, before)
        again = copy.deepcopy(model).double()
        assert again(**arguments).logits.dtype == torch.float64
        assert (again(**arguments).logits.float() - before).abs().max() < 1e-4
        assert model.to(torch.bfloat16).dtype == torch.bfloat16
        assert model(**arguments).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("case", PLAIN)
def test_state_dicts_round_trip(case: Case) -> None:
    """`state_dict` of one model goes into another of the same class."""
    head = GENERATIVE[case.family]
    model = load(case, head, folder(case, head))
    other = getattr(gf, case.family + head)(gf.AutoConfig.from_pretrained(folder(case, head))).eval()
    other.load_state_dict(model.state_dict())
    arguments = Inputs(case, head).arguments()
    with torch.no_grad():
        close(other(**arguments).logits, model(**arguments).logits, "logits")


def test_wrong_class_and_wrong_folder(tmp_path: Path) -> None:
    """The peer's kinds of error, with what was found in the message."""
    with pytest.raises(OSError, match=r"model\.safetensors" if PEER_ON_PEER else r"config\.json"):
        gf.BertModel.from_pretrained(tmp_path)
    with pytest.raises((OSError, ValueError), match=r"config\.json"):
        gf.AutoModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(ValueError, match="no-such-model"):
        gf.AutoModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((folder(BY_NAME["Bert-plain"], "Model") / "config.json").read_text())
    with pytest.raises(OSError, match=r"model\.safetensors"):
        gf.AutoModel.from_pretrained(tmp_path)


def test_attention_implementations_are_accepted() -> None:
    """Either name gives the same numbers."""
    case, head = BY_NAME["GPT2-plain"], "LMHeadModel"
    arguments = Inputs(case, head).arguments()
    with torch.no_grad():
        expected = peer(case, head)(**arguments).logits
        for implementation in ("eager", "sdpa"):
            model = gf.GPT2LMHeadModel.from_pretrained(folder(case, head), attn_implementation=implementation)
            real = arguments["attention_mask"].bool()[..., None]
            close(model(**arguments).logits, expected, implementation, where=real)


def test_outputs_are_mappings_tuples_and_attributes() -> None:
    """One output by key, by number and by name; unpacked; through torch's pytree and a pickle-free copy."""
    case, head = BY_NAME["Llama-plain"], "ForCausalLM"
    inputs = Inputs(case, head)
    with torch.no_grad():
        out = ours(case, head)(**inputs.arguments(), **inputs.labels(), output_hidden_states=True)
    assert out["loss"] is out.loss is out[0]
    assert out["logits"] is out.logits is out[1]
    assert out[:2] == (out.loss, out.logits)
    assert out.attentions is None
    assert "attentions" not in out
    assert list(out) == list(out.keys())
    assert isinstance(out.to_tuple(), tuple)
    assert len(out.to_tuple()) == len(out)
    with pytest.raises(KeyError):
        out["attentions"]
    halved = torch.utils._pytree.tree_map(
        lambda x: x.half() if isinstance(x, torch.Tensor) else x, type(out)(loss=out.loss, logits=out.logits)
    )
    assert type(halved) is type(out)
    assert halved.logits.dtype == torch.float16
    assert isinstance(out, dict)


@pytest.mark.skipif(PEER_ON_PEER, reason="the peer prints")
@pytest.mark.parametrize("case", PLAIN)
def test_ordinary_calls_are_silent(case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Loading, computing with maps and labels, and saving print and warn nothing; a head drawn anew is one warning."""
    head = GENERATIVE[case.family]
    inputs = Inputs(case, head)
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = getattr(gf, case.family + head).from_pretrained(folder(case, head))
        model(**inputs.arguments(), **inputs.labels(), output_attentions=True, output_hidden_states=True)
        model(**inputs.arguments()).logits.sum().backward()
        model.save_pretrained(tmp_path)
    assert capfd.readouterr() == ("", "")
    with pytest.warns(UserWarning, match="drawn anew") as said:
        getattr(gf, f"{case.family}ForSequenceClassification").from_pretrained(folder(case, "Model"))
    assert len(said) == 1
