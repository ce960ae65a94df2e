"""Runs the pages of the book anew: what they print, their pictures, and the notebooks that are made of them.

Run it with `make book`, or for some pages with `python tools/book.py 01 05`; then read the difference. A page is a
Markdown file whose Python blocks are the cells of one notebook: a `text` block right after one is what it prints, and a
picture right after that is what it draws. `tests/test_book.py` holds pages, pictures and notebooks together.
"""

import base64
import json
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from test_docs import BLOCK, BOOK, GUARD

PICTURE = re.compile(r"\s*!\[[^\]]*\]\((?P<path>pictures/[\w-]+\.png)\)\n")
# Run before the first cell. A warning is then a word on stderr, which is an error here but not to the kernel itself.
BEFORE = GUARD + "warnings.simplefilter('always')"


@dataclass
class Cell:
    """A piece of a page.

    Attributes:
        text: prose, or Python.
        code: whether it is Python that runs.
        shown: what it prints, as the page has it; None where the page shows nothing.
        pictures: what it draws, from the page's folder.
    """

    text: str
    code: bool = False
    shown: str | None = None
    pictures: list[str] = field(default_factory=list)


def cells(page: Path) -> list[Cell]:
    """The pieces of a page, in order; excerpts of the source and drawings made of text belong to the prose."""
    text = page.read_text(encoding="utf-8")
    found: list[Cell] = []
    prose, end = "", 0
    for block in BLOCK.finditer(text):
        if block.start() < end:
            continue  # printed by the cell before
        prose += text[end : block.start()]
        end = block.end()
        if block["language"] != "python" or block["source"]:
            prose += block[0]
            continue
        found += [Cell(prose)] if prose.strip() else []
        cell, prose = Cell(block["text"], code=True), ""
        after = BLOCK.search(text, end)
        if after and after["language"] == "text" and not text[end : after.start()].strip():
            cell.shown, end = after["text"], after.end()
        while picture := PICTURE.match(text, end):
            cell.pictures.append(picture["path"])
            end = picture.end()
        found.append(cell)
    return [*found, Cell(prose + text[end:])] if (prose + text[end:]).strip() else found


def notebook(page: Path) -> dict[str, Any]:
    """A page as a notebook (nbformat 4) without outputs, which running it gives."""
    made = []
    for number, cell in enumerate(cells(page)):
        text = cell.text.strip("\n") if cell.code else _beside(page, cell.text).strip()
        one: dict[str, Any] = {
            "cell_type": "code" if cell.code else "markdown",
            "id": f"cell-{number}",
            "metadata": {},
            "source": text.splitlines(keepends=True),
        }
        made.append({**one, "execution_count": None, "outputs": []} if cell.code else one)
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _beside(page: Path, prose: str) -> str:
    """Prose as a notebook has it, one folder further down."""
    prose = re.sub(r"\(This page as a notebook: .*\)", f"(This notebook as a page: [{page.name}]({page.name}).)", prose)
    return re.sub(r"\]\((?!\w+:|#)", "](../", prose)


def file_of(page: Path) -> Path:
    """Where a page's notebook is."""
    return page.parent / "notebooks" / f"{page.stem}.ipynb"


def dumped(made: dict[str, Any]) -> str:
    """A notebook as its file has it."""
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def run(made: dict[str, Any], folder: Path) -> list[tuple[str, list[bytes]]]:
    """Run a notebook from top to bottom in a kernel of its own, offline.

    Args:
        made: the notebook.
        folder: in which it runs.

    Returns:
        For each code cell what it printed, and the pictures that it drew, as PNG.

    Raises:
        AssertionError: if a cell writes to stderr.
        CellExecutionError: if a cell fails; the others are not run.
    """
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.reads(dumped(made), as_version=4)
    book.cells.insert(0, nbformat.v4.new_code_cell(BEFORE))
    quiet = ["--IPKernelApp.log_level=CRITICAL"]
    where = {"metadata": {"path": str(folder)}}
    env = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # as a kernel has it by default
    NotebookClient(book, timeout=120, kernel_name="python3", extra_arguments=quiet, resources=where).execute(env=env)
    results = []
    for cell in book.cells[1:]:
        if cell.cell_type == "code":
            said = [output for output in cell.outputs if output.output_type == "stream"]
            assert all(output.name == "stdout" for output in said), said
            drawn = [output.data["image/png"] for output in cell.outputs if output.output_type == "display_data"]
            results.append(("".join(output.text for output in said), [base64.b64decode(png) for png in drawn]))
    return results


def main() -> None:
    """Write the outputs, pictures and notebook of each page."""
    for page in BOOK:
        if sys.argv[1:] and not page.name.startswith(tuple(sys.argv[1:])):
            continue
        code = [cell for cell in cells(page) if cell.code]
        if not code:
            continue
        text, start = page.read_text(encoding="utf-8"), 0
        made = notebook(page)
        file_of(page).write_text(dumped(made), encoding="utf-8")
        for cell, (printed, drawn) in zip(code, run(made, page.parent)):
            start = text.index(cell.text, start) + len(cell.text)
            if cell.shown is not None and cell.shown != printed:
                print(f"{page.name}: {cell.text.splitlines()[-1]}")
                after = text[start:].replace(f"```text\n{cell.shown}```", f"```text\n{printed}```", 1)
                text = text[:start] + after
            for path, png in zip(cell.pictures, drawn):
                (page.parent / path).write_bytes(png)
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
