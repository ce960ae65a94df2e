"""The executor of a stack: its program, the buffers it runs in, and the way from a call's tensors and back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from ..cache import KVCache
from ..cache.layers import KVLayer, StaticLayer
from ..kernels import native
from ..structure.attention import Attention
from ..structure.maps import Maps, Request, attention_maps, requested, requested_maps
from ..structure.masks import attention_bias, of_keys
from ..structure.packing import Computed, Packed, Padding
from ..structure.places import Listener
from ..structure.positions import RelativeBuckets, Rotary
from ..structure.quantized import dtype_of
from ..structure.stack import Decoder, Encoder, Stack
from .executor import Executor, enabled, native_here
from .lower import lower, lower_memory
from .pack import packed
from .program import Place
from .run import Bound, Call, Texts, spans
from .steps import Steps


class StackExecutor(Executor):
    """Runs an encoder or a decoder."""

    def _make(self, module: Any) -> None:
        self.program = lower(module, packed)
        self.dtype = dtype_of(module.embedding.tokens)  # of what is given back; inside all is fp32
        crosses = any(layer.cross_attention is not None for layer in module.layers)
        self.memory_program = lower_memory(module, packed) if crosses else None
        self.bound: Bound | None = None
        self.memory_bound: Bound | None = None
        self.steps = Steps()
        self.span = 0

    def _call(
        self,
        stack: Stack,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        output_attentions: Request,
        output_hidden_states: Request,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: Any = None,
    ) -> dict[str, Any] | None:
        """What `Stack._run` gives, or None where PyTorch has to run.

        Args:
            stack: whose executor this is.
            input_ids: (B, T), or None where embeddings are given.
            attention_mask: (B, past + T), or None.
            token_type_ids: (B, T), or None.
            position_ids: (B or 1, T), or None.
            output_attentions: as in `forward`.
            output_hidden_states: as in `forward`.
            memory: the encoder's states, (B, S, D), or None.
            memory_mask: (B, S), or None.
            cache: of the tokens before, which grows; or None.
        """
        padded: Callable[[Tensor], Padding] = Packed
        if isinstance(stack, Encoder) and attention_mask is not None and of_keys(attention_mask):
            # Four dimensions ask for what is computed at padding, too.
            attention_mask, padded = attention_mask[:, 0, 0], lambda real: Padding()
        masks = [mask for mask in (attention_mask, memory_mask) if mask is not None]
        if input_ids is None or input_ids.dim() != 2 or not input_ids.numel() or any(mask.dim() != 2 for mask in masks):
            return None
        heard = [] if self.known else self._looked(stack, input_ids, memory, *masks)
        if heard is None:
            return None
        if token_type_ids is not None and stack.embedding.types is None:
            return None
        if memory is None and self.memory_program is not None:
            return None  # the cross-attention is left out
        if stack.packs and position_ids is not None and attention_mask is None and cache is None:
            return None  # a row may hold several texts that do not see each other
        own, cross = getattr(cache, "self_attention_cache", cache), getattr(cache, "cross_attention_cache", None)
        past = own.get_seq_length() if own is not None else 0
        if not self.room(stack, input_ids, token_type_ids, position_ids, past):
            return None  # PyTorch says what is wrong
        given = (attention_mask, memory, memory_mask, own, cross)
        call = self.steps.next(input_ids, *given) if token_type_ids is None else None
        if call is None:
            padding = Computed if heard and padded is Packed else padded
            call = self._new(stack, len(input_ids), past, input_ids.shape[1], padding, *given)
        if call is None:
            return None
        for name, place, listener in heard:
            if name == "input_ids":
                input_ids = listener.hear(place, input_ids)
        call.tokens(input_ids, token_type_ids, position_ids)
        run = self._collect(stack, call, heard, output_attentions, output_hidden_states)
        if isinstance(stack, Decoder):
            self.steps.keep(call, memory, memory_mask)
        return run

    def following(self, stack: Any, ids: Tensor, *given: Any) -> Call | None:
        """The call of one more token of each text, whose ids are to be given; None where PyTorch has to run.

        Args:
            stack: whose executor this is.
            ids: (B, 1).
            *given: mask, memory, memory_mask, own and cross, as in `Steps.next`.
        """
        mask, memory, _, own, _ = given
        if memory is None and self.memory_program is not None:
            return None  # the cross-attention is left out
        call = self.steps.next(ids, *given)
        if call is None and ids.shape[1] == 1 and (mask is None or bool(mask[:, -1].all())):
            call = self._new(stack, len(ids), own.get_seq_length(), 1, Packed, *given)
        return call

    def _new(
        self,
        stack: Stack,
        batch: int,
        past: int,
        length: int,
        padded: Callable[[Tensor], Padding],
        mask: Tensor | None,
        memory: Tensor | None,
        memory_mask: Tensor | None,
        own: Any,
        cross: Any,
    ) -> Call | None:
        """What the program is told of a call, with room in the caches; None where PyTorch has to run."""
        texts = spans(mask, batch, past, length, padded)
        if texts is None or not (_plain(own, len(stack.layers)) and _plain(cross, len(stack.layers))):
            return None
        if isinstance(stack, Decoder) and type(texts.padding) is Computed:
            return None  # of a decoder's padding the kernels know nothing
        seen = None
        if memory is not None and (seen := spans(memory_mask, batch, 0, memory.shape[1])) is None:
            return None
        call = Call(texts, cached=isinstance(stack, Decoder))
        call.mask = mask
        if memory is not None and seen is not None:
            self._remember(stack, call, memory, seen, KVCache() if cross is None else cross)
            call.memory_bias = attention_bias(memory_mask, length, seen.length, False, torch.float32)[0]
        if isinstance(stack, Decoder):
            call.own = KVCache() if own is None else own
            call.cache(self._room(stack, texts, call.own), call.own.layers)
        return call

    def room(self, stack: Any, ids: Tensor, types: Tensor | None, positions: Tensor | None, past: int) -> int:
        """How often a call may be made, each time one column on, until a table has no row for an index.

        The kernels do not ask. Once in a call of several columns counts as any number of times does.
        """
        embedding = stack.embedding
        if not _below(ids, embedding.tokens.num_embeddings):
            return 0
        if types is not None and not _below(types, embedding.types.num_embeddings):
            return 0
        if embedding.positions is None:
            return sys.maxsize
        offset: int = embedding.positions.offset
        rows: int = embedding.positions.table.num_embeddings - offset
        if positions is None:
            return max(0, 1 + rows - past - ids.shape[1])
        numbers = positions.numpy()
        return max(0, rows - int(numbers.max())) if numbers.min() >= -offset else 0

    def _looked(self, stack: Any, *inputs: Tensor | None) -> list[tuple[str, str, Listener]] | None:
        """Look whether a call may run natively, and who listens, as `_heard` says; None where PyTorch has to run."""
        if not enabled() or not self._ready(stack) or self.watched is None:
            return None
        if not native_here(self.watched, stack.training, *inputs) or (heard := self._heard()) is None:
            return None
        if not heard:
            self._know()
        return heard

    def _heard(self) -> list[tuple[str, str, Listener]] | None:
        """What listeners want of the stack: full name, place and listener; None if not all of it is to be had here."""
        heard = []
        assert self.watched is not None
        for path, part, listener in self.watched.listened():
            dot = f"{path}." if path else ""
            for place in part.places:
                if listener.wants(place) is None:
                    continue
                if dot + place == "input_ids" and not listener.changes(place):
                    heard.append((place, place, listener))
                    continue
                found = self.program.places.get(dot + place)
                if found is None or (listener.changes(place) and not found.own):
                    return None
                heard.append((dot + place, place, listener))
        return heard

    def _room(self, stack: Any, texts: Texts, cache: KVCache) -> list[tuple[Tensor, Tensor]]:
        """Every layer's buffers of keys and values, with room for the new tokens."""
        cache.align()
        return [_extended(cache.layer(index), layer.attention, texts) for index, layer in enumerate(stack.layers)]

    def _remember(self, stack: Any, call: Call, memory: Tensor, seen: Texts, cross: KVCache) -> None:
        """Let the call see the keys and values of the encoder's states, which are made if they are not there."""
        if not cross.get_seq_length():
            assert self.memory_program is not None
            filling, states = Call(seen), seen.laid(memory)
            bound = self.memory_bound = _bound(self.memory_bound, self.memory_program, len(states))
            bound.rows(bound.program.output, len(states)).copy_(states)
            parts = [layer.cross_attention for layer in stack.layers]
            room = [_extended(cross.layer(index), part, seen) for index, part in enumerate(parts)]
            filling.memory(room, seen)
            bound.run(filling)
        cross.align()
        call.memory([(layer.held["keys"], layer.held["values"]) for layer in cross.layers], seen, cross.layers)
        call.memories = cross

    def _collect(
        self,
        stack: Any,
        call: Call,
        heard: list[tuple[str, str, Listener]],
        output_attentions: Request,
        output_hidden_states: Request,
    ) -> dict[str, Any]:
        texts, program = call.texts, self.program
        bound = self.bound = _bound(self.bound, program, call.native.tokens)
        self.give_positions(bound, stack, call)
        count = len(stack.layers)
        maps = requested_maps(output_attentions, count)
        kept = requested(output_hidden_states, count + 1)
        states: list[Tensor | None] = [None] * (count + 1)
        weights: dict[str, list[Tensor | None]] = {"attention": [None] * count, "cross_attention": [None] * count}
        stops: list[tuple[int, Callable[[], None]]] = []

        def stop(name: str, act: Callable[[Place], None]) -> None:
            place = program.places[name]
            stops.append((place.after, partial(act, place)))

        def hear(listener: Listener, name: str, place: Place) -> None:
            part, _, short = name.rpartition(".")
            if short in ("scores", "weights"):
                wanted = listener.wants(short)
                assert wanted is not None
                listener.hear(short, self._map(stack, call, bound, part, place, wanted, short == "weights"))
                return
            here = bound.tensor(place.view, call, place.heads)
            new = listener.hear(short, here.to(self.dtype, copy=True))
            if listener.changes(short):
                here.copy_(new)

        def keep_state(index: int, place: Place) -> None:
            states[index] = texts.given(bound.rows(place.view, call.native.tokens)).to(self.dtype)

        def keep_map(name: str, index: int, wanted: Maps, place: Place) -> None:
            part = f"layers.{index}.{name}"
            maps = self._map(stack, call, bound, part, place, wanted, True)
            weights[name][index] = texts.padding.blank_maps(maps, wanted)

        for name, _, listener in heard:
            if name not in ("output", "input_ids"):
                stop(name, partial(hear, listener, name))
        for index in kept - {count}:
            stop(f"layers.{index}.input", partial(keep_state, index))
        for index, wanted in maps.items():
            for name in weights if call.sees else ("attention",):
                stop(f"layers.{index}.{name}.weights", partial(keep_map, name, index, wanted))
        start = 0
        for after, act in sorted(stops, key=itemgetter(0)):
            bound.run(call, start, after)
            act()
            start = after
        bound.run(call, start)
        for name, place, listener in heard:
            if name == "output":
                here = bound.tensor(program.output, call)
                here.copy_(listener.hear(place, here.to(self.dtype, copy=True)))
        last = texts.given(bound.rows(program.output, call.native.tokens)).to(self.dtype)
        states[count] = last if count in kept else None
        asked = output_attentions is not None and output_attentions is not False
        return {
            "last_hidden_state": last,
            "hidden_states": tuple(states) if output_hidden_states not in (None, False) else None,
            "attentions": tuple(weights["attention"]) if asked else None,
            "cross_attentions": tuple(weights["cross_attention"]) if asked and call.sees else None,
        }

    def _map(
        self, stack: Any, call: Call, bound: Bound, part: str, place: Place, wanted: Maps, softmax: bool
    ) -> Tensor:
        """Attention weights or scores of one part, from its queries and the keys at hand."""
        attention = stack.get_submodule(part)
        query = bound.tensor(place.view, call, place.heads)
        if part.endswith("cross_attention"):
            key, bias, causal = _keys(call.memories, part), call.memory_bias, False
        elif isinstance(stack, Decoder):
            key = _keys(call.own, part)
            bias, causal = attention_bias(call.mask, call.texts.length, call.total, True, query.dtype)
        else:
            key = bound.tensor(self.program.places[f"{part}.keys"].view, call, attention.kv_heads)
            bias, causal = attention_bias(call.mask, call.texts.length, call.total, False, query.dtype)
        if not part.endswith("cross_attention"):
            bias, causal = stack.positions.bias(bias, causal, call.texts.length, call.total)
        maps = attention_maps(query, key, bias, causal, attention.scale, wanted, softmax)
        return maps.to(self.dtype) if softmax else maps

    def give_positions(self, bound: Bound, stack: Stack, call: Call, steps: int = 1) -> None:
        """Give a program what depends on the positions of a call, and of those that follow it one column on each."""
        positions = stack.positions
        if isinstance(positions, Rotary):
            at = call.positions
            if steps > 1:
                at = at.expand(call.texts.batch, 1).T + torch.arange(steps)[:, None]
            cos, sin = positions.rotation(at, torch.float32)
            if steps == 1:
                cos, sin = call.texts.laid(cos), call.texts.laid(sin)
            bound.rotate(cos.flatten(0, -2).contiguous(), sin.flatten(0, -2).contiguous())
        elif isinstance(positions, RelativeBuckets):
            if (longest := call.total + steps) > self.span:
                self.span = max(64, 2 * longest)
                distance = torch.arange(1 - self.span, self.span)
                self.relative = positions.table(positions.bucket(distance)).T.detach().float().contiguous()
            bound.relate(self.relative, self.span)


def _extended(layer: KVLayer, part: Attention, texts: Texts) -> tuple[Tensor, Tensor]:
    """A layer's buffers of keys and values, with room for those of an attention; zeros where no token will write."""
    size = (texts.batch, part.kv_heads, texts.length, part.head_dim)
    keys, values = layer.extend(size, torch.float32)
    if texts.packed:
        for buffer in (keys, values):
            buffer[:, :, texts.past - layer.start : texts.past - layer.start + texts.length] = 0
    return keys, values


def _below(indices: Tensor, rows: int) -> bool:
    numbers = indices.numpy()  # of a few numbers these are sooner had so
    return bool(numbers.min() >= 0 and numbers.max() < rows)


def _keys(cache: Any, part: str) -> Tensor:
    """The keys that a cache holds for an attention, `layers.<number>.<name>`, (B, kv_heads, S, head_dim)."""
    keys: Tensor = cache.layers[int(part.split(".")[1])].keys
    return keys


def _plain(cache: KVCache | None, layers: int) -> bool:
    """Whether a cache holds fp32 numbers in growing or fixed buffers on a CPU."""
    for layer in [cache.layer(index) for index in range(layers)] if cache is not None else ():
        if type(layer) not in (KVLayer, StaticLayer):
            return False
        for buffer in layer.buffers:
            if buffer.dtype != torch.float32 or buffer.device.type != "cpu" or buffer.requires_grad:
                return False
    return True


def _bound(bound: Bound | None, program: Any, tokens: int) -> Bound:
    """Buffers for so many tokens: those there are, if they are large enough."""
    if bound is not None and bound.tokens >= tokens:
        return bound
    return Bound(program, max(16, tokens if bound is None else 2 * tokens), native.load())
