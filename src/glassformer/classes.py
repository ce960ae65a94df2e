"""The peer's class names, made from the family pages: `BertConfig`, `BertModel`, `BertForMaskedLM`, ..."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from . import families
from .config import Config
from .families.family import Family
from .generation.mixin import GenerationMixin
from .heads import TASKS
from .model import Transformer
from .pretrained import PreTrainedModel


@cache
def config_class(model_type: str) -> type[Config]:
    """The configuration class of a family.

    Raises:
        ConfigError: if there is no such family.
    """
    family = families.family(model_type)
    name = f"{family.name}Config"
    attributes = {
        "__doc__": f"The configuration of {family.name} models; keys and defaults are in {family.spec.__module__}.",
        "__module__": __package__,
        "model_type": model_type,
        "defaults": family.defaults,
        "aliases": family.aliases,
        "complete": family.complete,
    }
    return type(name, (Config,), attributes)


@cache
def model_class(model_type: str, name: str) -> type[Any]:
    """The model class of that name of a family.

    Raises:
        ConfigError: if there is no such family.
    """
    family = families.family(model_type)
    kind = family.classes[name]
    base = Transformer if kind.task == "Model" else TASKS[kind.task]
    arguments = tuple(kind.arguments.split())
    backbone = backbone_name(family, kind.part)
    accepted = {*arguments, *family.classes[backbone].arguments.split(), *getattr(base, "arguments", ())}
    attributes = {
        "__doc__": f"{family.name}: {base.__doc__}",
        "__module__": __package__,
        "family": family,
        "kind": kind,
        "config_class": config_class(model_type),
        "arguments": arguments,
        "accepted": frozenset({*accepted, "output_attentions", "output_hidden_states", "return_dict"}),
        "base_model_prefix": (kind.prefix or next(k.prefix for k in family.classes.values() if k.prefix)).rstrip("."),
        "forward": _forward(arguments),
    }
    if kind.task != "Model":
        attributes["backbone_class"] = model_class(model_type, backbone)
        # The peer's name for the backbone inside a head: `model.bert`, `model.transformer`, `model.model`.
        if kind.prefix and kind.prefix != "transformer.":
            attributes[kind.prefix.rstrip(".")] = property(lambda self: self.transformer)
    generates = (GenerationMixin,) if kind.task in ("CausalLM", "Seq2SeqLM", "DoubleHeads") else ()
    return type(name, (PreTrainedModel, *generates, base), attributes)


def backbone_name(family: Family, part: str) -> str:
    """The name of the class without a head; for a decoder alone, of the whole."""
    names = [name for name, kind in family.classes.items() if kind.task == "Model" and kind.part == part]
    return names[0] if names else next(name for name, kind in family.classes.items() if kind.task == "Model")


def _forward(arguments: tuple[str, ...]) -> Any:
    """A `forward` that shows the peer's arguments, in the peer's order."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return PreTrainedModel.forward(self, *args, **kwargs)

    named = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("self", named)]
    for name in arguments:
        parameters.append(inspect.Parameter(name, named, default=0 if name == "logits_to_keep" else None))
    parameters.append(inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD))
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    forward.__doc__ = PreTrainedModel.forward.__doc__
    return forward
