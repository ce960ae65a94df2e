"""Modules that a checkpoint fills are made without drawing; all others are drawn as ever."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode, resolve_name

from glassformer.fresh import Undrawn


class Calls(TorchFunctionMode):
    """Notes the names of the functions of torch that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(resolve_name(func) or str(func))
        return func(*args, **(kwargs or {}))


def made() -> list[nn.Module]:
    return [nn.Linear(30, 40), nn.Embedding(30, 40, padding_idx=1), nn.LayerNorm(30)]


def test_nothing_is_drawn_on_the_meta_device() -> None:
    """No initialiser that draws reaches torch, and every parameter is there."""
    with torch.device("meta"), Calls() as plain:
        made()
    with torch.device("meta"), Calls() as seen, Undrawn():
        modules = made()
    assert any("uniform_" in name or "normal_" in name for name in plain.names)
    assert not any("uniform_" in name or "normal_" in name for name in seen.names)
    shapes = [tuple(weight.shape) for module in modules for weight in module.parameters()]
    assert shapes == [(40, 30), (40,), (30, 40), (30,), (30,)]


def test_real_weights_are_drawn() -> None:
    """Within it too, and the same ones by the same seed."""
    torch.manual_seed(3)
    plain = made()
    torch.manual_seed(3)
    with Undrawn():
        mine = made()
    for one, other in zip(plain, mine, strict=True):
        for name, weight in one.named_parameters():
            assert torch.equal(weight, other.get_parameter(name))
