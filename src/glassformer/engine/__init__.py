"""The second way to run a model: its parts lowered into a flat program, which native code runs on a CPU."""

from __future__ import annotations

from typing import Any

from ..structure.readout import Linear
from ..structure.stack import Stack
from .burst import Burst
from .readouts import ReadoutExecutor
from .stacks import StackExecutor


def attach(model: Any) -> None:
    """Give the stacks and readouts of a model executors, which use native code where it gives the same answer.

    Args:
        model: whose backbone, where it is another model, has been given them.
    """
    if hasattr(model, "burst"):
        model.burst = Burst()
    for part in model.children():
        if isinstance(part, Stack):
            part.executor = StackExecutor()
        elif part is not model.base_model:
            for module in part.modules():
                if isinstance(module, Linear):
                    module.executor = ReadoutExecutor()
