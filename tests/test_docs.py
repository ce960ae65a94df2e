"""What the documents say is so: code runs and prints what they show, excerpts are current, links lead somewhere."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from glassformer import families
from test_house import HOUSE

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
ALONE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/*.md"))
BOOK = sorted(ROOT.glob("docs/from-structure-to-calls/*.md"))  # whose examples go on from one another: test_book.py
DOCUMENTS = ALONE + BOOK
BLOCK = re.compile(r"^(?:<!-- from (?P<source>\S+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)

# Whatever a document does, no connection is opened, and nothing is printed beside what it prints itself.
GUARD = """
import socket, warnings
def refuse(*args, **kwargs):
    raise AssertionError("a socket was opened")
socket.socket.connect = socket.getaddrinfo = refuse
warnings.simplefilter("error")
"""


def blocks(path: Path) -> list[re.Match[str]]:
    return list(BLOCK.finditer(path.read_text(encoding="utf-8")))


def examples(path: Path) -> list[tuple[str, str | None]]:
    """The Python blocks that are no excerpts, each with the text block that comes right after it, if one does."""
    found = []
    for block, after in pairwise([*blocks(path), None]):
        if block["language"] == "python" and block["source"] is None:
            shown = after is not None and after["language"] == "text" and not path.read_text("utf-8")[
                block.end() : after.start()
            ].strip()  # fmt: skip
            found.append((block["text"], after["text"] if shown else None))
    return found


EXAMPLES = [
    pytest.param(*example, id=f"{path.name}-{number}")
    for path in ALONE
    for number, example in enumerate(examples(path))
]
EXCERPTS = [
    pytest.param(block["source"], block["text"], id=f"{path.name}-{number}")
    for path in DOCUMENTS
    for number, block in enumerate(blocks(path))
    if block["source"]
]


def run(code: str, tmp_path: Path) -> str:
    """What some code prints, in an interpreter and a folder of its own, offline."""
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", GUARD + code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize(("code", "shown"), EXAMPLES)
def test_examples_run(code: str, shown: str | None, tmp_path: Path) -> None:
    """Each runs by itself, without a network, a warning or a word on stderr, and prints what stands under it."""
    printed = run(code, tmp_path)
    if shown is not None:
        assert printed == shown


def test_readme_shows_each_structure() -> None:
    """One example for each of the three structures, each with its output; none is left out of the test above."""
    shown = [code for code, output in examples(README) if output]
    for name in ("tiny-bert", "tiny-gpt2", "tiny-t5"):
        assert any(f'"glassformer/{name}"' in code for code in shown)
    assert len(shown) == README.read_text("utf-8").count("```python")


@pytest.mark.parametrize(("source", "text"), EXCERPTS)
def test_excerpts_are_current(source: str, text: str) -> None:
    """A block that says where it is from stands there, line for line."""
    assert text in (ROOT / source).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", ALONE, ids=lambda path: path.name)
def test_quoted_tables_are_current(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that a benchmark wrote stands in a document as it was written."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import tables

    text = path.read_text(encoding="utf-8")
    assert text.count("<!-- table: ") == len(tables.QUOTED.findall(text))
    assert tables.current(text) == text


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Relative links and their anchors exist, and so do the files of this repository that are named in code."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"\w+:", target):
            file, _, anchor = target.partition("#")
            found = (path.parent / file).resolve() if file else path
            assert found.exists(), f"{path.name} links to {target}"
            assert not anchor or anchor in anchors(found), f"{path.name} links to {target}"
    places = [ROOT, ROOT / "src" / "glassformer", ROOT / "src" / "glassformer" / "structure"]
    for name in re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", text):
        assert name.startswith("glassformer/tiny") or any((place / name).exists() for place in places), name


def anchors(path: Path) -> set[str]:
    """The anchors that the headings of a document make."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_make_target_is_there() -> None:
    """A `make` command in a document names a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    for path in DOCUMENTS:
        named = set(re.findall(r"(?:`|^)make ([a-z]+)", path.read_text(encoding="utf-8"), re.M))
        assert named <= targets, f"{path.name}: {named - targets}"


def test_the_table_of_families_is_complete() -> None:
    """Every class of every page stands in the README."""
    text = README.read_text(encoding="utf-8")
    for model_type in families.PAGES:
        for name in families.family(model_type).classes:
            assert f"`{name}`" in text


def test_the_house_in_the_document_is_the_one_that_is_tested() -> None:
    """The list in docs/architecture.md has the modules of `HOUSE`, in its order."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)/?` \|", text, re.M)
    assert named == list(dict.fromkeys(name.partition(".")[0] for name in HOUSE))


def test_the_demo_runs_in_a_pipe(tmp_path: Path) -> None:
    """The page of `make demo`: each structure, each call as it is typed, its loss; plain text, offline, no warnings."""
    page = run(f"import runpy; runpy.run_path({str(ROOT / 'examples' / 'demo.py')!r}, run_name='__main__')", tmp_path)
    assert "\x1b" not in page
    assert max(map(len, page.splitlines())) <= 105
    for call in ("AutoModelForSequenceClassification", "AutoModelForTokenClassification", "AutoModelForCausalLM",
                 "AutoModelForSeq2SeqLM"):  # fmt: skip
        assert f">>> model = {call}.from_pretrained(" in page
    assert page.count("out.loss") == page.count("In the structure:") == 4
    for result in (r"German +\d", r"result +She was at ", r"likeliest token: +She could not ", r"result +2021-03-04$"):
        assert re.search(result, page, re.M), result
