"""`glassformer concepts` and `glassformer explain`: what they print, as data, and their errors."""

import json

import pytest
from typer.testing import CliRunner

from glassformer.cli.app import app
from glassformer.errors import InputError


def printed(*arguments: str) -> str:
    """What the command prints."""
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_concepts_prints_the_table() -> None:
    """Calls, shapes and lines of a bundled model, whose weights are not read."""
    table = printed("concepts", "glassformer/tiny-t5")
    assert table.startswith("T5ForConditionalGeneration · encoder-decoder · glassformer/tiny-t5")
    assert ">>> model(**inputs, decoder_input_ids=decoder_input_ids, output_attentions=True).cross_attentions" in table
    assert "(B, H, U, T) = (2, 4, 10, 15)" in table
    assert max(map(len, table.splitlines())) <= 110


def test_concepts_as_json() -> None:
    """The same as data."""
    data = json.loads(printed("concepts", "glassformer/tiny-gpt2", "--json"))
    cache = next(row for row in data["rows"] if row["concept"] == "KV cache")
    assert cache["call"] == "model(**inputs, use_cache=True).past_key_values"
    assert cache["gives"]["count"] == 4


def test_explain_prints_an_explanation() -> None:
    """With a model, in its numbers."""
    assert "argument of forward · The cache of an earlier call." in printed("explain", "past_key_values")
    told = printed("explain", "kv cache", "--model", "glassformer/tiny-gpt2")
    assert ">>> model(**inputs, use_cache=True).past_key_values" in told
    assert json.loads(printed("explain", "top_p", "--json"))["concepts"][0]["name"] == "sampling"


def test_an_unknown_name_is_an_error() -> None:
    """The error that the command says in one sentence."""
    with pytest.raises(InputError, match="nearest are top_p"):
        printed("explain", "top_pp")
