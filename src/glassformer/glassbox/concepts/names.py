"""The names of this library and what each is: arguments, output fields, settings, configuration keys, classes, methods.

Read from the code: signatures, docstrings, dataclass fields, defaults. Only what has no docstring is in `meanings`.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

from ... import cache, families, generation, heads, outputs, structure
from ...config import COMMON, Config
from ...generation import outputs as generation_outputs
from ...generation.config import DEFAULTS, SETTINGS, GenerationConfig
from ...generation.generate import generate
from ...generation.mixin import GenerationMixin
from ...generation.settings import UNSUPPORTED
from ...generation.streaming import stream
from ...model import Transformer
from ...structure.stack import Decoder
from ..mixin import GlassBox
from ..sources import PACKAGE, Source, source_of
from . import meanings
from .docs import entries, line_in_module, line_of, section, summary


@dataclass(frozen=True)
class Aspect:
    """One thing that a name is.

    Attributes:
        kind: "argument", "output field", "setting of generate", "configuration key", "class", "method" and so on.
        text: what it is, in a sentence or two.
        shape: of a tensor, in symbols, and for a model in its numbers.
        value: the default, or the value in the model.
        takes: the classes or calls that take it.
        gives: the classes or calls that give it.
        of: the classes that have it.
        source: where it is in the code.
    """

    kind: str
    text: str
    shape: str = ""
    value: str = ""
    takes: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    of: tuple[str, ...] = ()
    source: Source | None = None

    def to_dict(self) -> dict[str, Any]:
        """The aspect as data that JSON can hold."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        listed = {name: list(data[name]) for name in ("takes", "gives", "of")}
        return {**data, **listed, "source": str(self.source) if self.source else None}


Index = dict[str, list[Aspect]]


@lru_cache(maxsize=1)
def index() -> Index:
    """All names with what they are."""
    found: Index = {}
    for read in (_arguments, _fields, _call_arguments, _settings, _keys, _classes, _methods):
        for name, aspect in read():
            found.setdefault(name, []).append(aspect)
    return found


def public() -> ModuleType:
    """The package itself, for its public names."""
    return sys.modules[PACKAGE]


def modules_of(room: ModuleType) -> list[ModuleType]:
    """The modules of a room."""
    return [import_module(f"{room.__name__}.{found.name}") for found in pkgutil.iter_modules(room.__path__)]


@lru_cache(maxsize=1)
def model_classes() -> dict[str, Any]:
    """The model classes of all families, by name."""
    return {name: getattr(public(), name) for page in families.PAGES for name in families.family(page).classes}


def _grouped(found: list[tuple[str, str, str, Any]]) -> Iterator[tuple[str, str, tuple[str, ...], Any]]:
    """(name, text, class, code) brought together where name and text are the same: the classes become a tuple."""
    groups: dict[tuple[str, str], list[tuple[str, Any]]] = {}
    for name, text, owner, code in found:
        groups.setdefault((name, text), []).append((owner, code))
    for (name, text), owners in groups.items():
        yield name, text, tuple(owner for owner, _ in owners), owners[0][1]


# Arguments of forward


def _arguments() -> Iterator[tuple[str, Aspect]]:
    found = []
    for owner, kind in model_classes().items():
        # A head also accepts what its backbone takes; told is what it is made for.
        more = kind.accepted - set(getattr(kind, "backbone_class", kind).arguments)
        for name in dict.fromkeys((*kind.arguments, *sorted(more))):
            text, code = _argument(name, kind.kind.task)
            found.append((name, _told(name, text), owner, code))
    for name, text, takers, code in _grouped(found):
        source = line_of(code, rf"\b{name}: ", rf"\b{name}\b")
        yield name, Aspect("argument of forward", text, shape_in(text), takes=takers, source=source)


def _told(name: str, text: str) -> str:
    """What a docstring says of an argument, after what it leaves out."""
    before = meanings.ARGUMENTS.get(name, "")
    return f"{before} {text[:1].upper()}{text[1:]}".strip()


@lru_cache(maxsize=512)
def _argument(name: str, task: str) -> tuple[str, Any]:
    """What the docstrings say of an argument of a task's class, and the function that takes it."""
    backbones: tuple[Any, ...] = (Transformer.forward, Decoder.forward)
    for backbone in backbones:
        if name in (known := entries(backbone)):
            return known[name], backbone
    for kind in heads.TASKS[task].__mro__:
        code = vars(kind).get("forward")
        if code is not None and name in inspect.signature(code).parameters:
            return entries(code).get(name) or summary(code), code
    raise KeyError(name)


# Fields of outputs


@lru_cache(maxsize=1)
def output_classes() -> dict[str, Any]:
    """The classes of outputs, by name."""
    modules = (outputs, generation_outputs)
    return {
        name: kind
        for module in modules
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, outputs.ModelOutput) and is_dataclass(kind)
    }


def _fields() -> Iterator[tuple[str, Aspect]]:
    found = []
    for owner, kind in output_classes().items():
        own = entries(kind, "Attributes")
        for field in fields(kind):
            text = own.get(field.name) or meanings.FIELDS[field.name][0]
            found.append((field.name, f"{text[0].upper()}{text[1:]}", owner, kind))
    for name, text, givers, kind in _grouped(found):
        shape = field_shape(name, givers)
        source = line_of(kind, rf"(?m)^ *{name}: \w")
        yield name, Aspect("output field", text, shape, gives=givers, source=source)


def field_shape(name: str, givers: Iterable[str]) -> str:
    """The shape of an output field in some classes; where they differ, every one."""
    shapes = []
    for kind in (output_classes()[giver] for giver in givers):
        if (text := entries(kind, "Attributes").get(name)) is not None:
            shapes.append(shape_in(text))
        elif name in meanings.FIELDS and meanings.FIELDS[name][1]:
            symbols, count = meanings.FIELDS[name][1:]
            shapes.append(f"{f'{count} × ' if count else ''}({', '.join(symbols.split())})")
        elif found := re.search(rf"\b{name}\b[^(;,]*(\([^()]*\))|(\([^()]*\)) in {name}\b", summary(kind)):
            shapes.append(found[1] or found[2])
    return " or ".join(dict.fromkeys(filter(None, shapes)))


# Generation


def _call_arguments() -> Iterator[tuple[str, Aspect]]:
    calls: dict[str, Callable[..., Any]] = {
        "generate": generate,
        "stream": stream,
        "explain_generation": GenerationMixin.explain_generation,
        "from_pretrained": public().PreTrainedModel.from_pretrained.__func__,
        "tokenizer": public().PreTrainedTokenizerBase.__call__,
    }
    found = []
    for call, code in calls.items():
        known = entries(code)
        # Names that are told of among the keywords have a sentence of their own.
        more = dict.fromkeys(re.findall(r"`(\w+)`", known.get("kwargs", "")), "")
        for name, text in {**more, **known}.items():
            if name not in ("kwargs", "model", "model_args") and (text or name in meanings.ARGUMENTS):
                found.append((name, _told(name, text), call, code))
    for name, text, takers, code in _grouped(found):
        source = line_of(code, rf"\b{name}: ", rf"\b{name}\b")
        yield name, Aspect("argument of a call", text, shape_in(text), takes=takers, source=source)


def _settings() -> Iterator[tuple[str, Aspect]]:
    modules = modules_of(generation)
    modules.sort(key=lambda module: module is sys.modules[GenerationConfig.__module__])  # where all are named, last
    for name, kind in SETTINGS.items():
        text = f"{meanings.SETTINGS[name]} It is {kind}." if kind != "anything" else meanings.SETTINGS[name]
        if name in UNSUPPORTED:
            text += " Not supported here: `generate` refuses it."
        if makes := _processors(name):
            text += f" Done by {' and '.join(makes)}."
        default = f"default {DEFAULTS[name]!r}" if name in DEFAULTS else "not set by default"
        places = (line_in_module(module, rf"\bsettings\.{name}\b", rf"\b{name}\b") for module in modules)
        source = next((place for place in places if place is not None), None)
        takes = ("generate", "GenerationConfig")
        yield name, Aspect("setting of generate", text, value=default, takes=takes, source=source)


def _processors(setting: str) -> tuple[str, ...]:
    """The processors and criteria that a setting builds, as far as one line of the builder says so."""
    from ...generation import assemble

    text = inspect.getsource(assemble)
    made = re.findall(rf"append\(\w\.(\w+)\([^\n]*settings\.{setting}\b(?! or)", text)
    return tuple(dict.fromkeys(made))


# Configurations


def _keys() -> Iterator[tuple[str, Aspect]]:
    owners: dict[str, dict[str, Any]] = {}
    for page in families.PAGES:
        family = families.family(page)
        for key, default in family.defaults.items():
            owners.setdefault(key, {})[f"{family.name}Config"] = default
        for alias, key in family.aliases.items():
            owners.setdefault(alias, {})[f"{family.name}Config ({key})"] = family.defaults.get(key)
    for key in ("num_labels", *COMMON):
        owners.setdefault(key, {}).setdefault("Config", COMMON.get(key))
    for key, having in owners.items():
        values = {repr(default) for default in having.values()}
        default = f"default {values.pop()}" if len(values) == 1 else "defaults differ by family"
        yield key, Aspect("configuration key", _key(key), value=default, of=tuple(having), source=_key_source(key))


def _key(key: str) -> str:
    if key in meanings.KEYS:
        return meanings.KEYS[key]
    for page in families.PAGES:
        family = families.family(page)
        for alias, own in family.aliases.items():
            if own == key:
                return f"{family.name}'s name for {alias}: {meanings.KEYS[alias]}"
    raise KeyError(key)


def _key_source(key: str) -> Source | None:
    pages = [sys.modules[families.family(page).spec.__module__] for page in families.PAGES]
    for pattern in (rf"\bc\.{key}\b", rf'"{key}"'):
        for page in pages:
            if (found := line_in_module(page, pattern)) is not None:
                return found
    return line_in_module(sys.modules[Config.__module__], rf'"{key}"')


# Classes and methods


def _classes() -> Iterator[tuple[str, Aspect]]:
    seen: dict[str, str] = {}
    for name, thing in classes().items():
        aspect = class_aspect(thing, name)
        if (first := seen.setdefault(aspect.text, name)) != name:
            aspect = replace(aspect, text=f"{name} is another name of {first}: {aspect.text}")
        yield name, aspect


@lru_cache(maxsize=1)
def classes() -> dict[str, Any]:
    """Classes and functions that have a name: the public ones, outputs, heads and the parts of the structure."""
    package = public()
    found = {name: getattr(package, name) for name in package.__all__}
    found.update(output_classes())
    found.update(heads.TASKS)
    found["cross_entropy"] = heads.cross_entropy
    for module in (*modules_of(structure), *modules_of(cache)):
        for name, thing in vars(module).items():
            named = inspect.isclass(thing) or inspect.isfunction(thing)
            if named and thing.__module__ == module.__name__ and not name.startswith("_"):
                found.setdefault(name, thing)
    # A class stands before its other names.
    return dict(sorted(found.items(), key=lambda item: getattr(item[1], "__name__", "") != item[0]))


def class_aspect(thing: Any, name: str = "") -> Aspect:
    """What a class or a function is."""
    name = name or thing.__name__
    if name in model_classes():
        return _model_class(name, thing)
    if inspect.ismodule(thing):
        names = tuple(getattr(thing, "__all__", ()))
        return Aspect("module", summary(thing), gives=names, source=line_in_module(thing, '"""'))
    if inspect.isclass(thing) and issubclass(thing, Config) and thing.model_type:
        page = sys.modules[families.family(thing.model_type).spec.__module__]
        source = line_in_module(page, r"defaults=\{")
        return Aspect("configuration class", summary(thing), takes=tuple(thing.defaults), source=source)
    kind = "class" if inspect.isclass(thing) else "function"
    if inspect.isclass(thing) and issubclass(thing, Exception):
        kind = "error"
    text = summary(thing)
    if getattr(thing, "task", None) and name.startswith("AutoModel"):
        text = f"Loads the class for {thing.task} of whatever family a checkpoint is of."
        return Aspect("Auto class", text, gives=tuple(_of_task(thing.task)), source=source_of(thing.from_pretrained))
    if thing.__module__.startswith(PACKAGE) and not text:
        text = f"{name}, a {thing.__mro__[1].__name__}: {summary(thing.__mro__[1])}"
    if inspect.isclass(thing) and issubclass(thing, outputs.ModelOutput) and is_dataclass(thing):
        text = f"An output. {text}"
        names = tuple(field.name for field in fields(thing))
        return Aspect(kind, text, gives=_givers(thing), of=names, source=source_of(thing))
    return Aspect(kind, text, takes=tuple(_parameters(thing)), source=source_of(thing))


def _model_class(name: str, thing: Any) -> Aspect:
    """A model class: its family, what is left of the structure, and its head."""
    kind, family = thing.kind, thing.family
    part = {"whole": "whole model", "encoder": "encoder alone", "decoder": "decoder alone"}[kind.part]
    head = "without a head: it gives the states of all tokens"
    if kind.task != "Model":
        head = f"with the head {kind.task}. {summary(heads.TASKS[kind.task])}"
    text = f"{name} is {family.name}'s {part} {head}".rstrip(".") + "."
    made = heads.TASKS.get(kind.task, Transformer)
    return Aspect("model class", text, takes=thing.arguments, source=source_of(made))


def _of_task(task: str) -> Iterator[str]:
    """The class that each family has for a task, as the Auto classes choose it."""
    for family in map(families.family, families.PAGES):
        found = family.auto.get(task) or next((n for n, k in family.classes.items() if k.task == task), None)
        if found is not None:
            yield found


def _givers(kind: Any) -> tuple[str, ...]:
    """The heads, or the calls, whose code names an output class."""
    texts = {name: source.text for name, head in heads.TASKS.items() if (source := source_of(head)) is not None}
    if (source := source_of(Transformer)) is not None:
        texts["Transformer"] = source.text
    texts["generate"] = inspect.getsource(sys.modules[generate.__module__])
    return tuple(name for name, text in texts.items() if re.search(rf"\b{kind.__name__}\b", text))


def _parameters(thing: Any) -> list[str]:
    try:
        named = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return []
    stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    shown = (p for p in named if p.name not in ("self", "cls") and not p.name.startswith("_"))
    return [stars.get(p.kind, "") + p.name for p in shown]


def _methods() -> Iterator[tuple[str, Aspect]]:
    base = public().PreTrainedModel
    for owner in (base, GenerationMixin, GlassBox, heads.Seq2SeqLM):
        for name, code in vars(owner).items():
            code = getattr(code, "__func__", code)
            told = inspect.isfunction(code) or isinstance(code, property)
            if told and not name.startswith("_"):
                yield name, method_aspect(code, owner.__name__)


def method_aspect(code: Any, owner: str) -> Aspect:
    """What a method, a property or a function is."""
    kind = "property" if isinstance(code, property) else "method" if owner else "function"
    takes = () if isinstance(code, property) else tuple(_parameters(code))
    returns = section(code, "Returns")
    text = f"{summary(code)} It gives: {returns}" if returns else summary(code)
    if takes[:1] == ("model",) and owner:
        takes = takes[1:]  # the object itself
    return Aspect(kind, text, takes=takes, of=(owner,) if owner else (), source=source_of(code))


def shape_in(text: str) -> str:
    """The first shape that a text names, "(B, T, D)"; "" if it names none."""
    found = re.search(r"\((?:[A-Z]\w*|1|\w+ or 1|1 or \w+)(?:, [\w ]+)*,?\)", text)
    return found[0] if found else ""
