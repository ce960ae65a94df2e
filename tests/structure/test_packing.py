"""Packing and the masks that ask for padding, by hand."""

from __future__ import annotations

import torch
from torch import nn

from glassformer.structure.maps import ALL, Maps
from glassformer.structure.masks import of_keys, reaching, tokens
from glassformer.structure.packing import NONE, Computed, Packed, padding_of

REAL = torch.tensor([[True, True, False], [False, False, False], [False, True, True]])


def test_there_and_back() -> None:
    """Tokens keep their order, what all rows share is repeated, padding comes back as zeros, and gradients go along."""
    x = torch.arange(1.0, 19.0).view(3, 3, 2).requires_grad_()
    packed = Packed(REAL)
    assert packed.pack(x).tolist() == [[[1.0, 2.0], [3.0, 4.0], [15.0, 16.0], [17.0, 18.0]]]
    assert packed.pack(torch.tensor([[7, 8, 9]])).tolist() == [[7, 8, 8, 9]]
    back = packed.unpack(packed.pack(x))
    assert torch.equal(back, x * REAL[..., None])
    assert torch.equal(Computed(REAL).blank(x), back)
    back.sum().backward()
    assert torch.equal(x.grad, REAL[..., None].expand_as(x).float())


def test_maps_of_padding_are_zeros() -> None:
    """Those of the queries that were picked, in the order in which they were."""
    weights = torch.rand(3, 2, 3, 5) + 0.1
    assert torch.equal(Packed(REAL).blank_maps(weights, ALL), weights * REAL[:, None, :, None])
    some = Packed(REAL).blank_maps(weights[:, :, :2], Maps(queries=[2, 0]))
    assert torch.equal(some, weights[:, :, :2] * REAL[:, [2, 0]][:, None, :, None])
    assert NONE.blank_maps(weights, ALL) is weights


def test_who_needs_all_positions() -> None:
    """Hooks and dropout that draws; without padding nobody asks."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)).eval()
    assert padding_of(None, 3, module) is padding_of(torch.ones(1, 3, dtype=torch.bool), 3, module) is NONE
    assert type(padding_of(REAL, 3, module)) is Packed
    assert type(padding_of(REAL, 3, module.train())) is Computed
    handle = module.eval()[0].register_forward_hook(lambda *_: None)
    assert type(padding_of(REAL, 3, module)) is Computed
    handle.remove()
    assert padding_of(REAL[:1], 4, module).pack(torch.zeros(4, 3)).shape == (1, 8)


def test_a_mask_in_full() -> None:
    """Only if padding is needed a mask gets four dimensions, and keeps what may be looked at."""
    mask = REAL.long()
    assert reaching(mask, REAL, False) is mask
    assert reaching(None, REAL, False) is None
    keys = reaching(mask, torch.ones(1, 3, dtype=torch.bool), False)
    assert of_keys(keys)
    assert torch.equal(keys[:, 0, 0], REAL)
    causal = reaching(mask, torch.ones(1, 2, dtype=torch.bool), True)  # the last two of three
    assert causal[0, 0].tolist() == [[True, True, False], [True, True, False]]
    assert causal[2, 0].tolist() == [[False, True, False], [False, True, True]]
    assert tokens(causal, 2) is None
    assert torch.equal(tokens(mask, 2), REAL[:, 1:])
