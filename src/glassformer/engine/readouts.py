"""The executor of a readout: one matrix, which for a vocabulary is among the largest of a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..kernels import native
from .executor import Executor, enabled, native_here
from .lower import Builder, Unknown
from .numbers import narrowed, widened
from .pack import packed
from .program import Program
from .run import Bound, Call, spans


class ReadoutExecutor(Executor):
    """Runs the linear layer of a readout."""

    def _make(self, module: Any) -> None:
        if not isinstance(module, nn.Linear):
            raise Unknown(f"the readout is a {type(module).__name__}, not a Linear")
        build = Builder(packed, False)
        states, scores = build.view("states", module.in_features), build.view("scores", module.out_features)
        build.linear("linear", module, states, scores)
        self.program = Program(tuple(build.operations), build.buffers, scores)
        self.bound: Bound | None = None
        self.call: Call | None = None

    def _looked(self, linear: nn.Linear, states: Tensor) -> bool:
        """Look whether a call may run natively."""
        if not enabled() or not self._ready(linear) or self.watched is None:
            return False
        if linear.weight.dtype not in (states.dtype, torch.uint8) or not native_here(self.watched, False, states):
            return False  # where types do not fit, PyTorch says so
        self._know()
        return True

    def _call(self, linear: nn.Linear, states: Tensor, offset: Tensor | None) -> Tensor | None:
        """Scores (..., outputs) of states (..., D), an offset (1, outputs) added; None where PyTorch has to run."""
        if offset is not None and not (linear.bias is None and offset.is_cpu and offset.numel() == linear.out_features):
            return None
        if not states.numel() or not (self.known or self._looked(linear, states)):
            return None
        rows = states.reshape(-1, states.shape[-1])
        if self.call is None or self.call.texts.length != len(rows):
            texts = spans(None, 1, 0, len(rows))
            assert texts is not None
            self.call = Call(texts)
        if self.bound is None:
            self.bound = Bound(self.program, 0, native.load())
        out = torch.empty(len(rows), self.program.output.width)
        op = self.bound.operations[0]
        rows = rows.float().contiguous()
        op.x, op.x_stride = rows.data_ptr(), rows.shape[1]
        op.out, op.out_stride = out.data_ptr(), out.shape[1]
        if offset is not None:
            offset = widened(offset).contiguous()
            op.bias = offset.data_ptr()
        self.bound.run(self.call)
        return narrowed(out.view(*states.shape[:-1], -1), states.dtype)
