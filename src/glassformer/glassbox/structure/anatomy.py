"""Reads a `Structure` from a model: walks its modules in the order of computation and names what it meets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import nn

from ...checkpoints.load import tensors_of
from ...heads import Head, MultipleChoice
from ...structure.attention import Attention, CrossAttention
from ...structure.embedding import Embedding
from ...structure.feedforward import FeedForward, GatedFeedForward
from ...structure.positions import RelativeBuckets, Rotary
from ...structure.quantized import bits_of, counts
from ...structure.stack import Stack
from ..sources import Source, source_of
from ..stacks import kind_of, stacks_of
from .structure import Part, Structure

# What is inside attention: the textbook's word, the shape, and the method that computes it.
ATTENTION = {
    "q_proj": ("queries", "B H T head_dim", "forward"),
    "k_proj": ("keys", "B kv_heads S head_dim", "forward"),
    "v_proj": ("values", "B kv_heads S head_dim", "forward"),
    "weights": ("weights of the keys", "B H T S", "_attend"),
    "mixed": ("weighted mean of the values", "B H T head_dim", "_attend"),
    "o_proj": ("output", "B T D", "_attend"),
}
FEEDFORWARD = {
    "gate_proj": ("gate", "B T inner", "wide"),
    "up_proj": ("up", "B T inner", "wide"),
    "down_proj": ("down", "B T D", "forward"),
}
# A head's module: its title, the shape of its scores, and whether they are of a text rather than of each token.
HEADS = {
    "lm_head": ("vocabulary scores", "B T V", False),
    "classifier": ("class scores", "B L", True),
    "tagger": ("class scores by token", "B T L", False),
    "span": ("start and end scores", "B T 2", False),
    "next_sentence": ("next-sentence scores", "B 2", True),
    "choice": ("score of each choice", "B choices", True),
}


class Anatomy:
    """What is known while a model is walked.

    Args:
        model: the model.
        context: tokens in view of each token.
    """

    def __init__(self, model: Any, context: int) -> None:
        self.model, self.context = model, context
        self.base = model.transformer if isinstance(model, Head) else model
        self.config: Any = getattr(model, "config", None)
        self.both = len(self.base.stacks) == 2
        self.length = "T"  # the symbol of the length of the text at hand
        self.index: int | None = None  # of the layer at hand
        self.owners: dict[int, str] = {}  # of parameters seen so far
        self.numbers = counts(model)  # that quantised parameters stand for
        self.stored: dict[int, str] = {}  # what checkpoints call a tensor
        if hasattr(model, "family"):
            tensors = tensors_of(model)
            for entry in model.naming().stored(tensors):
                self.stored.update({id(tensors[name]): entry.theirs for name in entry.ours})
        self.sizes = {"D": self.base.spec.hidden_size, "V": self.base.stacks[0].embedding.tokens.num_embeddings}

    def structure(self) -> Structure:
        """The whole."""
        parts = [self.stack(name) for name in stacks_of(self.base)]
        if self.base.pooler is not None:
            detail = "first token → dense → tanh"
            parts.append(self.part("pooler", "pooler", "readout", self.base.pooler, detail, "B D", per_text=True))
        if isinstance(self.model, Head):
            if hasattr(self.model, "classifier") and self.base.pooler is None:
                pick = self.base.spec.readouts.pick
                title = f"state of the {pick.__name__.replace('_', ' ')}"
                parts.append(self.part("pick", title, "pick", shape="B D", source=source_of(pick)))
            heads = [self.head(name, head) for name, head in self.model.named_children() if head is not self.base]
            # Scores of the vocabulary are read from the states themselves, before anything is pooled.
            first = [head for head in heads if head.name == "lm_head"]
            stacks = len(self.base.stacks)
            parts = [*parts[:stacks], *first, *parts[stacks:], *(head for head in heads if head not in first)]
        return Structure(
            class_name=type(self.model).__name__,
            name=getattr(self.config, "name_or_path", ""),
            kind=kind_of(self.base),
            dtype=" and ".join(sorted({_format(p) for p in self.model.parameters()})),
            context=self.context,
            sizes=self.sizes,
            parts=tuple(parts),
        )

    def part(
        self,
        name: str,
        title: str,
        kind: str,
        module: nn.Module | None = None,
        detail: str = "",
        shape: str = "B T D",
        sizes: dict[str, int] | None = None,
        parts: Iterable[Part] = (),
        source: Source | None = None,
        per_key: int = 0,
        per_text: bool = False,
    ) -> Part:
        """One part; what its inner parts do not count, it counts itself."""
        inner = tuple(parts)
        known = {**self.sizes, **(sizes or {})}
        symbols = [self.length if symbol == "T" else symbol for symbol in shape.split()]
        tensors = [] if module is None else [*module.parameters(not inner), *module.buffers(not inner)]
        own: list[nn.Parameter] = []
        tied = ""
        for tensor in tensors:
            if isinstance(tensor, nn.Parameter) and (owner := self.owners.setdefault(id(tensor), name)) != name:
                tied = owner
            elif isinstance(tensor, nn.Parameter):
                own.append(tensor)
        work = 0
        if module is not None and not inner:
            work = sum(2 * m.in_features * m.out_features for m in module.modules() if isinstance(m, nn.Linear))
        return Part(
            name=name,
            title=title,
            kind=kind,
            detail=detail,
            symbols=f"({', '.join(symbols)})",
            shape=f"({', '.join(str(known.get(symbol, symbol)) for symbol in symbols)})",
            parameters=sum(self.numbers.get(id(p), p.numel()) for p in own)
            + sum(p.times * p.parameters for p in inner),
            bytes=sum(p.numel() * p.element_size() for p in own) + sum(p.times * p.bytes for p in inner),
            operations=(0 if per_text else work) + per_key * self.context + sum(p.times * p.operations for p in inner),
            operations_per_key=per_key + sum(p.times * p.operations_per_key for p in inner),
            operations_per_text=(work if per_text else 0) + sum(p.times * p.operations_per_text for p in inner),
            tied=tied,
            checkpoint=tuple(dict.fromkeys(self.called(self.stored[id(t)]) for t in tensors if id(t) in self.stored)),
            source=source or (source_of(module) if module is not None else None),
            parts=inner,
        )

    def called(self, stored: str) -> str:
        """A tensor's name in checkpoints, with `*` for the layer at hand."""
        return stored if self.index is None else stored.replace(f".{self.index}.", ".*.", 1)

    def stack(self, name: str) -> Part:
        """An encoder or a decoder."""
        stack: Stack = getattr(self.base, name)
        self.length = "U" if self.both and name == "decoder" else "T"
        parts = [
            self.part(f"{name}.input_ids", "token ids", "input", shape="B T", source=source_of(stack)),
            self.embedding(f"{name}.embedding", stack.embedding),
        ]
        positions = stack.positions
        if isinstance(positions, Rotary):
            kind = positions.settings.get("rope_type", "default")
            base = f"base {positions.settings['rope_theta']:,g}"
            detail = f"{'' if kind == 'default' else f'{kind}, '}{base} → queries and keys"
            shape, sizes = "B T rotary_dim", {"rotary_dim": positions.dim}
            place = f"{name}.positions"
            parts.append(self.part(place, "rotary positions", "positions", positions, detail, shape, sizes))
        elif isinstance(positions, RelativeBuckets):
            detail = f"{positions.table.num_embeddings} buckets → scores"
            shape, sizes = "1 H T S", {"H": positions.table.embedding_dim}
            place = f"{name}.positions"
            parts.append(self.part(place, "relative positions", "positions", positions, detail, shape, sizes))
        parts += self.layers(name, stack)
        if not isinstance(stack.final_norm, nn.Identity):
            parts.append(self.norm(f"{name}.final_norm", stack.final_norm, "final norm"))
        return self.part(name, name, "stack", stack, parts=parts)

    def embedding(self, name: str, module: Embedding) -> Part:
        """What is summed to the vectors that the first layer reads."""
        scale = f", × {module.scale:.4g}" if module.scale != 1.0 else ""
        tokens = module.tokens
        detail = f"{tokens.num_embeddings:,} × {tokens.embedding_dim:,}{scale}"
        parts = [self.part(f"{name}.tokens", "token embedding", "table", tokens, detail)]
        if module.types is not None:
            detail, source = f"{module.types.num_embeddings} types", source_of(type(module).with_types)
            parts.append(self.part(f"{name}.types", "token types", "table", module.types, detail, source=source))
        if module.positions is not None:
            detail = f"{module.positions.table.num_embeddings - module.positions.offset:,} positions"
            parts.append(self.part(f"{name}.positions", "learned positions", "table", module.positions, detail))
        if not isinstance(module.norm, nn.Identity):
            parts.append(self.norm(f"{name}.norm", module.norm))
        return self.part(name, "embedding", "embedding", module, parts=parts)

    def layers(self, name: str, stack: Stack) -> list[Part]:
        """The layers, those that follow each other and are alike as one part."""
        parts = []
        for index, layer in enumerate(stack.layers):
            self.index = index
            parts.append(self.layer(f"{name}.layers.*", layer, name == "decoder"))
        self.index = None
        groups, start = [], 0
        for part, alike in groupby(parts):
            end = start + len(list(alike))
            groups.append(replace(part, layers=tuple(range(start, end))))
            start = end
        return groups if len(groups) == 1 else [_numbered(group, f"{name}.layers.") for group in groups]

    def layer(self, name: str, layer: nn.Module, masked: bool) -> Part:
        """One layer: its residual steps, and the norms between them."""
        parts: list[Part] = []
        for step, module in layer.named_children():
            if (residual := getattr(layer, f"{step}_residual", None)) is None:
                continue
            outer = f"{name}.{step}_residual"
            norms = {slot: getattr(residual, slot) for slot in ("before", "out", "after")}
            made = {s: self.norm(f"{outer}.{s}", n) for s, n in norms.items() if not isinstance(n, nn.Identity)}
            inner = [made.get("before"), self.step(f"{name}.{step}", module, masked), made.get("out")]
            source = source_of(residual)
            parts.append(self.part(outer, "residual step", "step", parts=filter(None, inner), source=source))
            parts += [made["after"]] if "after" in made else []
        return self.part(name, "layer", "layer", layer, parts=parts)

    def step(self, name: str, module: nn.Module, masked: bool) -> Part:
        """Attention, cross-attention or feed-forward."""
        if isinstance(module, Attention):
            return self.attention(name, module, masked)
        if isinstance(module, FeedForward):
            inner = module.up_proj.out_features
            gate = " gate" if isinstance(module, GatedFeedForward) else ""
            detail = f"{inner:,} wide, {module.activation.__name__}{gate}"
            parts = self.inside(name, module, FEEDFORWARD, {"inner": inner})
            return self.part(name, "feed-forward", "feedforward", module, detail, parts=parts)
        return self.part(name, name.rpartition(".")[2].replace("_", " "), "step", module)

    def attention(self, name: str, module: Attention, masked: bool) -> Part:
        """Attention with what is inside: four projections, and two products that weigh and mix the values."""
        cross, width = isinstance(module, CrossAttention), module.heads * module.head_dim
        title = "cross-attention" if cross else "masked self-attention" if masked else "self-attention"
        detail = f"{module.heads} heads of {module.head_dim}"
        if module.kv_heads != module.heads:
            detail += f", {module.kv_heads} kv heads"
        if abs(module.scale * module.head_dim**0.5 - 1) > 1e-6:
            detail += ", unscaled" if module.scale == 1.0 else f", scores × {module.scale:.4g}"
        if cross and not self.both:
            detail += ", over encoder_hidden_states"
        sizes = {"H": module.heads, "kv_heads": module.kv_heads, "head_dim": module.head_dim}
        parts = self.inside(name, module, ATTENTION, sizes)
        products = []
        for place in ("weights", "mixed"):
            word, shape, method = ATTENTION[place]
            place, source = f"{name}.{place}", source_of(module, method)
            products.append(
                self.part(place, word, "product", shape=shape, sizes=sizes, source=source, per_key=2 * width)
            )
        parts = [*parts[:-1], *products, parts[-1]]  # between the values and the output
        return self.part(name, title, "attention", module, detail, parts=parts)

    def inside(
        self,
        name: str,
        module: nn.Module,
        words: dict[str, tuple[str, str, str]],
        sizes: dict[str, int],
        per_text: bool = False,
    ) -> list[Part]:
        """The matrices inside a part, and what else it has."""
        parts = []
        children = trained(module)
        for child in sorted(children, key=[*words, *children].index):
            word, shape, method = words.get(child, (child.replace("_", " "), "B T D", "forward"))
            kind = "matrix" if any(isinstance(m, nn.Linear) for m in children[child].modules()) else "norm"
            place, source = f"{name}.{child}", source_of(module, method)
            parts.append(
                self.part(place, word, kind, children[child], "", shape, sizes, source=source, per_text=per_text)
            )
        return parts

    def norm(self, name: str, module: nn.Module, title: str = "norm") -> Part:
        """A norm."""
        return self.part(name, title, "norm", module, type(module).__name__)

    def head(self, name: str, module: nn.Module) -> Part:
        """What turns states into scores."""
        title, shape, per_text = HEADS.get(name, (name.replace("_", " "), "B T D", False))
        sizes: dict[str, int] = {}
        if isinstance(self.model, MultipleChoice):
            title, shape = "score of each choice", "B choices"
        elif name in ("classifier", "tagger"):
            sizes["L"] = self.config.num_labels
        states = "B D" if per_text else "B T D"
        words = {part: (word, states, "forward") for part, word in (("dense", "dense layer"), ("norm", "norm"))}
        words["linear"] = ("scores", shape, "forward")
        # A readout of one matrix has nothing inside that it is not itself.
        parts = self.inside(name, module, words, sizes, per_text) if len(trained(module)) > 1 else []
        detail = chain(module)
        if any(part.tied for part in parts):
            detail += ", the last tied"
        labels = list(self.config.id2label.values()) if "L" in sizes else []
        if labels and labels != [f"LABEL_{index}" for index in range(len(labels))]:
            detail += f": {' · '.join(map(str, labels[:3]))}{' · …' if len(labels) > 3 else ''}"
        return self.part(name, title, "readout", module, detail, shape, sizes, parts, per_text=per_text)


def trained(module: nn.Module) -> dict[str, nn.Module]:
    """The modules inside that have parameters."""
    return {name: child for name, child in module.named_children() if next(child.parameters(), None) is not None}


def chain(module: nn.Module) -> str:
    """The widths of the linear layers of a readout, one after the other."""
    steps = [module, getattr(module, "dense", None), getattr(module, "linear", None)]
    linear = [step for step in steps if isinstance(step, nn.Linear)]
    return " → ".join(
        f"{width:,}" for width in (*(s.in_features for s in linear), *(s.out_features for s in linear[-1:]))
    )


def _numbered(part: Part, stack: str) -> Part:
    """A group of layers under its numbers, where there are several groups; a single layer's tensors too."""
    first, last = part.layers[0], part.layers[-1]
    number = str(first) if first == last else f"{first}-{last}"

    def named(inner: Part) -> Part:
        stored = (name.replace(".*.", f".{first}.", 1) if first == last else name for name in inner.checkpoint)
        name = inner.name.replace(f"{stack}*", f"{stack}{number}", 1)
        return replace(inner, name=name, checkpoint=tuple(stored), parts=tuple(named(p) for p in inner.parts))

    return named(part)


def _format(parameter: nn.Parameter) -> str:
    """The number format of a parameter: float32, ..., or int8 and int4 where it is quantised."""
    packed = parameter.dtype == torch.uint8
    return f"int{bits_of(parameter)}" if packed else str(parameter.dtype).removeprefix("torch.")
