"""Traces in files: trace.safetensors holds the tensors with every bit, trace.json what they are.

A folder may come from a stranger: nothing in it is run, sizes are checked before memory is taken, and what does not fit
together is refused with one sentence.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...checkpoints.hub import Repository, read_json
from ...checkpoints.save import write_files
from ...checkpoints.weights import Weights, open_tensors
from ...errors import BrokenFileError
from ..sources import Source
from .choices import Candidates

if TYPE_CHECKING:
    from .trace import Trace

TENSORS, DESCRIPTION = "trace.safetensors", "trace.json"
FORMAT = 1
LIMIT = 1_000_000  # names, tokens and the like in one list


def save(trace: Trace, folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Write a trace into a folder; see `Trace.save`."""
    from safetensors.torch import save as as_bytes

    tensors = {}
    for name, calls in trace.records.items():
        for call, tensor in enumerate(calls):
            # Several names may share a memory, as a state that one layer gives and the next reads.
            tensors[f"{name}:{call}"] = tensor.detach().to("cpu", copy=True).contiguous()
    description = {
        "format": FORMAT,
        "model": trace.model,
        "names": trace.names,
        "calls": {name: len(calls) for name, calls in trace.records.items()},
        "meanings": {name: trace.meanings.get(name, "") for name in trace.names},
        "texts": trace.texts,
        "tokens": trace.tokens,
        "padding": trace.padding,
        "choices": [asdict(choice) for choice in trace.choices],
        "lines": {name: asdict(line) for name, line in trace.lines.items()},
    }
    text = json.dumps(description, indent=1) + "\n"
    return write_files(folder, {TENSORS: as_bytes(tensors), DESCRIPTION: text})


def load(folder: str | os.PathLike[str]) -> Trace:
    """Read a trace from a folder; see `Trace.load`."""
    from .trace import Trace

    repository = Repository(Path(folder))
    path = repository.require(DESCRIPTION, "what a trace holds")
    content = _Content(path, read_json(path))
    weights = open_tensors(repository.require(TENSORS, "the tensors of a trace"))
    trace = Trace.__new__(Trace)
    trace.model = content.text("model")
    trace.texts = content.maybe("texts", lambda value: content.texts(value, "texts"))
    trace.tokens = {
        stack: [content.texts(row, f"tokens of {stack}") for row in content.items(rows, f"tokens of {stack}")]
        for stack, rows in content.named("tokens").items()
    }
    trace.padding = content.maybe("padding", lambda value: content.checked(value, str, "padding"))
    trace.choices = [content.candidates(one) for one in content.items(content.keys.get("choices"), "choices")]
    names = content.texts(content.keys.get("names"), "names")
    meanings, calls, lines = content.named("meanings"), content.named("calls"), content.named("lines")
    content.refuse(not len(names) == len(set(names)) == len(calls), "names and calls do not belong together")
    trace.meanings = {name: content.checked(meanings.get(name), str, f"the meaning of {name}") for name in names}
    trace.lines = {name: content.source(line) for name, line in lines.items()}
    trace.records = {}
    for name in names:
        count = content.checked(calls.get(name), int, f"the calls of {name}")
        content.refuse(not 0 < count <= len(weights), f"{name} has {count} calls, but there are {len(weights)} tensors")
        trace.records[name] = [_tensor(content, weights, f"{name}:{call}") for call in range(count)]
    total = sum(map(len, trace.records.values()))
    content.refuse(total != len(weights), f"it names {total} tensors, but {TENSORS} has {len(weights)}")
    return trace


def _tensor(content: _Content, weights: Weights, name: str) -> Tensor:
    content.refuse(name not in weights, f"{TENSORS} has no {name!r}")
    return weights[name]


class _Content:
    """What a description says, each piece checked as it is taken."""

    def __init__(self, path: Path, keys: dict[str, Any]) -> None:
        self.path, self.keys = path, keys
        found = keys.get("format")
        if found != FORMAT or isinstance(found, bool):
            raise BrokenFileError(f"{path} has format {found!r}, and this version reads {FORMAT}: record it again.")

    def refuse(self, wrong: bool, why: str) -> None:
        """Raise if something is wrong."""
        if wrong:
            raise BrokenFileError(f"{self.path} is not the description of a trace ({why}): save the trace again.")

    def checked(self, value: Any, kind: type[Any] | tuple[type[Any], ...], what: str) -> Any:
        """A value of a kind; a truth value is no number."""
        fits = isinstance(value, kind) and not isinstance(value, bool)
        self.refuse(not fits, f"{what} is a {type(value).__name__}")
        return value

    def text(self, key: str) -> str:
        """A text by its key."""
        found: str = self.checked(self.keys.get(key), str, key)
        return found

    def maybe(self, key: str, read: Callable[[Any], Any]) -> Any:
        """What is read of a key's value, or None."""
        value = self.keys.get(key)
        return None if value is None else read(value)

    def items(self, value: Any, what: str) -> list[Any]:
        """A list that is not too long."""
        self.refuse(len(self.checked(value, list, what)) > LIMIT, f"{what} has more than {LIMIT} items")
        return list(value)

    def texts(self, value: Any, what: str) -> list[str]:
        """A list of texts."""
        return [self.checked(item, str, what) for item in self.items(value, what)]

    def named(self, key: str) -> dict[str, Any]:
        """An object by its key."""
        found: dict[str, Any] = self.checked(self.keys.get(key), dict, key)
        return found

    def record(self, value: Any, kind: type[Any], what: str) -> dict[str, Any]:
        """An object with exactly the fields of a dataclass."""
        known = {entry.name for entry in fields(kind)}
        self.refuse(self.checked(value, dict, what).keys() != known, f"{what} has other keys than {sorted(known)}")
        return dict(value)

    def candidates(self, value: Any) -> Candidates:
        """One of the choices."""
        found = self.record(value, Candidates, "a choice")
        numbers = [self.checked(n, (int, float), "a probability") for n in self.items(found["probabilities"], "choice")]
        labels = self.texts(found["labels"], "labels")
        self.refuse(len(labels) != len(numbers) or not labels, "a choice has other probabilities than labels")
        self.refuse(not all(math.isfinite(number) for number in numbers), "a probability is not finite")
        places = [self.checked(found[key], int, key) for key in ("call", "row")]
        if found["position"] is not None:
            places.append(self.checked(found["position"], int, "position"))
        self.refuse(min(places) < 0, "a choice lies before the beginning")
        position = places[2] if len(places) == 3 else None
        name = self.checked(found["name"], str, "a choice's name")
        return Candidates(name, places[0], places[1], position, tuple(labels), tuple(numbers))

    def source(self, value: Any) -> Source:
        """One of the lines of code."""
        found = self.record(value, Source, "a line of code")
        file, text = (self.checked(found[key], str, key) for key in ("file", "text"))
        return Source(file, self.checked(found["line"], int, "line"), text)
