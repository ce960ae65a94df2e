"""`explain`: of a name or an object, which part of the structure it is; from calls to concepts and back."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from torch import nn

from ...errors import InputError
from ...families.family import ModelClass
from ...heads import TASKS
from ...outputs import ModelOutput
from ...structure.attention import Attention, CrossAttention
from ...structure.embedding import Embedding
from ...structure.feedforward import FeedForward
from ...structure.layer import Layer
from ...structure.places import Announcing
from ...structure.positions import RelativeBuckets, Rotary
from ...structure.quantized import counts
from ...structure.readout import Pooler
from ...structure.stack import Stack
from ..listen import places
from ..sources import PACKAGE, source_of
from ..stacks import kind_of, stacks_of
from ..trace.lines import announced
from .concepts import concepts
from .example import sizes
from .glossary import CONCEPTS, SYNONYMS, Concept
from .names import Aspect, class_aspect, classes, field_shape, index, method_aspect, model_classes, output_classes
from .rows import Row

# Where parts stand in a model, and their classes.
PARTS: tuple[tuple[str, type[Announcing]], ...] = (
    ("S", Stack),
    ("S.embedding", Embedding),
    ("S.positions", Rotary),
    ("S.positions", RelativeBuckets),
    ("S.layers.N", Layer),
    ("S.layers.N.attention", Attention),
    ("decoder.layers.N.cross_attention", CrossAttention),
    ("S.layers.N.feedforward", FeedForward),
    ("pooler", Pooler),
    *(("", head) for head in TASKS.values()),
)
STACKS = {"encoder": "the encoder", "decoder": "the decoder", "S": "a stack"}
CODE = ("class", "function", "method", "property")
MOST = 12  # related names


@dataclass(frozen=True)
class Explanation:
    """What a name or an object is; as a string it is drawn for a terminal, in a notebook as HTML.

    Attributes:
        name: as it is in the code.
        aspects: the things that it is, such as an argument and an output field.
        concepts: the terms of the textbook that it belongs to.
        rows: their rows in the table of the model, where one is given and has them.
        related: other names of the same concepts.
    """

    name: str
    aspects: tuple[Aspect, ...]
    concepts: tuple[Concept, ...] = ()
    rows: tuple[Row, ...] = ()
    related: tuple[str, ...] = ()

    def __str__(self) -> str:
        from .drawing import explanation_text

        return explanation_text(self)

    def _repr_html_(self) -> str:
        from .drawing import explanation_html

        return explanation_html(self)

    def to_dict(self) -> dict[str, Any]:
        """The explanation as data that JSON can hold."""
        return {
            "name": self.name,
            "aspects": [aspect.to_dict() for aspect in self.aspects],
            "concepts": [dict(vars(concept)) for concept in self.concepts],
            "rows": [row.to_dict() for row in self.rows],
            "related": list(self.related),
        }


def explain(thing: Any, model: Any = None) -> Explanation:
    """Say which part of the structure something is.

    Args:
        thing: a concept ("cross-attention"), an argument, an output field, a setting of `generate`, a configuration
            key, a class, a tensor's name ("decoder.layers.3.attention.weights"); or an object: a model, a part of it,
            a method, a tokenizer, a cache, an output, a processor, or a class of any of these.
        model: whose numbers are wanted in the shapes.

    Raises:
        InputError: if nothing of that name is known, with the names nearest to it; or the object is not of this
            library.

    Example:
        >>> print(explain("past_key_values"))
        >>> print(explain(model.generate))
    """
    if isinstance(thing, str):
        return _of_name(thing, model)
    if model is None and isinstance(thing, nn.Module) and hasattr(thing, "family"):
        model = thing
    name, aspects = _of_object(thing, model)
    return _explanation(name, aspects, _concepts_of(thing, name), model)


def _explanation(name: str, aspects: Iterable[Aspect], found: Iterable[Concept], model: Any) -> Explanation:
    kept = tuple(dict.fromkeys(found))
    rows: tuple[Row, ...] = ()
    if model is not None and hasattr(model, "family"):
        table = concepts(model)
        rows = tuple(table[concept.name] for concept in kept)
        aspects = [_with_numbers(name, aspect, model) for aspect in aspects]
    others = dict.fromkeys(other for concept in kept for other in (concept.name, *concept.names) if other != name)
    return Explanation(name, tuple(aspects), kept, rows, tuple(others)[:MOST])


# Names


def _of_name(given: str, model: Any) -> Explanation:
    name = given.strip()
    aspects = _named([name], model)
    found = list(_concepts_named(name))
    if not aspects:  # as people write it
        word = normal(name)
        if word not in _known() and word not in _synonyms():  # a call: "model.generate(...)", "use_cache=True"
            word = normal(re.sub(r"\(.*\)$|=.*$", "", name).rpartition(".")[2])
        names = _known().get(normal(_synonyms()[word]) if word in _synonyms() else word, ())
        aspects = _named(names, model)
        found += [concept for one in names for concept in _concepts_named(one)]
        spelt = next((w for c in CONCEPTS for w in (c.name, *c.also) if normal(w) == word), None)
        name = spelt or next(iter(names), name)
    if not aspects and model is not None and name in getattr(model, "config", ()):
        aspects = [Aspect("configuration key", f"A key of this model's config.json, kept under the name {name!r}.")]
    if not aspects and not found:
        known = {**{word: names[0] for word, names in _known().items()}, **_synonyms()}
        near = dict.fromkeys(known[word] for word in difflib.get_close_matches(normal(given), known, 4, 0.5))
        nearest = ", ".join(near) or "cross-attention, past_key_values, top_p"
        raise InputError(f"Nothing here is named {given!r}; nearest are {nearest}.")
    if not found:
        found = [concept for aspect in aspects for concept in _concepts_of_calls(aspect)]
    if not aspects:  # a concept alone: the code that computes it
        aspects = [a for one in found[0].names for a in index().get(one, ()) if a.kind in CODE][:2]
    if model is not None and hasattr(model, "family"):
        aspects = [own for a in aspects if (own := _own(name, a, model)) is not None] or aspects
    return _explanation(name, aspects, found, model)


def _named(names: Iterable[str], model: Any) -> list[Aspect]:
    """What is known under some names."""
    return [aspect for name in names for aspect in (*index().get(name, ()), *_tensors(name, model))]


def _own(name: str, aspect: Aspect, model: Any) -> Aspect | None:
    """What of an aspect is true of a model: its class alone as the one that takes an argument or gives a field."""
    if aspect.kind == "argument of forward":
        kind = type(model).__name__
        return replace(aspect, takes=(kind,)) if kind in aspect.takes else None
    if aspect.kind == "output field":
        givers = tuple(giver for giver in aspect.gives if giver in _outputs_of(model))
        return replace(aspect, gives=givers, shape=field_shape(name, givers)) if givers else None
    return aspect


def _outputs_of(model: Any) -> set[str]:
    """The names of the classes of outputs that a model and its `generate` may give."""
    kind, both = type(model).kind.task, len(stacks_of(model)) == 2
    owner = "Transformer" if kind == "Model" else kind
    named = {n for n, k in output_classes().items() if owner in class_aspect(k, n).gives}
    if kind != "Model":  # of heads that serve several structures
        named = {n for n in named if n.startswith("Seq2Seq") == both}
    elif both:
        named = {"Seq2SeqModelOutput"}
    if model.can_generate():
        named |= {f"Generate{beam}{'EncoderDecoder' if both else 'DecoderOnly'}Output" for beam in ("", "Beam")}
    return named


def normal(word: str) -> str:
    """A word without what people write differently: case, plurals, hyphens, and -isation for -ization."""
    parts = re.findall(r"[^\W_]+", word.lower().replace("isation", "ization").replace("tokenise", "tokenize"))
    return "".join(part[:-1] if len(part) > 2 and part[-1] == "s" and part[-2] != "s" else part for part in parts)


@lru_cache(maxsize=1)
def _known() -> dict[str, tuple[str, ...]]:
    """The names that have a normal form: of the code, of tensors and of concepts."""
    known: dict[str, list[str]] = {}
    for name in index():
        known.setdefault(normal(name), []).append(name)
    for path, part in PARTS:
        for place in part.places:
            short = f"{path}.{place}".removeprefix(".").replace("S.", "", 1).replace("layers.N.", "")
            for name in (short, place):
                known.setdefault(normal(name), []).append(name)
    for concept in CONCEPTS:
        for word in (concept.name, *concept.also):
            known.setdefault(normal(word), []).append(concept.name)
    return {word: tuple(dict.fromkeys(names)) for word, names in known.items()}


@lru_cache(maxsize=1)
def _synonyms() -> dict[str, str]:
    return {normal(word): name for word, name in SYNONYMS.items()}


def _concepts_named(name: str) -> Iterator[Concept]:
    """The concepts that a name is, or belongs to, or that its tensor belongs to."""
    word = normal(name)
    for concept in CONCEPTS:
        if word in map(normal, (concept.name, *concept.also)):
            yield concept
    for concept in CONCEPTS:
        tensor = any(fnmatchcase(name, pattern) for pattern in concept.places)
        if name in concept.names or (tensor and ("." in name or name in concept.places)):
            yield concept
    if (kind := classes().get(name)) is not None:
        yield from _concepts_of_class(kind)


def _concepts_of_calls(aspect: Aspect) -> Iterator[Concept]:
    """The concepts of the calls that take an argument or a setting."""
    calls = {"tokenizer": "tokenisation", "generate": "autoregressive generation", "stream": "streaming"}
    taken = aspect.takes if aspect.kind in ("argument of a call", "setting of generate") else ()
    wanted = {calls[call] for call in taken if call in calls}
    yield from (concept for concept in CONCEPTS if concept.name in wanted)


def _concepts_of_class(kind: Any) -> Iterator[Concept]:
    """The concepts of a class: by its name, those that it derives from, its task, or the room that it is in."""
    known = {name for concept in CONCEPTS for name in concept.names}
    bases = (base.__name__ for base in getattr(kind, "__mro__", (kind,)))
    names = {next((base for base in bases if base in known), "")}
    if isinstance(made := getattr(kind, "kind", None), ModelClass):
        names = {made.task}
        if made.task == "Model":
            names = {{"whole": "AutoModel", "encoder": "Encoder", "decoder": "Decoder"}[made.part]}
    if inspect.isclass(kind) and issubclass(kind, ModelOutput):
        names = {"last_hidden_state" if giver == "Transformer" else giver for giver in class_aspect(kind).gives}
    module = str(getattr(kind, "__module__", ""))
    if ".tokenization." in module:
        names.add("AutoTokenizer")
    if module.endswith(".warpers"):
        names = {"do_sample"}
    for concept in CONCEPTS:
        if names & set(concept.names):
            yield concept


# Tensors


def _tensors(name: str, model: Any) -> list[Aspect]:
    """The tensors of a name, whole or in part."""
    found: dict[str, Aspect] = {}
    wanted = name.removeprefix("*.").removeprefix("*")
    for path, part in PARTS:
        for place, meaning in part.places.items():
            full = f"{path}.{place}".removeprefix(".")
            if not (at := _place(wanted, full)):
                continue
            text = f"{meaning[0].upper()}{meaning[1:]}; {_where(path, at)}."
            known = found.get(text)
            of = (*(known.of if known else ()), part.__name__)
            source = known.source if known else announced(part, place)
            found[text] = Aspect("tensor", text, _last_shape(meaning), of=of, source=source)
    if model is not None and found:
        here = places(model)
        named = [one for one in here if one == wanted or one.endswith(f".{wanted}")]
        if not named:
            note = f"This {type(model).__name__} has no such tensor."
            return [replace(aspect, value=note) for aspect in found.values()]
    return list(found.values())


def _place(name: str, full: str) -> tuple[str, str] | None:
    """The stack and the layer in a tensor's name, "S" and "N" where it leaves them open; None if it is another."""
    if full == name or full.endswith(f".{name}"):
        return full.partition(".")[0] if full.startswith(("decoder.", "S.")) else "", "N"
    pattern = re.escape(full).replace("S\\.", r"(?:(?P<stack>encoder|decoder|\*)\.)?", 1)
    pattern = pattern.replace(r"\.N\.", r"\.(?P<layer>\d+|\*|N)\.")
    if (match := re.fullmatch(pattern, name)) is None:
        return None
    groups = match.groupdict()
    stack = groups.get("stack") or full.partition(".")[0]
    return stack.replace("*", "S"), (groups.get("layer") or "N").replace("*", "N")


def _where(path: str, at: tuple[str, str]) -> str:
    """Where a part stands, in words."""
    stack, layer = at
    part = path.rpartition(".")[2].replace("_", "-")
    words = "" if part in ("S", "N") else f"the {part.replace('feedforward', 'feed-forward')}"
    if not path:
        return "of the head"
    if "layers" in path:
        place = "each layer" if layer == "N" else f"layer {layer}"
        inner = f"of {words} in {place}" if words else f"of {place}"
        return f"{inner} of {STACKS[stack]}"
    if path == "pooler":
        return "of the pooler"
    return f"of {words} of {STACKS[stack]}" if words else f"of {STACKS[stack]}"


def _last_shape(meaning: str) -> str:
    found = re.findall(r"\([^()]*\)", meaning)
    return found[-1] if found and meaning.rstrip().endswith((found[-1], "one type")) else ""


# Objects


def _of_object(thing: Any, model: Any) -> tuple[str, list[Aspect]]:
    """The name of an object, and what it is."""
    if inspect.ismodule(thing):
        name = thing.__name__.rpartition(".")[2]
        if not thing.__name__.startswith(f"{PACKAGE}.") or name not in index():
            raise InputError(f"explain knows the rooms of this library that are public, but got the module {name}.")
        return name, index()[name]
    if inspect.isclass(thing):
        _ours(thing)
        return thing.__name__, [_indexed(thing)]
    if isinstance(thing, property) or inspect.isroutine(thing):
        return _of_routine(thing)
    kind = type(thing)
    if isinstance(thing, nn.Module):
        return _of_module(thing, model)
    _ours(kind)
    aspect = _indexed(kind)
    if isinstance(thing, ModelOutput):
        shown = ", ".join(f"{key}: {_brief(value)}" for key, value in thing.items())
        return kind.__name__, [replace(aspect, value=shown)]
    return kind.__name__, [replace(aspect, value=_shown(thing))]


def _ours(kind: Any) -> None:
    if kind.__module__.partition(".")[0] != PACKAGE and kind.__name__ not in classes():
        raise InputError(
            f"explain knows names and objects of this library, but got a {kind.__name__}; give a name such as "
            "'cross-attention' or 'past_key_values', or a model or a part of it."
        )


def _indexed(kind: Any) -> Aspect:
    """The aspect of a class; what is said under its name is said of it."""
    if kind in (classes().get(kind.__name__),):
        return next(a for a in index()[kind.__name__] if a.source == class_aspect(kind).source)
    return class_aspect(kind)


def _of_routine(thing: Any) -> tuple[str, list[Aspect]]:
    bound = getattr(thing, "__self__", None)
    code: Any = thing.fget if isinstance(thing, property) else inspect.unwrap(getattr(thing, "__func__", thing))
    name, module = str(code.__name__), str(code.__module__)
    if module.partition(".")[0] != PACKAGE:
        raise InputError(f"explain knows functions of this library, but {name} is of {module}.")
    owner = bound if inspect.isclass(bound) else type(bound)
    known = "" if bound is None or inspect.ismodule(bound) else owner.__name__
    return name, [method_aspect(thing if isinstance(thing, property) else code, known)]


def _of_module(thing: nn.Module, model: Any) -> tuple[str, list[Aspect]]:
    """A model, or a part of one."""
    kind = type(thing)
    packed = counts(thing)
    count = sum(packed.get(id(p), p.numel()) for p in thing.parameters())
    value = f"{count:,} parameters"
    path = ""
    if model is not None and model is not thing:
        path = next((n for n, part in model.named_modules() if part is thing), "")
        path = path.removeprefix("transformer.")
    if kind.__name__ in model_classes() and hasattr(thing, "family"):
        depths = [f"{name} of {len(getattr(thing.base_model, name).layers)} layers" for name in stacks_of(thing)]
        return kind.__name__, [replace(_indexed(kind), value=", ".join([*depths, value]))]
    if kind.__module__.partition(".")[0] == PACKAGE:
        aspect = _indexed(kind)
    else:  # of torch, as part of a model
        if not path:
            raise InputError(f"This {kind.__name__} is torch's: give the model that it is in, as explain(part, model).")
        aspect = Aspect("module", f"A {kind.__name__} of torch: {_shown(thing)}.", source=source_of(thing))
    if isinstance(thing, Announcing) and thing.places:
        names = (f"{path}.{place}".removeprefix(".") for place in filter(thing.has, thing.places))
        aspect = replace(aspect, gives=tuple(names))
    what = f"part of {type(model).__name__}" if path else aspect.kind
    return path or kind.__name__, [replace(aspect, kind=what, value=value)]


def _concepts_of(thing: Any, name: str) -> Iterator[Concept]:
    """The concepts of an object."""
    kind = thing if inspect.isclass(thing) else type(thing)
    if inspect.isroutine(thing) or isinstance(thing, property):
        yield from _concepts_named(name)
        if name == "forward" and isinstance(model := getattr(thing, "__self__", None), nn.Module):
            yield from _concepts_of_class(type(model))
    elif isinstance(thing, nn.Module) and kind.__name__ not in model_classes():
        ours = kind.__module__.partition(".")[0] == PACKAGE
        yield from _concepts_of_class(kind) if ours else ()
        yield from (c for c in CONCEPTS if any(fnmatchcase(name, pattern) for pattern in c.places))
    else:
        yield from _concepts_of_class(kind)
    if isinstance(thing, nn.Module) and hasattr(thing, "family"):
        yield from (concept for concept in CONCEPTS if concept.name.startswith(f"{kind_of(thing)} "))


def _brief(value: Any) -> str:
    if hasattr(value, "shape"):
        return str(tuple(value.shape))
    if isinstance(value, (tuple, list)):
        return f"{len(value)} of {_brief(value[0])}" if value else "none"
    return type(value).__name__


def _shown(thing: Any) -> str:
    """A short word on an object, where it has one of its own."""
    if "__repr__" not in {name for kind in type(thing).__mro__[:-1] for name in vars(kind)}:
        return ""
    text = " ".join(repr(thing).split())
    return text if len(text) <= 80 else text[:79] + "…"


def _with_numbers(name: str, aspect: Aspect, model: Any) -> Aspect:
    """An aspect with a model's numbers in its shape, and the model's value of a key or setting."""
    shape, value = aspect.shape, aspect.value
    stack = "decoder" if name.startswith("decoder") or name in ("cross_attentions", "past_key_values") else ""
    stacks = stacks_of(model)
    known = sizes(model, stack if stack in stacks else stacks[0])
    known.update(vocabulary=known["V"], labels=known["L"])
    if shape:
        numbers = re.sub(r"[A-Za-z_]+(?: dim)?", lambda word: str(known.get(word[0], word[0])), shape)
        shape = f"{shape} = {numbers}" if numbers != shape else shape
    if aspect.kind == "configuration key" and name in model.config:
        default = f"default {model.config.defaults[name]!r}" if name in model.config.defaults else aspect.value
        value = f"{getattr(model.config, name)!r} here, {default}".removesuffix(", ")
    if aspect.kind == "setting of generate" and model.can_generate():
        own = getattr(model.generation_config, name, None)
        value = f"{own!r} here, {aspect.value}" if own is not None else aspect.value
    return replace(aspect, shape=shape, value=value)
