"""`glassformer trace`: the story on the terminal, and the page in a file."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import glassformer as gf
from glassformer.cli.app import app
from glassformer.errors import InputError

NAME, TEXT = "glassformer/tiny-gpt2", "She had never been"


def test_the_story_is_printed() -> None:
    """As the trace of the model itself tells it, folded or not, of all tensors or of some."""
    model = gf.AutoModelForCausalLM.from_pretrained(NAME)
    run = CliRunner().invoke(app, ["trace", NAME, TEXT])
    assert run.stdout == gf.trace(model, TEXT).story() + "\n"
    run = CliRunner().invoke(app, ["trace", NAME, TEXT, "--record", "*.weights", "--record", "logits", "--no-fold"])
    assert run.stdout == gf.trace(model, TEXT, record=["*.weights", "logits"]).story(fold=False) + "\n"


def test_the_page_is_written(tmp_path: Path) -> None:
    """Nothing is printed then; a page of some tensors has no generation."""
    whole, some = tmp_path / "whole.html", tmp_path / "some.html"
    run = CliRunner().invoke(app, ["trace", NAME, TEXT, "--html", str(whole)])
    assert (run.exit_code, run.stdout) == (0, "")
    assert '"generation":{' in whole.read_text(encoding="utf-8")
    CliRunner().invoke(app, ["trace", NAME, TEXT, "--html", str(some), "--record", "*.attention.weights"])
    assert '"generation":null' in some.read_text(encoding="utf-8")
    assert "decoder.layers.3.attention.weights" in some.read_text(encoding="utf-8")


def test_what_goes_wrong_is_said(tmp_path: Path) -> None:
    """A pattern that selects nothing, and a file that cannot be written, in one sentence each."""
    run = CliRunner().invoke(app, ["trace", NAME, TEXT, "--record", "attention"])
    assert isinstance(run.exception, InputError)
    run = CliRunner().invoke(app, ["trace", NAME, TEXT, "--html", str(tmp_path / "nowhere" / "page.html")])
    assert isinstance(run.exception, InputError)
    with pytest.raises(InputError, match="cannot be written"):
        raise run.exception
