"""Family: what a page gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..checkpoints.names import Row
from ..spec import Spec


@dataclass(frozen=True)
class ModelClass:
    """One of the peer's classes.

    Attributes:
        task: "Model" for the backbone, or the name of a class in `heads.py`.
        arguments: what its `forward` takes, in the peer's order.
        prefix: what comes before the backbone's names in its checkpoints.
        part: "whole", or the stack that is left of an encoder-decoder: "encoder" or "decoder".
        trains_cached: whether a call with labels still gives the cache back.
        num_labels: what the class sets the configuration's number of labels to; None to leave it.
    """

    task: str
    arguments: str
    prefix: str = ""
    part: str = "whole"
    trains_cached: bool = True
    num_labels: int | None = None


@dataclass(frozen=True)
class Family:
    """A page of data.

    Attributes:
        model_type: as in config.json.
        name: what its class names begin with.
        defaults: the keys that the peer's configuration class knows, with their defaults.
        spec: the structure that a configuration asks for.
        rows: the name table of a configuration.
        classes: the peer's class names.
        aliases: other names of configuration keys.
        complete: fills in configuration keys that follow from others, in place; or None.
        no_effect: keys that the peer knows and that change nothing there either.
        ignored: patterns of tensors that old checkpoints hold and nobody needs.
        auto: which class an Auto class takes where several have its task.
    """

    model_type: str
    name: str
    defaults: Mapping[str, Any]
    spec: Callable[[Any], Spec]
    rows: Callable[[Any], Sequence[Row]]
    classes: Mapping[str, ModelClass]
    aliases: Mapping[str, str] = field(default_factory=dict)
    complete: Callable[[dict[str, Any]], None] | None = None
    no_effect: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    auto: Mapping[str, str] = field(default_factory=dict)


def constant(value: float, name: str) -> float:
    """A standard deviation that is the same for every weight, `Spec.std` of most families once `value` is bound."""
    return value
