"""Listening: the names of all tensors of a model, and who hears them while a model is being looked at."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Protocol

from torch import Tensor, nn

from ..errors import InputError
from ..structure.maps import ALL, Maps, selected
from ..structure.places import Announcing

Patterns = str | Iterable[str] | Mapping[str, Maps]
MAPS = ("scores", "weights")


class Hook(Protocol):
    """Who hears the tensors of a model, by their full names."""

    def wants(self, name: str) -> Maps | None:
        """What of a tensor it hears, or None."""

    def changes(self, name: str) -> bool:
        """Whether it may give back another tensor."""

    def take(self, name: str, tensor: Tensor) -> Tensor:
        """Hear a tensor; what is returned goes on in the model."""


class Ear:
    """The listener of one part, which passes what it hears on to all hooks in the order in which they came.

    Args:
        path: of the part, ending in a dot if it is not empty.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.hooks: list[Hook] = []

    def wants(self, place: str) -> Maps | None:
        """What all hooks together want of a place: what the only one wants, or everything."""
        wanted = [maps for hook in self.hooks if (maps := hook.wants(self.path + place)) is not None]
        if not wanted:
            return None
        return wanted[0] if all(maps == wanted[0] for maps in wanted) else ALL

    def changes(self, place: str) -> bool:
        """Whether any hook may change the tensor of a place."""
        return any(hook.changes(self.path + place) for hook in self.hooks)

    def hear(self, place: str, tensor: Tensor) -> Tensor:
        """Pass the tensor of a place on to those who want it."""
        name = self.path + place
        whole = place in MAPS and (self.changes(place) or self.wants(place) == ALL)
        for hook in self.hooks:
            maps = hook.wants(name)
            if maps is None:
                continue
            if whole and maps != ALL:
                hook.take(name, selected(tensor, maps))
            else:
                tensor = hook.take(name, tensor)
        return tensor


def parts(model: nn.Module) -> dict[str, Announcing]:
    """The parts of a model that announce tensors, by path; a head's backbone is at the root, as in every model."""
    found = ((path, part) for path, part in model.named_modules() if isinstance(part, Announcing))
    return {path.removeprefix("transformer").removeprefix("."): part for path, part in found}


def places(model: nn.Module) -> dict[str, str]:
    """What each tensor of a model is, by its full name.

    Example:
        >>> places(model)["decoder.layers.0.attention.weights"]
        'the share of its attention that each query gives each key, (B, H, T, S)'
    """
    named: dict[str, str] = {}
    for path, part in parts(model).items():
        dot = f"{path}." if path else ""
        named.update({dot + place: meaning for place, meaning in part.places.items() if part.has(place)})
    return named


def matching(model: nn.Module, patterns: Patterns) -> dict[str, Maps]:
    """The names that patterns select, with what is wanted of each.

    Args:
        model: whose tensors they are.
        patterns: a name or a pattern such as "*.attention.weights", several, or from patterns to `Maps`.

    Raises:
        InputError: if a pattern selects nothing, with the names nearest to it.
    """
    names = places(model)
    if not names:
        raise InputError(
            f"{type(model).__name__} announces no tensors, as only models of this library do; "
            "glassformer.trace(model, inputs) hears those of Hugging Face Transformers in one call."
        )
    chosen: dict[str, Maps] = {}
    given: Mapping[str, Maps]
    if isinstance(patterns, Mapping):
        given = patterns
    else:
        given = dict.fromkeys([patterns] if isinstance(patterns, str) else patterns, ALL)
    for pattern, maps in given.items():
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            near = difflib.get_close_matches(pattern, names, 3, 0.4) or list(names)[:3]
            raise InputError(
                f"No tensor of this {type(model).__name__} is named {pattern!r}; nearest are {', '.join(near)}, and "
                "glassformer.places(model) lists all."
            )
        chosen.update(dict.fromkeys(found, maps))
    return chosen


@contextmanager
def listening(model: nn.Module, hook: Hook, names: Iterable[str]) -> Iterator[None]:
    """Let a hook hear the tensors of the names, and be gone afterwards."""
    wanted = set(names)
    heard = []
    for path, part in parts(model).items():
        dot = f"{path}." if path else ""
        if not any(dot + place in wanted for place in part.places):
            continue
        if part.listener is None:
            part.listener = Ear(dot)
        ear = part.listener
        assert isinstance(ear, Ear)
        ear.hooks.append(hook)
        heard.append((part, ear))
    try:
        yield
    finally:
        for part, ear in heard:
            ear.hooks.remove(hook)
            if not ear.hooks:
                del part.listener
