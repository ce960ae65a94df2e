"""How much is computed: the rows that linear layers see in PyTorch."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Rows(TorchFunctionMode):
    """Counts, in `seen`, the rows that each linear layer inside the `with` computes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.linear:
            self.seen.append(args[0].shape[:-1].numel())
        return func(*args, **(kwargs or {}))
