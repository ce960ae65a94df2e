"""What runs natively, and why the rest does not: for the library, and for a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..kernels import native
from .executor import enabled
from .lower import Unknown, lower
from .pack import packed
from .program import Program


def show_config() -> None:
    """Print what computes: the native code or PyTorch, the processor's instructions, and the threads.

    Example:
        >>> glassformer.show_config()
    """
    used = native.reason() if enabled() else f"not used: {native.reason()}"
    if native.load() is not None and not enabled():
        used = "not used: GLASSFORMER_ENGINE is off"
    print(f"native code   {used}")
    print(f"threads       {torch.get_num_threads()} (torch.set_num_threads)")
    print(f"torch         {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")


@dataclass(frozen=True)
class Programs:
    """The programs of a model.

    Attributes:
        stacks: by "encoder" and "decoder", the program, or in one sentence why there is none.
    """

    stacks: dict[str, Program | str]

    @property
    def native(self) -> bool:
        """Whether all of it runs natively on a CPU."""
        return all(isinstance(program, Program) for program in self.stacks.values())

    def __str__(self) -> str:
        said = []
        for name, program in self.stacks.items():
            said.append(f"{name}: runs in PyTorch, as {program}" if isinstance(program, str) else f"{name}: {program}")
        return "\n\n".join(said)


def programs(model: Any) -> Programs:
    """What the native code runs of a model, operation by operation.

    Args:
        model: of this library, on a CPU.

    Example:
        >>> print(programs(model))
    """
    found: dict[str, Program | str] = {}
    for name in ("encoder", "decoder"):
        if (stack := getattr(model.base_model, name)) is None:
            continue
        try:
            found[name] = lower(stack, packed)
        except Unknown as unknown:
            found[name] = str(unknown)
    return Programs(found)
