"""`glassformer structure`: draws from config.json alone, writes pages and JSON, says what is wrong in a sentence."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import glassformer
from glassformer.cli.app import app, without_weights
from glassformer.cli.main import main
from glassformer.glassbox.structure.structure import structure

BUNDLED = Path(glassformer.__file__).parent / "bundled"


def run(*arguments: str) -> str:
    """What the command prints, in this process."""
    result = CliRunner().invoke(app, ["structure", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def folder(path: Path, bundled: str, **keys: Any) -> str:
    """A folder with a bundled model's config.json, changed, and nothing else."""
    config = json.loads((BUNDLED / bundled / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **keys}))
    return str(path)


@pytest.mark.parametrize(
    ("name", "auto"),
    [
        ("tiny-bert", "AutoModelForSequenceClassification"),
        ("tiny-gpt2", "AutoModelForCausalLM"),
        ("tiny-t5", "AutoModelForSeq2SeqLM"),
        ("tiny-bert-punctuation", "AutoModelForTokenClassification"),
    ],
)
def test_it_draws_what_a_loaded_model_draws(name: str, auto: str, tmp_path: Path) -> None:
    """Of a bundled name the very text; a folder needs no weights."""
    loaded = getattr(glassformer, auto).from_pretrained(f"glassformer/{name}")
    assert run(f"glassformer/{name}") == f"{structure(loaded)}\n"
    lines = run(folder(tmp_path, name)).splitlines()
    assert lines[1:] == str(structure(loaded)).splitlines()[1:]


def test_context(tmp_path: Path) -> None:
    """More tokens in view, more operations."""
    found = structure(without_weights("glassformer/tiny-gpt2"), context=2000)
    assert run("glassformer/tiny-gpt2", "--context", "2000") == f"{found}\n"
    assert "for each of 2,000 tokens in view" in str(found)
    refused = CliRunner().invoke(app, ["structure", "glassformer/tiny-gpt2", "--context", "0"])
    assert refused.exit_code == 2


def test_json() -> None:
    """The data of the structure, and nothing else."""
    data = json.loads(run("glassformer/tiny-t5", "--json"))
    expected = structure(without_weights("glassformer/tiny-t5"))
    assert data == json.loads(json.dumps(expected.to_dict()))
    assert data["kind"] == "encoder-decoder"


def test_html(tmp_path: Path) -> None:
    """A page of its own, from a stranger's file, in which nothing runs; nothing is printed."""
    labels = {str(index): f"<script>alert({index})</script>\x1b[31m" for index in range(3)}
    source = folder(tmp_path, "tiny-bert", id2label=labels, label2id={})
    assert run(source, "--html", str(tmp_path / "page.html")) == ""
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.count("alert(0)") == 1
    assert "<script" not in page
    assert "\x1b" not in page + run(source)
    assert not re.search(r"(src|href)=", page)


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    """The error names the file."""
    target = tmp_path / "nowhere" / "page.html"
    with pytest.raises(glassformer.InputError, match=r"nowhere.*No such file"):
        run("glassformer/tiny-gpt2", "--html", str(target))


def test_classes_that_are_not_known(tmp_path: Path) -> None:
    """Without a class of the family in config.json it is the backbone."""
    for named in (["SomebodysModel", ["GPT2LMHeadModel"]], None, [], "GPT2LMHeadModel", 7):
        assert type(without_weights(folder(tmp_path, "tiny-gpt2", architectures=named))).__name__ == "GPT2Model"


def test_bytes_are_those_of_a_loaded_model() -> None:
    """In fp16, where T5 keeps a matrix of each layer in fp32."""
    loaded = glassformer.AutoModelForSeq2SeqLM.from_pretrained("glassformer/tiny-t5", dtype=torch.float16)
    assert structure(loaded).dtype == "float16 and float32"


def test_a_half_precision_config(tmp_path: Path) -> None:
    """The dtype of config.json is that of the drawing, with the exceptions that loading makes."""
    half = structure(without_weights(folder(tmp_path, "tiny-t5", dtype="float16")))
    loaded = glassformer.AutoModelForSeq2SeqLM.from_pretrained("glassformer/tiny-t5", dtype=torch.float16)
    assert (half.dtype, half.bytes) == (structure(loaded).dtype, structure(loaded).bytes)


def test_what_is_wrong_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without config.json, a family that is not here, and a broken file; never a steering character."""
    cases = {"config.json": None, "nobody": {"model_type": "nobody\x1b"}, "vocab_size": {"vocab_size": "many"}}
    for said, keys in cases.items():
        path = tmp_path / f"{said}\x1b[31m"
        path.mkdir()
        where = str(path) if keys is None else folder(path, "tiny-gpt2", **keys)
        monkeypatch.setattr(sys, "argv", ["glassformer", "structure", where])
        with pytest.raises(SystemExit) as ended:
            main()
        assert said in str(ended.value)
        assert "\x1b" not in str(ended.value)


def process(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, encoding="utf-8")


def test_the_command_in_a_process_of_its_own(tmp_path: Path) -> None:
    """It draws and ends with 0; what fails ends with 1, with no traceback."""
    code = "from glassformer.cli.main import main; main()"
    drawn = process(code, "structure", "glassformer/tiny-gpt2")
    assert (drawn.returncode, drawn.stderr) == (0, "")
    assert drawn.stdout.startswith("GPT2LMHeadModel · decoder-only · glassformer/tiny-gpt2\n")
    failed = process(code, "structure", str(tmp_path))
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "config.json" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_what_it_needs(missing: str) -> None:
    """One sentence says what to install."""
    code = f"import sys; sys.modules[{missing!r}] = None\nfrom glassformer.cli.main import main; main()"
    ended = process(code, "structure", "glassformer/tiny-gpt2")
    assert ended.returncode == 1
    assert ended.stderr.strip().endswith("pip install 'glassformer[cli]'")
    assert ended.stderr.count("\n") == 1
