"""The table from concept to call: every row's call runs and gives what the row states, for every class of model."""

import html
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import glassformer
from glassformer.errors import InputError
from glassformer.glassbox.concepts.concepts import Concepts, concepts
from glassformer.glassbox.concepts.glossary import CONCEPTS
from glassformer.glassbox.concepts.rows import measured

from . import zoo

SOURCE = Path(glassformer.__file__).parent
# The rows that the table must have, in this order, beside others.
ASKED = [
    *("tokenisation", "token ids", "padding mask", "encoder-only backbone", "decoder-only LM", "encoder-decoder LM"),
    *("attention weights", "cross-attention weights", "hidden states", "token representations", "class scores"),
    *("training loss", "autoregressive generation", "KV cache"),
]


def check(table: Concepts) -> None:
    """Every call gives the class, the shape and the count that its row states, and changes nothing."""
    for row in table:
        if row.applies:
            assert row.gives is not None
            value = row.run()
            stated = (row.gives.what, row.gives.shape, row.gives.count)
            assert measured(value) == stated, f"{table.model}: {row.concept.name}: {row.call}"
            assert row.source is not None, row.concept.name
        else:
            assert row.missing, row.concept.name
            assert row.has, row.concept.name
            with pytest.raises(InputError, match=re.escape(row.missing)):
                row.run()


@pytest.mark.parametrize("name", zoo.CLASSES)
def test_every_call_gives_what_its_row_states(name: str) -> None:
    """All classes of all families, on made-up ids."""
    table = concepts(zoo.model(name))
    assert table.model == name
    assert [row.concept for row in table] == list(CONCEPTS)
    check(table)


@pytest.mark.parametrize("index", range(len(zoo.ODD)), ids=lambda index: f"{zoo.ODD[index][0]}-{index}")
def test_every_call_gives_what_its_row_states_with_odd_options(index: int) -> None:
    """Cross-attention without an encoder, one label, several, no padding, no end, shared keys, a gate."""
    check(concepts(zoo.odd(index)))


@pytest.mark.parametrize(("auto", "name"), zoo.BUNDLED, ids=lambda value: value)
def test_every_call_gives_what_its_row_states_on_texts(auto: str, name: str) -> None:
    """The bundled models with their tokenizers, on the example's texts and on others."""
    model = zoo.bundled(auto, name)
    check(concepts(model))
    table = concepts(
        model, texts=["Ein 'Hund'.", 'Zwei "Katzen" \\ und <b>drei</b> {Vögel}'][: 1 + ("gpt2" not in name)]
    )
    check(table)
    assert table["tokenisation"].run()[0]


@pytest.mark.parametrize("texts", ["One.", ["One."], ["One.", "Two two.", "Three three three."]])
def test_any_number_of_texts(texts: Any) -> None:
    """One text, also bare, or three; what the decoder reads has as many rows."""
    table = concepts(zoo.bundled(*zoo.BUNDLED[3]), texts=texts)
    check(table)
    assert table.sizes["B"] == (1 if isinstance(texts, str) else len(texts))


def test_settings_of_the_checkpoint_do_not_change_what_a_row_gives() -> None:
    """Beams, several sequences and outputs with names are switched off where a row is about something else."""
    model = zoo.odd(9)
    model.generation_config.update(num_beams=4, num_return_sequences=2, return_dict_in_generate=True)
    table = concepts(model)
    check(table)
    assert "num_beams=1, num_return_sequences=1, return_dict_in_generate=False" in table["streaming"].call
    assert "num_beams=1" not in table["beam search"].call


def test_the_rows_that_were_asked_for_are_there() -> None:
    """The terms of the textbook, in the reader's order."""
    names = [concept.name for concept in CONCEPTS]
    assert [name for name in names if name in ASKED] == ASKED


@pytest.mark.parametrize(
    ("name", "has", "has_not"),
    [
        (
            "BertForSequenceClassification",
            ["encoder-only backbone", "class scores", "pooling", "training loss"],
            {"decoder-only LM": "AutoModelForCausalLM (BertLMHeadModel)", "KV cache": "AutoModelForCausalLM"},
        ),
        (
            "LlamaModel",
            ["token representations", "KV cache", "causal mask"],
            {
                "decoder-only LM": "AutoModelForCausalLM (LlamaForCausalLM)",
                "class scores": "AutoModelForSequenceClassification (LlamaForSequenceClassification)",
                "encoder-only backbone": "AutoModel (BertModel)",
                "encoder-decoder LM": "AutoModelForSeq2SeqLM (BartForConditionalGeneration)",
            },
        ),
        (
            "T5ForConditionalGeneration",
            ["encoder-decoder LM", "cross-attention weights", "autoregressive generation", "streaming"],
            {"encoder-only backbone": "T5EncoderModel", "answer span": "AutoModelForQuestionAnswering (T5"},
        ),
    ],
)
def test_what_a_model_has_and_which_class_has_the_rest(name: str, has: list[str], has_not: dict[str, str]) -> None:
    """Rows that do not apply name the class that does, of the same family where there is one."""
    table = concepts(zoo.model(name))
    for concept in has:
        assert table[concept].applies, concept
    for concept, where in has_not.items():
        assert not table[concept].applies, concept
        assert table[concept].has.startswith(where)


def test_shapes_are_the_models_own() -> None:
    """Symbols and numbers, of the stack that a row is about."""
    table = concepts(zoo.model("BartForConditionalGeneration"))
    cross = table["cross-attention weights"].gives
    assert cross is not None
    assert (cross.symbols, cross.shape, cross.count) == ("(B, H, U, T)", (2, 4, 4, 6), 3)
    assert str(cross) == "tuple of Tensor, N = 3, each (B, H, U, T) = (2, 4, 4, 6)"
    keys = concepts(zoo.model("LlamaForCausalLM"))["KV cache"].gives
    assert keys is not None
    assert (keys.symbols, keys.shape) == ("(B, kv_heads, T, head_dim)", (2, 2, 6, 8))


def test_sources_are_where_the_code_is() -> None:
    """The line that a row names begins a function or a class."""
    for name in ("T5ForConditionalGeneration", "BertForMaskedLM", "GPT2DoubleHeadsModel"):
        for row in concepts(zoo.model(name)):
            if row.source is not None:
                line = (SOURCE / row.source.file).read_text(encoding="utf-8").splitlines()[row.source.line - 1]
                assert line.lstrip().startswith(("def ", "class ", "async def ")), row.source


def test_a_run_leaves_the_model_as_it_was() -> None:
    """Labels set no problem type, no listener stays, and no gradient flows."""
    model = zoo.odd(4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    keys = model.config.to_dict()
    table = concepts(model)
    loss = table["training loss"].run()
    assert not loss.requires_grad
    assert model.config.to_dict() == keys
    table["self-attention"].run()
    assert all(getattr(part, "listener", None) is None for part in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_table_needs_no_weights() -> None:
    """A model on the meta device has the same table."""
    model = zoo.model("T5ForConditionalGeneration")
    with torch.device("meta"):
        bare = type(model)(model.config)
    assert [row.to_dict() for row in concepts(bare)] == [row.to_dict() for row in concepts(model)]


@pytest.mark.parametrize("name", ["BertForMultipleChoice", "T5ForSequenceClassification", "GPT2LMHeadModel"])
def test_the_terminal_has_room(name: str) -> None:
    """No line is wider than 110 columns, and no call or setup is cut."""
    table = concepts(zoo.model(name))
    text = str(table)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 110
    for row in table:
        assert f"  >>> {row.call}" in lines or not row.applies
        assert row.concept.name in text
    for line in table.setup:
        assert f">>> {line}" in lines


def test_a_page_cannot_be_broken_by_names_or_texts() -> None:
    """What comes from a checkpoint or a prompt is escaped in HTML, and steers no terminal."""
    model = zoo.bundled(*zoo.BUNDLED[0])
    kept = model.config.name_or_path
    texts = ["<script>alert(1)</script>", "\x1b[31mred"]
    try:
        tokenizer = glassformer.AutoTokenizer.from_pretrained(kept)
        model.config.name_or_path = "<img src=x onerror=alert(1)>\x1b[2J"
        table = concepts(model, tokenizer, texts)
        page = table._repr_html_()
        assert "<script" not in page
        assert "<img" not in page
        assert html.escape("<img src=x onerror=alert(1)>") in page
        assert "\x1b" not in page + str(table)
    finally:
        model.config.name_or_path = kept


def test_the_table_is_data() -> None:
    """`to_dict` goes through JSON and keeps every row."""
    table = concepts(zoo.model("BertForQuestionAnswering"))
    data: dict[str, Any] = json.loads(json.dumps(table.to_dict()))
    assert [row["concept"] for row in data["rows"]] == [concept.name for concept in CONCEPTS]
    span = next(row for row in data["rows"] if row["concept"] == "answer span")
    assert span["gives"]["shape"] == [2, 6]
    assert span["call"] == "model(**inputs).start_logits"


def test_the_page_has_the_same_rows_and_lines() -> None:
    """Each line of the setup on its own line, each row with its call, in HTML that is closed as it is opened."""
    table = concepts(zoo.model("T5ForConditionalGeneration"))
    page = table._repr_html_()
    assert "\n".join(html.escape(line) for line in table.setup) in page
    for row in table:
        assert html.escape(row.call or row.missing) in page
    assert "\N{REPLACEMENT CHARACTER}" not in page
    for tag in ("figure", "table", "tr", "th", "td", "pre", "code", "span"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag


def test_a_decoder_learns_from_what_it_has_not_read() -> None:
    """In the example its inputs are the labels shifted right, as `labels` alone makes them."""
    table = concepts(zoo.model("BartForConditionalGeneration"))
    example = table["labels"].example
    assert example is not None
    names = example.names
    assert torch.equal(names["decoder_input_ids"][:, 1:], names["target"][:, :-1])
    given = example.run("model(**inputs, decoder_input_ids=decoder_input_ids, labels=labels).loss")
    assert torch.equal(table["training loss"].run(), given)


def test_errors_name_the_way_out() -> None:
    """What is no model, and a row that there is not."""
    with pytest.raises(InputError, match="needs a model class of this library, but got a Linear"):
        concepts(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="No row is named 'attention'; they are tokenisation, token ids"):
        concepts(zoo.model("BertModel"))["attention"]


def test_making_a_table_warns_of_nothing() -> None:
    """An ordinary call is quiet, and so is running its rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for row in concepts(zoo.model("LlamaForCausalLM")):
            if row.applies:
                row.run()
