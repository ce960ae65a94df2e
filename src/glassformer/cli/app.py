"""The subcommands of `glassformer`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from .concepts import concepts, explain
from .page import trace

app = typer.Typer(name="glassformer", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def glassformer() -> None:
    """Pretrained Transformers, with everything inside in plain sight."""


@app.command()
def structure(
    model: Annotated[str, typer.Argument(help="A folder, a bundled model such as glassformer/tiny-t5, or a hub name.")],
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.", dir_okay=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the structure as JSON.")] = False,
    context: Annotated[int, typer.Option(min=1, help="Tokens in view, for the count of operations.")] = 128,
) -> None:
    """Draw a model as the textbook draws it, with what each part takes.

    Only config.json is read. Whether a vocabulary head is the token table is taken from there too, though some T5
    checkpoints hold a head of their own.
    """
    from ..errors import InputError
    from ..glassbox.structure.markup import page
    from ..glassbox.structure.structure import structure as structure_of

    found = structure_of(without_weights(model), context)
    if html is not None:
        try:
            html.write_text(page(found), encoding="utf-8")
        except OSError as error:
            raise InputError(f"{html} cannot be written ({error.strerror}); name another file.") from None
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1))
    elif html is None:
        show(str(found))


def without_weights(where: str) -> Any:
    """A model on the meta device, of the class that its config.json names, or of the family's backbone.

    Args:
        where: a folder, a bundled name or a hub name.

    Raises:
        MissingFileError: if there is no config.json.
        ConfigError: if it asks for what is not computed.
    """
    import torch

    from ..engine.quantize import Scheme, quantize

    config, kind = class_of(where)
    with torch.device("meta"):
        model = kind.from_config(config)
    if (scheme := Scheme.of(config)) is not None:
        quantize(model, scheme, model.dtype)
    if model.dtype == torch.float16:  # as when it is loaded
        for name, module in model.named_modules():
            if name.endswith(model.base_model.spec.keep_fp32):
                module.float()
    return model


def class_of(where: str) -> tuple[Any, Any]:
    """The configuration of a checkpoint and the class that it names, or that of the family's backbone."""
    from ..auto import AutoConfig, auto_class
    from ..classes import model_class
    from ..families import family

    config = AutoConfig.from_pretrained(where)
    named = config.architectures if isinstance(config.architectures, list) else []
    names = [name for name in family(config.model_type).classes if name in named]
    return config, model_class(config.model_type, names[0]) if names else auto_class("AutoModel")


def show(drawing: str) -> None:
    """Print a drawing, on a terminal with its lines and names in the background."""
    text = Text(drawing)
    text.highlight_regex(r"[─│╭╮╰╯├┤┼]|\S+\.py:\d+", "dim")
    text.highlight_regex(r"[●⊕◇◆○▶]", "bold")
    text.highlight_regex(r"[⊕●◆◇○] (?P<bold>[a-z][a-z -]*[a-z])", "")
    text.highlight_regex(r"╭─[─┼]─ (?P<bold>[^,─]+)", "")
    Console().print(text, soft_wrap=True)


app.command()(concepts)
app.command()(explain)
app.command()(trace)
