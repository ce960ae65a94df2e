"""Whole steps in one native call, from token to scores; and bursts of greedy ones, from token to token.

What Python does for one step takes about as long as a small model takes to compute it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import native
from ..structure.positions import Rotary
from ..structure.readout import Linear, Offset, Scaled
from .executor import Executor
from .numbers import narrowed, widened
from .program import Operation, Program, View
from .run import Bound, Call

# What a step may be called with, of a decoder alone and of one beside an encoder.
_ALONE = {"input_ids", "attention_mask", "position_ids", "past_key_values", "logits_to_keep"}
_BESIDE = {"decoder_input_ids", "decoder_attention_mask", "past_key_values", "encoder_outputs", "attention_mask"}


class Burst(Executor):
    """Runs steps of a decoder and the readout over its vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.made_of: tuple[Program, ...] = ()
        self.bound: Bound | None = None

    def _make(self, head: Any) -> None:
        """The decoder's program, then the readout's of the newest states, then a choice."""
        stack, readout = head.transformer.decoder.executor, head.lm_head
        reading, states = readout.executor.program, stack.program.output
        scores, choice = View("scores", 0, reading.output.width), View("choice", 0, 1)
        numbers = "bf16" if stack.dtype == torch.bfloat16 else "f32"
        operations = list(stack.program.operations)
        # States are rounded, and rounded again when they are scaled, as they are between two calls.
        for factor in dict.fromkeys((1.0, readout.scale)):
            if numbers == "bf16" or factor != 1.0:
                settings = {"scale": factor, "numbers": numbers}
                operations.append(Operation("scale", "lm_head.states", states, states, settings=settings))
        operations.append(replace(reading.operations[0], x=states, out=scores))
        operations.append(Operation("choose", "lm_head.choice", scores, choice, settings={"numbers": numbers}))
        buffers = stack.program.buffers | {"scores": scores.width, "choice": 1}
        self.program = Program(tuple(operations), buffers, scores)
        self.made_of, self.bound = (stack.program, reading), None

    def _call(self, head: Any, inputs: dict[str, Any], most: int = 1, ends: list[int] | None = None) -> Tensor | None:
        """The scores of every row's next token, or the next tokens themselves, the likeliest each time.

        Args:
            head: a model with a decoder and a readout over its vocabulary, whose last call ran natively.
            inputs: what it would be called with next: one token a row, and the cache.
            most: how many tokens a row at most.
            ends: tokens after which none follows in the burst; None for the scores.

        Returns:
            Scores (B, 1, V), or tokens (B, n), at least one a row; or None where the model has to be called.
        """
        stack, beside = head.transformer.decoder, head.backbone == "both"
        given = {name for name, value in inputs.items() if value is not None}
        if not given <= (_BESIDE if beside else _ALONE) or not _native(stack, head.lm_head):
            return None
        prefix = "decoder_" if beside else ""
        ids, mask, positions = inputs[f"{prefix}input_ids"], inputs.get(f"{prefix}attention_mask"), None
        memory = memory_mask = None
        if beside:
            memory, memory_mask = inputs["encoder_outputs"].last_hidden_state, inputs.get("attention_mask")
        else:
            positions = inputs.get("position_ids")
        cache = inputs["past_key_values"]
        own, cross = getattr(cache, "self_attention_cache", cache), getattr(cache, "cross_attention_cache", None)
        with stack.executor.lock:
            most = min(most, stack.executor.room(stack, ids, None, positions, own.get_seq_length()))
            if most < 1:
                return None
            call = stack.executor.following(stack, ids, mask, memory, memory_mask, own, cross)
            if call is None:
                return None
            call.tokens(ids, None, positions)
            most = min(most, 1 + own.free)
            bound = self._bound(head, call, most)
            if ends is None:
                bound.run(call, 0, len(bound.operations) - 1)
                scores = bound.rows(self.program.output, len(ids))[:, None]
                half = stack.executor.dtype == torch.bfloat16
                # Copied by this thread alone: see numbers.py.
                found = narrowed(scores, torch.bfloat16) if half else torch.from_numpy(scores.numpy().copy())
            else:
                found = bound.burst(call, most, ends).T
                more = found.shape[1] - 1
                own.advance(more)
                call.mask = None if mask is None else F.pad(mask, (0, more), value=1)
            stack.executor.steps.keep(call, memory, memory_mask)
        return found

    def _bound(self, head: Any, call: Call, most: int) -> Bound:
        """The program with room for the steps that a call begins, told of it."""
        stack, readout = head.transformer.decoder, head.lm_head
        programs = (stack.executor.program, readout.executor.program)
        if not self.made_of or any(one is not other for one, other in zip(self.made_of, programs)):
            self._make(head)
        if self.bound is None or self.bound.tokens < call.texts.batch:
            self.bound = Bound(self.program, call.texts.batch, native.load())
        stack.executor.give_positions(self.bound, stack, call, most)
        if isinstance(readout, Offset):  # it may be another one than before
            self.offset = widened(readout.get_buffer("offset")).contiguous()
            self.bound.operations[-2].bias = self.offset.data_ptr()
        return self.bound


def _native(stack: Any, readout: Any) -> bool:
    """Whether both just ran natively, in ways that steps within native code go on with."""
    executors = (stack.executor, readout.executor)
    if type(readout) not in (Linear, Offset, Scaled) or not all(isinstance(one, Executor) for one in executors):
        return False
    if not all(one.known for one in executors) or stack.executor.dtype not in (torch.float32, torch.bfloat16):
        return False
    if isinstance(stack.positions, Rotary) and stack.positions.by_length:
        return False  # a text's angles depend on its end
    chosen, known = readout.linear.out_features, stack.embedding.tokens.num_embeddings
    return bool(chosen <= known)  # else what is chosen may be no token
