"""Lowering: from the parts of a stack to the operations that compute it, one small function a kind of part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..structure import activations
from ..structure.attention import Attention, CrossAttention
from ..structure.embedding import Embedding, Table
from ..structure.feedforward import FeedForward, GatedFeedForward
from ..structure.layer import Layer, Residual
from ..structure.norms import RMSNorm
from ..structure.positions import Learned, Positions, RelativeBuckets, Rotary
from ..structure.quantized import QuantizedLinear, QuantizedTable
from ..structure.stack import Decoder, Stack
from .program import Matrix, Operation, Place, Program, View

# What the kernels apply within a product.
ACTIVATIONS: dict[Any, str] = {
    F.relu: "relu",
    F.gelu: "gelu",
    activations.gelu_tanh: "gelu_tanh",
    F.silu: "silu",
    torch.tanh: "tanh",
    torch.sigmoid: "sigmoid",
    activations.quick_gelu: "quick_gelu",
    activations.relu_squared: "relu2",
    activations.linear: "none",
}
ROWS = {torch.float32: "f32", torch.bfloat16: "bf16"}  # tables that are read row by row
Pack = Callable[[str, Tensor], Matrix]


class Unknown(Exception):
    """A part that the engine does not compute; the model then runs in PyTorch."""


@dataclass
class Builder:
    """A program while it is being made.

    Attributes:
        pack: from a parameter's name and tensor (outputs, inputs) to the matrix that the kernels read.
        caches: whether keys and values go through a cache.
    """

    pack: Pack
    caches: bool
    operations: list[Operation] = field(default_factory=list)
    buffers: dict[str, int] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def place(self, name: str, view: View, heads: int = 0, own: bool = True) -> None:
        """Say that a view holds the tensor of that name now."""
        self.places[name] = Place(len(self.operations), view, heads, own)

    def view(self, buffer: str, width: int, start: int = 0) -> View:
        """Columns of a buffer, which becomes wide enough for them."""
        self.buffers[buffer] = max(self.buffers.get(buffer, 0), start + width)
        return View(buffer, start, width)

    def add(self, kind: str, part: str, x: View | None, out: View, **more: Any) -> None:
        """Append an operation."""
        self.operations.append(Operation(kind, part, x, out, **more))

    def linear(self, part: str, layer: nn.Module, x: View, out: View, **settings: Any) -> None:
        """`out = activation(W x + b)`, times a gate or added to what is there as the settings say."""
        meets = settings.pop("meets", True)
        name = f"{part}.weight"
        if type(layer) is QuantizedLinear:
            matrix = Matrix(name, f"q{layer.bits}_panel", layer.out_features, layer.in_features, 0, layer.weight)
        elif type(layer) is nn.Linear:
            matrix = self.pack(name, layer.weight)
        else:
            raise Unknown(f"{part} is a {type(layer).__name__}, not a Linear")
        vectors = {} if layer.bias is None else {"bias": layer.bias}
        self.add("linear", part, x, out, matrix=matrix, vectors=vectors, settings=settings, meets=meets)

    def norm(self, part: str, norm: nn.Module, x: View, out: View) -> None:
        """A norm from x to out."""
        if type(norm) is nn.LayerNorm and norm.elementwise_affine:
            vectors = {"weight": norm.weight} | ({} if norm.bias is None else {"bias": norm.bias})
            self.add("layer_norm", part, x, out, vectors=vectors, settings={"eps": norm.eps})
        elif type(norm) is RMSNorm:
            self.add("rms_norm", part, x, out, vectors={"weight": norm.weight}, settings={"eps": norm.eps})
        else:
            raise Unknown(f"{part} is a {type(norm).__name__}")


def lower(stack: Stack, pack: Pack) -> Program:
    """The program of an encoder or a decoder.

    Args:
        stack: whose parts are read; their weights are not copied unless `pack` does.
        pack: from a parameter's name and tensor to the matrix that the kernels read.

    Raises:
        Unknown: if a part is of a kind that the engine does not compute, naming it.
    """
    _table("embedding.tokens", stack.embedding.tokens)
    build = Builder(pack, isinstance(stack, Decoder))
    width = stack.embedding.tokens.embedding_dim
    stream = build.view("states", width)
    _embedding(build, "embedding", stack.embedding, stream)
    build.place("embedding.output", stream)
    rotary = _positions(stack.positions)
    for index, layer in enumerate(stack.layers):
        if type(layer) is not Layer:
            raise Unknown(f"layers.{index} is a {type(layer).__name__}")
        build.place(f"layers.{index}.input", stream)
        _layer(build, f"layers.{index}", layer, index, stream, rotary, stack.positions)
        build.place(f"layers.{index}.output", stream)
    if not isinstance(stack.final_norm, nn.Identity):
        build.norm("final_norm", stack.final_norm, stream, stream)
    build.place("output", stream)
    return Program(tuple(build.operations), build.buffers, stream, build.places)


def lower_memory(stack: Decoder, pack: Pack) -> Program:
    """The program that fills a decoder's cache over an encoder's states: keys and values of every layer."""
    build = Builder(pack, True)
    width = stack.embedding.tokens.embedding_dim
    memory = build.view("states", width)
    layer: Any
    for index, layer in enumerate(stack.layers):
        attention = layer.cross_attention
        if type(attention) is not CrossAttention:
            continue
        size = attention.kv_heads * attention.head_dim
        path = f"layers.{index}.cross_attention"
        # Each layer has columns of its own, so that threads need not wait for each other.
        for number, name in enumerate(("k_proj", "v_proj")):
            out = build.view("projected", size, (2 * index + number) * size)
            build.linear(f"{path}.{name}", getattr(attention, name), memory, out, meets=False)
    if build.operations:
        build.operations[-1] = _meeting(build.operations[-1])
    for index, layer in enumerate(stack.layers):
        if layer.cross_attention is None:
            continue
        size = layer.cross_attention.kv_heads * layer.cross_attention.head_dim
        for number in (0, 1):
            x = View("projected", (2 * index + number) * size, size)
            _store(build, f"layers.{index}.cross_attention", layer.cross_attention, x, number, index, True)
    return Program(tuple(build.operations), build.buffers, memory)


def _meeting(operation: Operation) -> Operation:
    return Operation(**{**vars(operation), "meets": True})


def _table(part: str, table: nn.Module) -> None:
    if type(table) not in (nn.Embedding, Table, QuantizedTable) or table.max_norm is not None:
        raise Unknown(f"{part} is a {type(table).__name__} that is looked up in its own way")


def _embedding(build: Builder, part: str, embedding: nn.Module, out: View) -> None:
    if not isinstance(embedding, Embedding):
        raise Unknown(f"{part} is a {type(embedding).__name__}")
    if type(embedding).forward is not Embedding.forward:
        raise Unknown(f"{part} is a {type(embedding).__name__}, which embeds in its own way")
    tokens = embedding.tokens
    vectors: dict[str, Tensor] = {}
    settings: dict[str, Any] = {"scale": embedding.scale}
    if embedding.types is not None:
        _table(f"{part}.types", embedding.types)
        vectors["types"] = embedding.types.weight
    if embedding.positions is not None:
        if type(embedding.positions) is not Learned:
            raise Unknown(f"{part}.positions is a {type(embedding.positions).__name__}")
        vectors["positions"] = embedding.positions.table.weight
        settings["offset"] = embedding.positions.offset
    name, weight = f"{part}.tokens.weight", tokens.weight
    if isinstance(tokens, QuantizedTable):
        form = f"q{tokens.bits}_panel"
    elif weight.dtype in ROWS and weight.stride(1) == 1:
        form = ROWS[weight.dtype]
    else:
        raise Unknown(f"{name} is {weight.dtype} with strides {weight.stride()}")
    table = Matrix(name, form, tokens.num_embeddings, tokens.embedding_dim, weight.stride(0), weight)
    build.add("embed", part, None, out, matrix=table, vectors=vectors, settings=settings)
    if not isinstance(embedding.norm, nn.Identity):
        build.norm(f"{part}.norm", embedding.norm, out, out)


def _positions(positions: nn.Module) -> int:
    """How many dimensions of a head turn; 0 for none."""
    if type(positions) not in (Positions, RelativeBuckets, Rotary):
        raise Unknown(f"positions is a {type(positions).__name__}")
    return 2 * (positions.dim // 2) if isinstance(positions, Rotary) else 0


def _layer(build: Builder, path: str, layer: Layer, index: int, x: View, rotary: int, positions: nn.Module) -> None:
    def step(name: str, f: Callable[[View, View, bool], None]) -> None:
        """`x = after(x + out(f(before(x))))`."""
        residual = getattr(layer, f"{name}_residual")
        if type(residual) is not Residual:
            raise Unknown(f"{path}.{name}_residual is a {type(residual).__name__}")
        read = x
        if not isinstance(residual.before, nn.Identity):
            read = build.view("normed", x.width)
            build.norm(f"{path}.{name}_residual.before", residual.before, x, read)
        build.place(f"{path}.{name}.input", read, own=read is not x)
        if isinstance(residual.out, nn.Identity):
            f(read, x, True)
        else:
            branch = build.view("branch", x.width)
            f(read, branch, False)
            build.norm(f"{path}.{name}_residual.out", residual.out, branch, branch)
            build.add("add", f"{path}.{name}_residual", branch, x)
        if not isinstance(residual.after, nn.Identity):
            build.norm(f"{path}.{name}_residual.after", residual.after, x, x)
        if name != "feedforward":
            build.place(f"{path}.after_{name}", x)

    relative = isinstance(positions, RelativeBuckets)

    def attention(read: View, out: View, add: bool) -> None:
        _attention(build, f"{path}.attention", layer.attention, index, read, out, add, rotary, relative)

    def cross_attention(read: View, out: View, add: bool) -> None:
        _cross(build, f"{path}.cross_attention", layer.cross_attention, index, read, out, add)

    def feedforward(read: View, out: View, add: bool) -> None:
        _feedforward(build, f"{path}.feedforward", layer.feedforward, read, out, add)

    step("attention", attention)
    if layer.cross_attention is not None:
        step("cross_attention", cross_attention)
    step("feedforward", feedforward)


def _attention(
    build: Builder,
    part: str,
    attention: nn.Module,
    index: int,
    x: View,
    out: View,
    accumulate: bool,
    rotary: int,
    relative: bool,
) -> None:
    if type(attention) is not Attention:
        raise Unknown(f"{part} is a {type(attention).__name__}")
    inner, small = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    query = build.view("heads", inner)
    key, value = build.view("heads", small, inner), build.view("heads", small, inner + small)
    build.linear(f"{part}.q_proj", attention.q_proj, x, query, meets=False)
    build.linear(f"{part}.k_proj", attention.k_proj, x, key, meets=False)
    build.linear(f"{part}.v_proj", attention.v_proj, x, value)
    if rotary:
        turned = {"rotary": rotary, "head_dim": attention.head_dim}
        build.add("rotary", part, query, query, settings={"heads": attention.heads, **turned}, meets=False)
        build.add("rotary", part, key, key, settings={"heads": attention.kv_heads, **turned})
    for name, view, heads in (
        ("queries", query, attention.heads),
        ("keys", key, attention.kv_heads),
        ("values", value, attention.kv_heads),
    ):
        build.place(f"{part}.{name}", view, heads)
    if build.caches:
        _store(build, part, attention, key, 0, index, False)
        _store(build, part, attention, value, 1, index, False)
    beside = None if build.caches else (key, value)
    _attend(build, part, attention, query, index, {"causal": build.caches, "relative": relative, "beside": beside})
    _project(build, part, attention, out, accumulate)


def _cross(build: Builder, part: str, attention: Any, index: int, x: View, out: View, accumulate: bool) -> None:
    if type(attention) is not CrossAttention:
        raise Unknown(f"{part} is a {type(attention).__name__}")
    query = build.view("heads", attention.heads * attention.head_dim)
    build.linear(f"{part}.q_proj", attention.q_proj, x, query)
    build.place(f"{part}.queries", query, attention.heads)
    _attend(build, part, attention, query, index, {"cross": True})
    _project(build, part, attention, out, accumulate)


def _attend(build: Builder, part: str, attention: Attention, query: View, index: int, settings: dict[str, Any]) -> None:
    shape = {"heads": attention.heads, "kv_heads": attention.kv_heads, "head_dim": attention.head_dim}
    mixed = build.view("mixed", attention.heads * attention.head_dim)
    settings = {**shape, "scale": attention.scale, "layer": index, **settings}
    build.place(f"{part}.weights", query, attention.heads, own=False)  # from these queries, and the keys at hand
    build.place(f"{part}.scores", query, attention.heads, own=False)
    build.add("attention", part, query, mixed, settings=settings)
    build.place(f"{part}.mixed", mixed, attention.heads)


def _project(build: Builder, part: str, attention: Attention, out: View, accumulate: bool) -> None:
    mixed = build.view("mixed", attention.heads * attention.head_dim)
    build.linear(f"{part}.o_proj", attention.o_proj, mixed, out, accumulate=accumulate)


def _store(build: Builder, part: str, attention: Attention, x: View, value: int, index: int, cross: bool) -> None:
    settings = {"heads": attention.kv_heads, "head_dim": attention.head_dim, "value": value, "layer": index}
    # Keys and values go to places of their own, so that threads meet once after both.
    build.add("store", part, x, x, settings={**settings, "cross": cross}, meets=value == 1)


def _feedforward(build: Builder, part: str, feedforward: Any, x: View, out: View, accumulate: bool) -> None:
    if type(feedforward) not in (FeedForward, GatedFeedForward):
        raise Unknown(f"{part} is a {type(feedforward).__name__}")
    activation = ACTIVATIONS.get(feedforward.activation)
    if activation is None:
        name = getattr(feedforward.activation, "__name__", repr(feedforward.activation))
        raise Unknown(f"{part} has the activation {name}")
    inner = build.view("inner", feedforward.up_proj.out_features)
    if isinstance(feedforward, GatedFeedForward):
        build.linear(f"{part}.up_proj", feedforward.up_proj, x, inner)
        build.linear(f"{part}.gate_proj", feedforward.gate_proj, x, inner, activation=activation, gated=True)
    else:
        build.linear(f"{part}.up_proj", feedforward.up_proj, x, inner, activation=activation)
    build.place(f"{part}.inner", inner)
    build.linear(f"{part}.down_proj", feedforward.down_proj, inner, out, accumulate=accumulate)
