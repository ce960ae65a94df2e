"""`explain`: every name and object has a text of its own, with the concepts, calls, shapes and lines it belongs to."""

import json
from collections import defaultdict
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

import glassformer as gf
from glassformer.config import COMMON
from glassformer.errors import InputError
from glassformer.generation.config import SETTINGS
from glassformer.generation.settings import UNSUPPORTED
from glassformer.glassbox.concepts.answers import Explanation, explain
from glassformer.glassbox.concepts.glossary import CONCEPTS, SYNONYMS
from glassformer.glassbox.concepts.names import index, output_classes
from glassformer.glassbox.listen import places

from . import zoo

SOURCE = Path(gf.__file__).parent


def text(explanation: Explanation) -> str:
    """What is said of a thing, without its name."""
    return " ".join(aspect.text for aspect in explanation.aspects)


def specific(name: str, kind: str) -> str:
    """The text of a name, which must be of this kind, say something, and say where."""
    explanation = explain(name)
    assert explanation.name == name
    found = [aspect for aspect in explanation.aspects if kind in aspect.kind]
    assert found, f"{name} is no {kind}"
    for aspect in found:
        assert len(aspect.text) > 8, name
        assert aspect.source is not None or name == "AddedToken", name  # compiled: of the tokenizers library
    return text(explanation)


def names() -> dict[str, str]:
    """Every name that must be explained, with what kind of thing it is."""
    found = dict.fromkeys(gf.__all__, "")
    found.update(dict.fromkeys((f.name for kind in output_classes().values() for f in fields(kind)), "output field"))
    for kind in zoo.CLASSES:
        found.update(dict.fromkeys(getattr(gf, kind).config_class.defaults, "configuration key"))
    found.update(dict.fromkeys(COMMON, "configuration key"))
    found.update(dict.fromkeys(SETTINGS, "setting of generate"))
    found.update({name: "argument of forward" for kind in zoo.CLASSES for name in getattr(gf, kind).accepted})
    return found


def test_every_name_has_a_text_of_its_own() -> None:
    """Arguments, output fields, settings, configuration keys, public names and tensors; no two say the same."""
    said: dict[str, set[str]] = defaultdict(set)
    for name, kind in names().items():
        said[specific(name, kind)].add(name)
    for kind in zoo.CLASSES:
        for place in places(zoo.model(kind)):
            if "." in place:  # others are output fields as well
                said[specific(place, "tensor")].add(place)
    assert len(said) > 450
    assert {words: together for words, together in said.items() if len(together) > 1} == {}


def test_a_name_that_is_several_things_is_told_as_all_of_them() -> None:
    """One name, every place in which the calls know it."""
    kinds = {
        "past_key_values": {"argument of forward", "output field"},
        "use_cache": {"argument of forward", "setting of generate", "configuration key"},
        "logits": {"output field", "tensor"},
        "eos_token_id": {"setting of generate", "configuration key"},
        "max_length": {"setting of generate", "argument of a call"},
    }
    for name, expected in kinds.items():
        assert expected <= {aspect.kind for aspect in explain(name).aspects}, name


def test_settings_name_what_does_their_work() -> None:
    """As the builder of processors and criteria says; and those that are refused say so."""
    for name, made in (
        ("top_k", "TopKLogitsWarper"),
        ("min_new_tokens", "MinNewTokensLengthLogitsProcessor"),
        ("max_time", "MaxTimeCriteria"),
        ("sequence_bias", "SequenceBiasLogitsProcessor"),
    ):
        assert text(explain(name)).endswith(f"Done by {made}.")
    assert "Done by" not in text(explain("num_beams"))
    refused = {name for name in SETTINGS if "`generate` refuses it" in text(explain(name))}
    assert refused == {name for name in UNSUPPORTED if name in SETTINGS}


def test_arguments_name_the_classes_that_take_them() -> None:
    """As the signatures say."""
    for name in ("past_key_values", "token_type_ids", "decoder_input_ids", "labels", "mc_token_ids"):
        told = {kind for a in explain(name).aspects if a.kind == "argument of forward" for kind in a.takes}
        assert told == {kind for kind in zoo.CLASSES if name in getattr(gf, kind).arguments}, name


def test_fields_name_the_outputs_that_give_them() -> None:
    """As the dataclasses say."""
    for name in ("cross_attentions", "logits", "beam_indices", "pooler_output"):
        told = {kind for a in explain(name).aspects if a.kind == "output field" for kind in a.gives}
        assert told == {n for n, kind in output_classes().items() if name in {f.name for f in fields(kind)}}, name


@pytest.mark.parametrize(
    ("name", "concept"),
    [
        ("past_key_values", "KV cache"),
        ("output_attentions", "attention weights"),
        ("labels", "labels"),
        ("decoder_input_ids", "encoder-decoder LM"),
        ("decoder.layers.3.attention.weights", "attention weights"),
        ("decoder.layers.3.cross_attention.weights", "cross-attention weights"),
        ("encoder.layers.0.feedforward.inner", "feed-forward"),
        ("top_p", "sampling"),
        ("num_beams", "beam search"),
        ("num_key_value_heads", "queries, keys and values"),
        ("AutoModelForCausalLM", "decoder-only LM"),
        ("BertForSequenceClassification", "class scores"),
        ("TopPLogitsWarper", "sampling"),
        ("RepetitionPenaltyLogitsProcessor", "score processing"),
        ("StaticCache", "KV cache"),
        ("BertTokenizer", "tokenisation"),
        ("Seq2SeqLMOutput", "encoder-decoder LM"),
        ("generate", "autoregressive generation"),
        ("return_tensors", "tokenisation"),
        ("rope_parameters", "positions"),
    ],
)
def test_names_lead_to_concepts(name: str, concept: str) -> None:
    """From a call to the textbook, with formula and paper where there are any."""
    explanation = explain(name)
    assert concept in [found.name for found in explanation.concepts]
    found = next(one for one in explanation.concepts if one.name == concept)
    for shown in (found.sentence.split()[0], found.formula, found.paper):
        assert shown in str(explanation)


def test_every_concept_leads_to_its_names() -> None:
    """From the textbook to the calls; each name of a concept is known, and leads back."""
    for concept in CONCEPTS:
        for word in (concept.name, concept.name.upper(), *concept.also):
            assert concept in explain(word).concepts, word
        assert concept.names
        for name in concept.names:
            assert name in index(), f"{concept.name}: {name}"
            assert concept in explain(name).concepts, f"{concept.name}: {name}"


def test_every_pattern_of_a_concept_is_of_a_tensor_or_a_part() -> None:
    """Places in the glossary are places of a model."""
    from fnmatch import fnmatchcase

    known = {"next_sentence_logits", "mc_logits", "start_logits", "end_logits", "logits", "loss"}
    for kind in ("T5ForConditionalGeneration", "LlamaForCausalLM", "BertForMaskedLM", "BertModel"):
        model = zoo.model(kind)
        known |= {*places(model), *(path for path, _ in model.named_modules())}
    for concept in CONCEPTS:
        for pattern in concept.places:
            assert any(fnmatchcase(name, pattern) for name in known), f"{concept.name}: {pattern}"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("self attention", "self-attention"),
        ("Cross Attention", "cross-attention"),
        ("kv cache", "KV cache"),
        ("key-value caches", "key-value cache"),
        ("softmax temperature", "temperature"),
        ("Softmax-Temperature", "temperature"),
        ("LOGITS", "logits"),
        ("embeddings", "embedding"),
        ("tokenization", "tokenisation"),
        ("token type id", "token_type_ids"),
        ("input ids", "input_ids"),
        ("num-beams", "num_beams"),
        ("bertforsequenceclassification", "BertForSequenceClassification"),
        ("nucleus sampling", "top_p"),
        ("attention masks", "attention_mask"),
        ("Greedy-decoding", "greedy decoding"),
        ("queries", "queries"),
        ("causal masks", "causal mask"),
        ("model.generate(...)", "generate"),
        ("outputs.past_key_values", "past_key_values"),
        ("output_attentions=True", "output_attentions"),
        ("model.get_encoder()", "get_encoder"),
    ],
)
def test_spelling_does_not_matter(given: str, name: str) -> None:
    """Case, plurals, hyphens, other words."""
    assert explain(given).name == name
    assert str(explain(given))


def test_synonyms_are_of_names() -> None:
    """Each leads to a name that there is."""
    for word, name in SYNONYMS.items():
        assert explain(word).name == name


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("past_key_vals", "past_key_values"), ("numbeams2", "num_beams"), ("croß-attention", "cross"), ("zzz", "top_p")],
)
def test_an_unknown_name_is_an_error_with_the_nearest(given: str, nearest: str) -> None:
    """One sentence that leads on."""
    with pytest.raises(InputError, match=f"Nothing here is named '{given}'; nearest are .*{nearest}"):
        explain(given)


@pytest.mark.parametrize("thing", [3, None, {"a": 1}, len, torch, torch.zeros(2), Path("."), torch.nn.Linear(2, 2)])
def test_what_is_of_no_concern_is_an_error(thing: Any) -> None:
    """Objects of others are refused with a word on what is known."""
    with pytest.raises(InputError, match=r"explain knows|of this library|give the model that it is in"):
        explain(thing)


def test_numbers_are_those_of_the_model() -> None:
    """Shapes, values, the one class that takes or gives, and the row of the table."""
    model = zoo.model("BartForConditionalGeneration")
    weights = explain("decoder.layers.1.cross_attention.weights", model)
    assert weights.aspects[0].shape == "(B, H, T, S) = (B, 4, T, S)"
    assert explain("encoder.layers.1.attention.weights", model).aspects[0].shape == "(B, H, T, S) = (B, 3, T, S)"
    cache = explain("past_key_values", model)
    assert cache.aspects[0].takes == ("BartForConditionalGeneration",)
    assert cache.aspects[1].gives == ("Seq2SeqLMOutput",)
    assert cache.aspects[1].shape.endswith("2 · 3 × (B, 4, T, 6)")
    assert cache.rows[0].applies
    assert explain("d_model", model).aspects[0].value == "24 here, default 1024"
    logits = explain("logits", zoo.model("BertForTokenClassification")).aspects[0]
    assert logits.gives == ("TokenClassifierOutput",)
    assert logits.shape == "(B, T, labels) = (B, T, 2)"


def test_a_tensor_that_a_model_has_not_is_told_as_such() -> None:
    """The name is known, but not in this model."""
    aspect = explain("decoder.layers.3.attention.weights", zoo.model("BertModel")).aspects[0]
    assert aspect.value == "This BertModel has no such tensor."


def test_methods_and_properties() -> None:
    """Bound, unbound and by name: the same code."""
    model = zoo.model("GPT2LMHeadModel")
    for thing in (model.generate, type(model).generate, "generate"):
        explanation = explain(thing)
        assert explanation.name == "generate"
        assert explanation.aspects[0].text.startswith("Continue token ids")
        assert str(explanation.aspects[0].source).startswith("generation/generate.py:")
    assert explain(model.generate).aspects[0].of == ("GPT2LMHeadModel",)
    assert explain(model.stream).concepts[0].name == "streaming"
    assert explain(model.from_pretrained).aspects[0].kind == "method"
    assert explain(type(model).device).aspects[0].kind == "property"
    assert explain(gf.trace).aspects[0].kind == "function"
    forward = explain(model.forward)
    assert forward.aspects[0].takes[:2] == ("input_ids", "past_key_values")
    assert forward.concepts[0].name == "decoder-only LM"


def test_models_and_their_parts() -> None:
    """A model is its structure and its head; a part is where it stands in the model that is given."""
    model = zoo.model("T5ForConditionalGeneration")
    whole = explain(model)
    assert whole.name == "T5ForConditionalGeneration"
    assert "encoder of 3 layers, decoder of 2 layers" in whole.aspects[0].value
    assert whole.concepts[0].name == "encoder-decoder LM"
    projection = model.get_encoder().layers[0].attention.q_proj
    for part, name, concept in (
        (model.get_encoder(), "encoder", "encoder-only backbone"),
        (model.get_decoder().layers[1], "decoder.layers.1", "residual stream and norm"),
        (model.get_decoder().layers[1].attention, "decoder.layers.1.attention", "self-attention"),
        (model.get_decoder().layers[0].cross_attention, "decoder.layers.0.cross_attention", "cross-attention weights"),
        (
            projection,
            "encoder.layers.0.attention.q_proj",
            "queries, keys and values",
        ),
        (model.get_encoder().positions, "encoder.positions", "positions"),
        (model.get_input_embeddings(), "encoder.embedding.tokens", "embedding"),
        (model.lm_head, "lm_head", "vocabulary scores"),
    ):
        explanation = explain(part, model)
        assert explanation.name == name
        assert explanation.aspects[0].kind == "part of T5ForConditionalGeneration"
        assert f"{sum(p.numel() for p in part.parameters()):,} parameters" in explanation.aspects[0].value
        assert explanation.concepts[0].name == concept, name
    alone = explain(model.get_decoder().layers[1].attention)  # without the model
    assert (alone.name, alone.concepts[0].name) == ("Attention", "self-attention")
    places_of = explain(model.get_encoder().layers[0].feedforward, model).aspects[0].gives
    assert "encoder.layers.0.feedforward.inner" in places_of


def test_other_objects() -> None:
    """Tokenizers, caches, outputs, processors, configurations, and their classes."""
    model = zoo.model("LlamaForCausalLM")
    out = model(torch.tensor([[4, 5, 6]]), use_cache=True)
    cache = out.past_key_values
    for thing, name, concept in (
        (out, "CausalLMOutputWithPast", "decoder-only LM"),
        (type(out), "CausalLMOutputWithPast", "decoder-only LM"),
        (cache, "KVCache", "KV cache"),
        (cache.layers[0], "KVLayer", "KV cache"),
        (gf.StaticCache, "StaticCache", "KV cache"),
        (gf.TopKLogitsWarper(5), "TopKLogitsWarper", "sampling"),
        (gf.LogitsProcessorList, "LogitsProcessorList", "score processing"),
        (model.generation_config, "GenerationConfig", "autoregressive generation"),
        (gf.AutoTokenizer.from_pretrained("glassformer/tiny-gpt2"), "GPT2Tokenizer", "tokenisation"),
    ):
        explanation = explain(thing, model)
        assert (explanation.name, explanation.concepts[0].name) == (name, concept)
        assert str(explanation.aspects[0].source or "").count(".py:") == 1
    assert "logits: (1, 3, 61)" in explain(out).aspects[0].value
    assert explain(cache).aspects[0].value == "KVCache(layers=2, tokens=3, rows=1)"
    assert explain(model.config).name == "LlamaConfig"
    assert explain(gf.plot).aspects[0].kind == "module"
    assert explain(model.base_model.decoder.layers, model).name == "decoder.layers"


def test_sources_are_where_the_names_are() -> None:
    """The line that an explanation names holds the name, or begins the code that computes it."""
    for name in ("past_key_values", "top_p", "num_key_value_heads", "cross_attentions", "n_head", "labels", "max_time"):
        for aspect in explain(name).aspects:
            assert aspect.source is not None
            line = (SOURCE / aspect.source.file).read_text(encoding="utf-8").splitlines()[aspect.source.line - 1]
            assert name in line or "def forward" in line, f"{name}: {aspect.source}: {line}"
    place = explain("encoder.layers.0.feedforward.inner").aspects[0].source
    assert place is not None
    assert 'announce("inner"' in (SOURCE / place.file).read_text(encoding="utf-8").splitlines()[place.line - 1]


def test_the_terminal_has_room() -> None:
    """No line is wider than 110 columns, for any name, also with a model's numbers."""
    model = zoo.model("T5ForConditionalGeneration")
    shown = [str(explain(name)) for name in names()] + [
        str(explain(name, model)) for name in ("labels", "d_kv", "loss")
    ]
    assert max(len(line) for drawing in shown for line in drawing.splitlines()) <= 110


def test_an_explanation_is_data_and_a_page() -> None:
    """JSON keeps what was found; HTML is escaped."""
    explanation = explain("past_key_values", zoo.model("GPT2LMHeadModel"))
    data = json.loads(json.dumps(explanation.to_dict()))
    assert [aspect["kind"] for aspect in data["aspects"]] == [aspect.kind for aspect in explanation.aspects]
    assert data["rows"][0]["call"] == "model(**inputs, use_cache=True).past_key_values"
    model = zoo.odd(0)
    model.config.my_key = "<script>alert(1)</script>"
    page = explain("my_key", model)._repr_html_()
    assert "<script" not in page
    config = explain(model.config)
    assert "<script" not in config._repr_html_()
