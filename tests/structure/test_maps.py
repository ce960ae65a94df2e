"""Attention maps: what is asked for is what a plain formula gives, and a part of the maps is that part of all maps."""

from typing import Any

import pytest
import torch

from generation.tiny import ALL, ENCODER_DECODERS, ours, ragged
from glassformer import InputError, Maps
from glassformer.structure.maps import attention_maps


def formula(query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | None, causal: bool) -> torch.Tensor:
    """softmax(q kᵀ · scale + bias), in float64."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1).double()
    scores = torch.einsum("bhtd,bhsd->bhts", query.double(), key) * 0.3
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1)


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 150])
@pytest.mark.parametrize("masked", ["no", "causal", "bias", "bias a head"])
def test_maps_are_the_formula(tokens: int, masked: str) -> None:
    """Also over several pieces of queries, with shared key heads, and for parts in any order."""
    generator = torch.Generator().manual_seed(tokens)
    query = torch.randn(2, 4, tokens, 8, generator=generator)
    key = torch.randn(2, 2, tokens, 8, generator=generator)
    bias = None
    if masked.startswith("bias"):
        bias = torch.randn(2, 4 if "head" in masked else 1, tokens, tokens, generator=generator)
        bias[1, :, :, -1:] = -torch.inf if tokens > 1 else 0.0
    expected = formula(query, key, bias, masked == "causal").float()
    full = attention_maps(query, key, bias, masked == "causal", 0.3)
    torch.testing.assert_close(full, expected, rtol=1e-5, atol=1e-6)
    for maps in (Maps(heads=2), Maps(heads=[3, 0]), Maps(queries=-1), Maps([1], [tokens - 1, 0]), Maps(slice(1, 3))):
        some = attention_maps(query, key, bias, masked == "causal", 0.3, maps)
        heads = [maps.heads] if isinstance(maps.heads, int) else maps.heads if maps.heads is not None else slice(None)
        queries = [maps.queries] if isinstance(maps.queries, int) else maps.queries or slice(None)
        torch.testing.assert_close(some, expected[:, heads][:, :, queries], rtol=1e-5, atol=1e-6)


def test_gradients_flow_through_pieces() -> None:
    """Maps of many queries, which are made piece by piece, have the gradients of the formula."""
    query, key = torch.randn(1, 2, 130, 4), torch.randn(1, 2, 130, 4)
    weight = torch.randn(1, 2, 130, 130)
    found = []
    for compute in (lambda q: attention_maps(q, key, None, True, 0.3), lambda q: formula(q, key, None, True).float()):
        asked = query.clone().requires_grad_()
        (compute(asked) * weight).sum().backward()
        found.append(asked.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_a_call_gives_the_part_that_is_asked_for(name: str) -> None:
    """Layers, heads and queries of `output_attentions` are those of all maps, exactly; other layers give None."""
    ids, mask = ragged()
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if name in ENCODER_DECODERS:
        given["decoder_input_ids"] = ids[:, :5]
    full = ours(name)(**given, output_attentions=True)
    requests = {-1: [2, 0]}, {1: Maps(queries=[-1, 0])}, {1: Maps(heads=1, queries=2), 0: None}
    for request in requests:
        some = ours(name)(**given, output_attentions=request)
        assert torch.equal(some.logits, full.logits)
        for key in (key for key in full if key.endswith("attentions")):
            for layer, (part, whole) in enumerate(zip(some[key], full[key])):
                if layer not in request and layer - 2 not in request:
                    assert part is None
                    continue
                wanted = request.get(layer, request.get(layer - 2))
                maps = wanted if isinstance(wanted, Maps) else Maps(wanted)
                heads = [maps.heads] if isinstance(maps.heads, int) else maps.heads or [0, 1, 2, 3]
                queries = [maps.queries] if isinstance(maps.queries, int) else maps.queries or slice(None)
                torch.testing.assert_close(part, whole[:, heads][:, :, queries], rtol=1e-6, atol=1e-7)


def test_a_head_that_is_not_there() -> None:
    """One sentence says how many there are."""
    with pytest.raises(InputError, match="no attention head 4 among 4"):
        ours(ALL[1])(ragged()[0], output_attentions={0: [4]})
    with pytest.raises(InputError, match="no query 7 among 7"):
        ours(ALL[1])(ragged()[0], output_attentions={0: Maps(queries=7)})
