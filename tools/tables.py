"""Puts the tables that benchmarks wrote into the documents that quote them; for after `make bench`.

A document says where its table is from, `<!-- table: benchmarks/peers/RESULTS.md, In short -->`: the first one under
that heading. What stands from there to `<!-- end of table -->` is written anew; a test holds documents to it.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = r"<!-- table: (?P<source>[\w./-]+), (?P<heading>[^>]+?) -->\n"
QUOTED = re.compile(f"(?P<mark>{MARK}).*?(?P<end><!-- end of table -->)", re.S)


def table(source: str, heading: str) -> str:
    """The first table under a heading of a file of this repository."""
    _, found, under = (ROOT / source).read_text(encoding="utf-8").partition(f"# {heading}\n")
    rows = re.search(r"(?:^\|.*\n)+", under, re.M)
    if not found or rows is None:
        raise ValueError(f"{source} has no table under {heading!r}")
    return rows[0]


def current(text: str) -> str:
    """A document with each quoted table as its source has it."""
    return QUOTED.sub(lambda found: found["mark"] + table(found["source"], found["heading"]) + found["end"], text)


def main() -> None:
    """Rewrite the documents whose tables have changed."""
    for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        before = path.read_text(encoding="utf-8")
        if (after := current(before)) != before:
            path.write_text(after, encoding="utf-8")
            print(f"{path.name}: new tables")


if __name__ == "__main__":
    main()
