"""A twin is a module of its own: nothing that is done to it is done to the one that it was made after."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from generation.tiny import ALL, ours
from glassformer.fresh import Undrawn
from glassformer.structure.layer import Layer
from glassformer.structure.twin import twin


def made(name: str) -> Any:
    """A model without memory, whose layers are twins where they may be."""
    model = ours(name)
    with torch.device("meta"), Undrawn():
        return type(model)(model.config)


@pytest.mark.parametrize("name", ALL)
def test_layers_without_memory_are_like_those_with(name: str) -> None:
    """Every part has the class, the settings and the shapes that building it gives."""
    real, lean = ours(name), made(name)
    assert str(lean) == str(real.train(lean.training))
    real.eval()
    shapes = {key: (value.shape, value.dtype) for key, value in real.state_dict().items()}
    assert {key: (value.shape, value.dtype) for key, value in lean.state_dict().items()} == shapes
    plain = {n: {k: v for k, v in vars(m).items() if isinstance(v, (int, float, str))} for n, m in real.named_modules()}
    for path, module in lean.named_modules():
        assert {k: getattr(module, k) for k in plain[path] if k != "training"} == {
            k: v for k, v in plain[path].items() if k != "training"
        }


@pytest.mark.parametrize("name", ALL)
def test_layers_share_nothing(name: str) -> None:
    """No two layers have a module, a parameter or a container in common, and a hook on one is that one's."""
    layers = [module for module in made(name).modules() if isinstance(module, Layer)]
    assert len(layers) > 1
    seen: set[int] = set()
    for layer in layers:
        own = {id(part) for part in layer.modules()} | {id(parameter) for parameter in layer.parameters()}
        for part in layer.modules():
            own |= {id(value) for value in vars(part).values() if isinstance(value, (dict, list, set))}
        assert not own & seen
        seen |= own
    layers[0].register_forward_hook(lambda *_: None)
    assert [len(layer._forward_hooks) for layer in layers] == [1] + [0] * (len(layers) - 1)


def test_parts_that_are_not_there_and_frozen_parameters() -> None:
    """An absent bias stays absent, None a part, and what wants no gradient wants none."""
    with torch.device("meta"):
        first = nn.ModuleDict({"a": nn.Linear(2, 3, bias=False), "b": nn.Linear(3, 2)})
    first.register_module("none", None)
    first["b"].requires_grad_(False)
    second = twin(first)
    assert second["a"].bias is None
    assert second._modules["none"] is None
    assert [p.requires_grad for p in second.parameters()] == [True, False, False]
    assert all(p.is_meta for p in second.parameters())
