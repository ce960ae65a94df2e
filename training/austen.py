"""The six novels of Jane Austen, read from the Debian package of the R data set `janeaustenr`."""

import re
import struct
import zlib
from pathlib import Path

from common import debian

PACKAGE = "r-cran-janeaustenr"
TITLES = ["Emma", "Mansfield Park", "Northanger Abbey", "Persuasion", "Pride and Prejudice", "Sense and Sensibility"]


def vectors(raw: bytes) -> list[list[str]]:
    """The character vectors of an R database: compressed chunks, each a serialised vector after a short header."""
    found = []
    while raw:
        inflate = zlib.decompressobj()
        data = inflate.decompress(raw[4:]) + inflate.flush()
        raw = inflate.unused_data
        at = 18 + struct.unpack_from(">i", data, 14)[0]  # format, versions, name of the encoding
        kind, count = struct.unpack_from(">ii", data, at)
        if kind & 255 != 16:
            raise SystemExit(f"{PACKAGE} holds an R object of type {kind & 255}; a character vector (16) is needed")
        at, lines = at + 8, []
        for _ in range(count):
            size = struct.unpack_from(">i", data, at + 4)[0]
            lines.append(data[at + 8 : at + 8 + size].decode())
            at += 8 + size
        found.append(lines)
    return found


def paragraphs(lines: list[str]) -> list[str]:
    """The prose of a novel: lines joined to paragraphs, without title page, headings, marks of italics and end note."""
    blocks = "\n".join(lines).split("\n\n")
    joined = [re.sub(r"\s+", " ", block.replace("_", "")).strip() for block in blocks]
    headings = [n for n, block in enumerate(joined) if re.match(r"chapter (1|i)\b", block, re.I)]
    ends = [n for n, block in enumerate(joined) if re.match(r"the end$|finis$|\*vide ", block, re.I)]
    prose = joined[headings[0] : ends[-1] if ends else None]
    return [p for p in prose if re.search(r"[a-z]", p) and not re.match(r"(chapter|volume) ", p, re.I)]


def novels() -> dict[str, list[str]]:
    """The paragraphs of each novel, by its title."""
    folder: Path = debian(PACKAGE) / "usr/lib/R/site-library/janeaustenr/data"
    return dict(zip(TITLES, map(paragraphs, vectors((folder / "Rdata.rdb").read_bytes()))))
