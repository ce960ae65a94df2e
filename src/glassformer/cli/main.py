"""Where the command `glassformer` starts: what goes wrong for a known reason is said in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..errors import GlassformerError, MissingExtraError

NEEDED = ("typer", "rich")


def main() -> None:
    """Run the command with the arguments of the process.

    Raises:
        SystemExit: always, with 0 if all went well.
    """
    try:
        command()()
    except GlassformerError as error:
        sys.exit("".join(letter if letter.isprintable() else "�" for letter in str(error)))


def command() -> Callable[[], None]:
    """The command with its subcommands.

    Raises:
        MissingExtraError: if typer or rich is not installed.
    """
    try:
        from .app import app
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in NEEDED:
            raise
        raise MissingExtraError(
            "The command `glassformer` needs typer and rich; install them with: pip install 'glassformer[cli]'"
        ) from missing
    return app
