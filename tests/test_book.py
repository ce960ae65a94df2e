"""The book runs: every page as a notebook in a kernel, from top to bottom, and prints and draws what the page shows."""

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from test_docs import BOOK, ROOT

sys.path.insert(0, str(ROOT / "tools"))

import book

PAGES = [page for page in BOOK if page.name != "README.md"]
IDS = [page.stem for page in PAGES]


def steady(printed: str) -> str:
    """An output without the numbers of source lines, which move, and what fills up the line before them."""
    return re.sub(r"[ ─]*(\S+\.py):\d+", r" \1", printed)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_page_runs_and_shows_what_it_says(page: Path, tmp_path: Path) -> None:
    """The notebook's cells run in order, offline, without a warning; text and pictures are where the page has them."""
    cells = [cell for cell in book.cells(page) if cell.code]
    assert any(cell.shown for cell in cells)
    for cell, (printed, drawn) in zip(cells, book.run(book.notebook(page), tmp_path), strict=True):
        assert steady(printed) == steady(cell.shown or ""), cell.text
        assert len(drawn) == len(cell.pictures), cell.text
        assert all(png.startswith(b"\x89PNG") for png in drawn)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_the_notebook_is_made_of_the_page(page: Path) -> None:
    """The file is what `make book` writes, so that whoever opens it reads the page, and is a valid notebook."""
    made = book.notebook(page)
    assert book.file_of(page).read_text(encoding="utf-8") == book.dumped(made)
    nbformat.validate(made)


# By page, the cells that use nothing of our own but pictures; cells 0, 1, ... of the page's code.
SHARED = {"01": "01234", "03": "014", "04": "02", "05": "024", "06": "012", "07": "0124", "09": "0134"}


@pytest.mark.parametrize("number", SHARED)
def test_shared_calls_are_the_peers(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the import changed, these cells run on Transformers and print the same."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    page = PAGES[int(number) - 1]
    code = [cell for cell in book.cells(page) if cell.code]
    names: dict[str, Any] = {}
    for cell in (code[int(index)] for index in SHARED[number]):
        text = re.sub(r", plot$|^ax = plot\..*$", "", cell.text, flags=re.M)
        text = text.replace("from glassformer import", "from transformers import")
        text = text.replace('"glassformer/', f'"{ROOT}/src/glassformer/bundled/')
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(text, names)
        assert printed.getvalue() == (cell.shown or ""), text


def test_nothing_is_left_over() -> None:
    """Each notebook has its page and each picture the cell that draws it; a picture is a small file."""
    folder = BOOK[0].parent
    assert {path.stem for path in folder.glob("notebooks/*")} == set(IDS)
    shown = {path for page in PAGES for cell in book.cells(page) for path in cell.pictures}
    assert {f"pictures/{path.name}" for path in folder.glob("pictures/*")} == shown
    assert all((folder / path).stat().st_size < 80_000 for path in shown)


def test_the_index_and_the_pages_are_a_chain() -> None:
    """The index links to every page, in order, and each page to the next and to its notebook."""
    index = (BOOK[0].parent / "README.md").read_text(encoding="utf-8")
    places = [index.index(f"]({page.name})") for page in PAGES]
    assert places == sorted(places)
    for page, following in zip(PAGES, [*PAGES[1:], None]):
        text = page.read_text(encoding="utf-8")
        assert f"](notebooks/{page.stem}.ipynb)" in text
        assert following is None or f"]({following.name})" in text.splitlines()[-1], page.name


def test_every_page_looks_under_the_hood() -> None:
    """Each page shows a piece of the source; that it stands there line for line is tested with the other documents."""
    for page in PAGES:
        assert "<!-- from src/glassformer/" in page.read_text(encoding="utf-8"), page.name


def test_a_page_is_cut_as_its_author_means_it(tmp_path: Path) -> None:
    """What runs, what it prints and draws, and what is prose, drawings and excerpts; the links of a notebook."""
    page = tmp_path / "01-page.md"
    page.write_text(
        "# Title\n\n[x](other.md) [y](https://z)\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n"
        "![a](pictures/a.png)\n\nWords.\n\n```text\na drawing\n```\n\n"
        "<!-- from src/x.py -->\n```python\nx = 1\n```\n\n```python\ny = 2\n```\n",
        encoding="utf-8",
    )
    _, first, words, second = book.cells(page)
    assert (first.text, first.shown, first.pictures) == ("print(1)\n", "1\n", ["pictures/a.png"])
    assert "a drawing" in words.text
    assert "x = 1" in words.text
    assert (second.text, second.shown, second.pictures) == ("y = 2\n", None, [])
    made = book.notebook(page)["cells"]
    assert "".join(made[0]["source"]) == "# Title\n\n[x](../other.md) [y](https://z)"
    assert [cell["cell_type"] for cell in made] == ["markdown", "code", "markdown", "code"]
    assert book.run(book.notebook(page), tmp_path) == [("1\n", []), ("", [])]
