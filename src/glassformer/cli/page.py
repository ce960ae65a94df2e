"""`glassformer trace`: one call of a model as a story in the terminal, or as a page to look around in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def trace(
    model: Annotated[str, typer.Argument(help="A folder, a bundled model such as glassformer/tiny-t5, or a hub name.")],
    text: Annotated[str, typer.Argument(help="What the model reads.")],
    html: Annotated[Path | None, typer.Option(help="Write an interactive page to this file.", dir_okay=False)] = None,
    record: Annotated[
        list[str] | None, typer.Option(help="Only tensors of this name or pattern; may be given several times.")
    ] = None,
    fold: Annotated[bool, typer.Option(help="One line for each layer after the first, or all tensors.")] = True,
) -> None:
    """Run a model on a text and tell what happened, from the tokens to the choice.

    A page of a model that generates also shows how it goes on, unless --record picks tensors.
    """
    from ..errors import InputError
    from ..glassbox.page.page import page
    from ..glassbox.trace.trace import trace as traced
    from .app import class_of

    loaded = class_of(model)[1].from_pretrained(model).eval()
    if html is None:
        typer.echo(traced(loaded, text, record=record or "*").story(fold))
        return
    if record:
        made = page(traced(loaded, text, record=record), structure=loaded.structure())
    else:
        made = page(loaded, text)
    try:
        made.save(html)
    except OSError as error:
        raise InputError(f"{html} cannot be written ({error.strerror}); name another file.") from None
