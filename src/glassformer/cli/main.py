"""Where the command `glassformer` starts: what goes wrong for a known reason is said in one sentence."""

from __future__ import annotations

import sys

from ..errors import GlassformerError

NEEDED = ("typer", "rich")


def main() -> None:
    """Run the command with the arguments of the process.

    Raises:
        SystemExit: always, with 0 if all went well.
    """
    try:
        from .app import app
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in NEEDED:
            raise
        sys.exit("The command `glassformer` needs typer and rich; install them with: pip install 'glassformer[cli]'")
    try:
        app()
    except GlassformerError as error:
        sys.exit("".join(letter if letter.isprintable() else "�" for letter in str(error)))
