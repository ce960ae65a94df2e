"""`glassformer concepts` and `glassformer explain`: from concept to call for a model, and back from any name."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

MODEL_HELP = "A folder, a bundled model such as glassformer/tiny-t5, or a hub name."


def concepts(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Show for each term of the textbook the call that gives it, with its shape in this model and its line of code.

    Only config.json and the tokenizer's files are read.
    """
    from ..glassbox.concepts.concepts import concepts as table_of

    bare, tokenizer = _bare(model)
    _show(table_of(bare, tokenizer), as_json)


def explain(
    thing: Annotated[str, typer.Argument(help="A concept, an argument, an output field, a setting, a class.")],
    model: Annotated[str | None, typer.Option(help=f"Whose numbers are shown. {MODEL_HELP}")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the explanation as JSON.")] = False,
) -> None:
    """Say which part of the structure a name is: past_key_values, top_p, cross-attention, BertModel, ..."""
    from ..glassbox.concepts.answers import explain as answer

    _show(answer(thing, _bare(model)[0] if model is not None else None), as_json)


def _bare(where: str) -> tuple[Any, Any]:
    """A model without weights, and its tokenizer if it has one that can be read."""
    from ..errors import GlassformerError
    from ..tokenization import AutoTokenizer
    from .app import without_weights

    model = without_weights(where)
    try:
        return model, AutoTokenizer.from_pretrained(where)
    except GlassformerError:
        return model, None


def _show(found: Any, as_json: bool) -> None:
    from .app import show

    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1))
    else:
        show(str(found))
