"""Foreign models: the tensors of the peer's models under the names of this library, so that both can be compared.

The name tables that checkpoints are read with say which module of the peer is which part here; hooks on those modules
hear what goes in and comes out. Where the peer computes something in the middle of a module (scores, and queries and
keys that are turned by rotary positions), there is nothing to hook, and the names are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ... import families
from ...checkpoints.names import Row
from ...config import Config, Reader
from ...errors import InputError
from ...heads import TASKS
from ...model import Transformer
from ...structure.attention import Attention
from ...structure.maps import ALL, selected
from ...structure.positions import Positions
from ..listen import parts
from ..sources import source_of

if TYPE_CHECKING:
    from .trace import Trace

Names = tuple[str, ...]  # of one tensor; several where it holds several parts, side by side

# A part here to what goes into its module and what comes out, beside the part in the tree of names.
_HEARD = {
    "embedding.tokens": (None, "embedding.tokens"),
    "embedding.types": (None, "embedding.types"),
    "embedding.positions.table": (None, "embedding.positions"),
    "positions.table": (None, "positions.bias"),
    "attention.q_proj": ("attention.input", "attention.queries"),
    "attention.k_proj": (None, "attention.keys"),
    "attention.v_proj": (None, "attention.values"),
    "attention.o_proj": ("attention.mixed", "attention.output"),
    "attention_residual.after": (None, "after_attention"),
    "cross_attention.q_proj": ("cross_attention.input", "cross_attention.queries"),
    "cross_attention.k_proj": (None, "cross_attention.keys"),
    "cross_attention.v_proj": (None, "cross_attention.values"),
    "cross_attention.o_proj": ("cross_attention.mixed", "cross_attention.output"),
    "cross_attention_residual.before": ("after_attention", None),
    "cross_attention_residual.after": (None, "after_cross_attention"),
    "feedforward_residual.before": ("after_cross_attention", None),
    "feedforward.up_proj": ("feedforward.input", None),
    "feedforward.down_proj": ("feedforward.inner", "feedforward.output"),
    "final_norm": (None, "output"),
}
_SPLIT = ("queries", "keys", "values", "mixed")
# What the peer's outputs call scores.
_SCORES = {
    "loss": "loss",
    "logits": "logits",
    "prediction_logits": "logits",
    "seq_relationship_logits": "next_sentence_logits",
    "start_logits": "start_logits",
    "end_logits": "end_logits",
    "mc_logits": "mc_logits",
}


def is_foreign(model: Any) -> bool:
    """Whether a model is the peer's: a module with a configuration and none of the parts of this library."""
    named = isinstance(getattr(getattr(model, "config", None), "model_type", None), str)
    return isinstance(model, nn.Module) and named and not parts(model)


def anatomy(model: Any) -> nn.Module:
    """The same model as this library builds it, with shapes but no memory, for its names and what they mean.

    Args:
        model: the peer's.

    Raises:
        InputError: if this library has no class of that name.
        ConfigError: if it has no such family, or does not compute what the configuration asks for.
    """
    family = families.family(model.config.model_type)
    name = type(model).__name__
    if name not in family.classes:
        raise InputError(f"A {name} cannot be traced, for there is none here; give one of {', '.join(family.classes)}.")
    kind = family.classes[name]
    known = {"model_type": family.model_type, "defaults": family.defaults, "aliases": family.aliases}
    made = type(f"{family.name}Config", (Config,), {**known, "complete": family.complete})
    config: Config = made(**model.config.to_dict())
    config.name_or_path = str(getattr(model.config, "name_or_path", "") or "")
    spec = family.spec(Reader(config))
    spec = {"whole": spec, "encoder": spec.encoder_only(), "decoder": spec.decoder_only()}[kind.part]
    with torch.device("meta"):
        backbone = Transformer(spec, add_pooling_layer=kind.task == "Model" or TASKS[kind.task].pools)
        found: Any = backbone if kind.task == "Model" else TASKS[kind.task](backbone, config)
    found.config = config
    return found  # type: ignore[no-any-return]


def run(model: Any, ours: nn.Module, recorded: Trace, call: Mapping[str, Any]) -> None:
    """Call the peer's model once and record what it computes.

    Args:
        model: the peer's.
        ours: its anatomy.
        recorded: a trace of that anatomy, while it is open.
        call: the arguments.
    """
    ear = _Ear(model, ours, recorded)
    maps = any(name.endswith(".weights") for name in recorded.meanings)
    with ExitStack() as hooks:
        hooks.enter_context(_eager(model))
        for module in ear.entering:
            hooks.callback(module.register_forward_pre_hook(ear.enters, with_kwargs=True).remove)
        for module in ear.leaving:
            hooks.callback(module.register_forward_hook(ear.leaves).remove)
        ear.ends(model(**{**call, "return_dict": True, "output_attentions": maps}))
    recorded.records = _ordered(recorded.records)


@contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    """Let a model form its attention maps, which its fast kernels never do, and be what it was afterwards."""
    key = "_attn_implementation"
    configs = {id(c): c for module in model.modules() if hasattr(c := getattr(module, "config", None), key)}
    before = [(config, getattr(config, key)) for config in configs.values()]
    try:
        for config, _ in before:
            setattr(config, key, "eager")
        yield
    finally:
        for config, value in before:
            setattr(config, key, value)


def _ordered(records: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
    """Records with the weights, which came last, in the place where they were computed."""
    names: dict[str, None] = {}
    for name in records:
        path, _, place = name.rpartition(".")
        if place in ("mixed", "output") and (weights := f"{path}.weights") in records:
            names.setdefault(weights)
        names.setdefault(name)
    return {name: records[name] for name in names}


class _Ear:
    """Hears the modules of a foreign model, and tells a trace under the names of this library.

    Attributes:
        entering: by module the names of what goes in, in turn where it is called several times.
        leaving: the same of what comes out.
    """

    def __init__(self, model: Any, ours: Any, recorded: Trace) -> None:
        base = getattr(model, getattr(model, "base_model_prefix", ""), model)
        self.recorded = recorded
        self.modules: dict[str, nn.Module] = dict(base.named_modules())
        self.skeleton: Transformer = getattr(ours, "transformer", ours)
        self.stacks = {name: s for name in ("encoder", "decoder") if (s := getattr(self.skeleton, name)) is not None}
        self.entering: dict[nn.Module, list[list[Names]]] = {}
        self.leaving: dict[nn.Module, list[list[Names]]] = {}
        self.calls: Counter[tuple[nn.Module, bool]] = Counter()
        self.chunks = bool(getattr(model.config, "chunk_size_feed_forward", 0))
        self.heard: set[str] = set()
        self.read: set[str] = set()  # the stacks whose token tables are found
        layers: dict[str, str] = {}
        for row in families.family(model.config.model_type).rows(ours.config):
            stack, _, part = row.ours[0].partition(".")
            if stack == "pooler":
                self.listen(self.leaving, self.modules.get(row.theirs.rpartition(".")[0]), ("pooler.output",))
            elif part == "embedding.tokens":
                self.tables(stack, row)
            elif stack in self.stacks:
                if part.startswith("layers.*."):
                    layers.setdefault(stack, row.theirs[: row.theirs.index("*") + 1])
                for number in range(len(self.stacks[stack].layers) if "*" in row.theirs else 1):
                    self.place(self.modules.get(row.theirs.replace("*", str(number))), row, str(number))
        for stack, path in layers.items():
            self.layers(stack, [self.modules[path.replace("*", str(n))] for n in range(len(self.stacks[stack].layers))])

    def listen(self, side: dict[nn.Module, list[list[Names]]], module: nn.Module | None, *heard: Names) -> None:
        """Hear several tensors, or one of several parts, at the next call of a module."""
        if module is not None:
            side.setdefault(module, []).append(list(heard))

    def tables(self, first: str, row: Row) -> None:
        """Hear the token table: of its own stack, or of all that share it, one after the other."""
        for stack in self.stacks if self.skeleton.spec.shared else [first]:
            own = [name for name in (row.theirs, *row.also) if name.startswith(f"{stack}.") and name in self.modules]
            module = self.modules.get(own[0] if own else row.theirs)
            if stack not in self.stacks or stack in self.read or module is None:
                continue
            self.read.add(stack)
            self.listen(self.entering, module, (f"{stack}.input_ids",))
            self.listen(self.leaving, module, (f"{stack}.embedding.tokens",))
            if len(self.stacks) == 1:  # token types may be rows of the same table, looked up in a second call
                self.listen(self.leaving, module, (f"{stack}.embedding.types",))

    def place(self, module: nn.Module | None, row: Row, number: str) -> None:
        """Hear the module of a row."""
        names = [name.replace("*", number) for name in row.ours]
        if self.chunks and ".feedforward." in names[0]:
            return  # computed in pieces of the text, none of which is the whole
        goes_in, comes_out = zip(*(_HEARD.get(_part(name), (None, None)) for name in names))
        before = [name.removesuffix(_part(name)) for name in names]
        if goes_in[0] is not None:
            self.listen(self.entering, module, (before[0] + goes_in[0],))
        if comes_out[0] is not None:
            self.listen(self.leaving, module, tuple(map(str.__add__, before, comes_out)))

    def layers(self, stack: str, modules: list[nn.Module]) -> None:
        """Hear what goes into the layers and comes out of them."""
        for number, module in enumerate(modules):
            first = [(f"{stack}.embedding.output",)] if number == 0 else []
            last = number == len(modules) - 1 and isinstance(self.stacks[stack].final_norm, nn.Identity)
            self.listen(self.entering, module, *first, (f"{stack}.layers.{number}.input",))
            self.listen(
                *(self.leaving, module, (f"{stack}.layers.{number}.output",)), *([(f"{stack}.output",)] if last else [])
            )

    # While the model runs

    def enters(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What goes into a module."""
        self.hear(self.entering, module, (*args, *kwargs.values()))

    def leaves(self, module: nn.Module, args: Any, output: Any) -> None:
        """What comes out of a module."""
        self.hear(self.leaving, module, output if isinstance(output, (tuple, list)) else (output,))

    def hear(self, side: dict[nn.Module, list[list[Names]]], module: nn.Module, given: Iterable[Any]) -> None:
        """The first tensor that a module was given or gave."""
        turn = self.calls[module, side is self.leaving]
        self.calls[module, side is self.leaving] += 1
        tensor = next((one for one in given if isinstance(one, Tensor)), None)
        if tensor is None or turn >= len(side[module]):
            return
        for names in side[module][turn]:
            pieces = [tensor]
            if len(names) > 1:
                widths = [heads * width for heads, width in map(self.heads, names)]
                pieces = list(torch.split(tensor, widths, dim=-1))
            for name, piece in zip(names, pieces):
                self.take(name, piece, module)

    def ends(self, output: Any) -> None:
        """What the whole model gives: its maps and its scores."""
        one = next(iter(self.stacks)) if len(self.stacks) == 1 else None
        maps = {
            "encoder_attentions": "encoder",
            "decoder_attentions": "decoder",
            **({"attentions": one} if one else {}),
        }
        for key, stack in maps.items():
            for number, weights in enumerate(output.get(key) or ()):
                self.take(f"{stack}.layers.{number}.attention.weights", weights)
        for number, weights in enumerate(output.get("cross_attentions") or ()):
            self.take(f"decoder.layers.{number}.cross_attention.weights", weights)
        for theirs, name in _SCORES.items():
            self.take(name, output.get(theirs))

    def take(self, name: str, tensor: Tensor | None, module: nn.Module | None = None) -> None:
        """Tell the trace, in the shape that tensors of the name have here."""
        path, _, place = name.rpartition(".")
        if place == "after_cross_attention" and f"{path}.cross_attention.output" not in self.heard:
            name = f"{path}.after_attention"  # of a layer without cross-attention, or that had nothing to look at
        self.heard.add(name)
        maps = self.recorded.wants(name)
        if tensor is None or maps is None or self.turned(path, place):
            return
        if place in _SPLIT:
            tensor = tensor.view(*tensor.shape[:-1], *self.heads(name)).transpose(1, 2)
        elif name.endswith("positions.bias"):
            tensor = tensor.permute(2, 0, 1)[None]
        self.recorded.take(name, tensor if maps == ALL or place != "weights" else selected(tensor, maps))
        if module is not None and (source := source_of(module)) is not None:
            self.recorded.lines[name] = source

    def turned(self, path: str, place: str) -> bool:
        """Whether these are queries and keys before the rotation, which have no name here."""
        stack = self.stacks.get(path.partition(".")[0])
        turns = stack is not None and type(stack.positions).rotation is not Positions.rotation
        return turns and place in ("queries", "keys") and path.endswith(".attention")

    def heads(self, name: str) -> tuple[int, int]:
        """The number of heads and their width, of queries, keys, values or what is mixed of them."""
        path, _, place = name.rpartition(".")
        attention = self.skeleton.get_submodule(path)
        assert isinstance(attention, Attention)
        return (attention.kv_heads if place in ("keys", "values") else attention.heads, attention.head_dim)


def _part(name: str) -> str:
    """The end of a name that is the same in all stacks and layers."""
    return re.sub(r"^(encoder|decoder)\.(layers\.\d+\.)?", "", name)
