"""Model families, a page each: what a configuration means, which parts it takes, and what checkpoints call them."""

from __future__ import annotations

from importlib import import_module

from ..errors import ConfigError
from .family import Family

# model_type of config.json to the page's module; a page is imported when a model of its family is asked for.
PAGES = {"bart": "bart", "bert": "bert", "gpt2": "gpt2", "llama": "llama", "t5": "t5"}


def family(model_type: str) -> Family:
    """The family of a `model_type`.

    Raises:
        ConfigError: if there is none.

    Example:
        >>> family("bert").name
        'Bert'
    """
    if model_type not in PAGES:
        raise ConfigError(
            f"model_type {model_type!r} is not supported; the families here are {', '.join(sorted(PAGES))}."
        )
    page: Family = import_module(f".{PAGES[model_type]}", __package__).FAMILY
    return page
