"""Models in bf16 run natively with activations in fp32: as exact as their weights, and rounded once, at the end."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import glassformer as gf
from generation.tiny import ALL, DECODERS, ENCODER_DECODERS, ours, ragged
from glassformer.engine.stacks import StackExecutor
from glassformer.kernels import native

from .test_engine import inputs, runs

pytestmark = pytest.mark.skipif(native.load() is None, reason=f"no native code: {native.reason()}")
ULP = 2.0**-7  # twice the relative rounding of bf16


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def no_tiles() -> Iterator[None]:
    """The tiles of AMX round many rows to bf16 before a product: without them."""
    library = native.load()
    used = library.gf_isa()
    if used == b"amx":
        library.gf_force_isa(b"avx512")
    yield
    library.gf_force_isa(used)


def narrow(name: str) -> tuple[Any, Any]:
    """A model in bf16, and the same weights in fp32."""
    model = copy.deepcopy(ours(name)).bfloat16()
    return model, copy.deepcopy(model).float()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.usefixtures("no_tiles")
def test_inside_all_is_fp32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they are rounded, states and maps are those of fp32 with the same weights, within 1e-4."""
    model, wide = narrow(name)
    make = StackExecutor._make

    def unrounded(self: Any, module: Any) -> None:
        make(self, module)
        self.dtype = torch.float32

    monkeypatch.setattr(StackExecutor, "_make", unrounded)
    call = inputs(name, output_hidden_states=True, output_attentions=True)
    with runs(monkeypatch) as seen:
        mine, plain = model.base_model(**call), wide.base_model(**call)
    assert len(seen) == 2 * len(model.base_model.stacks)
    for key in (key for key in plain if key.endswith(("hidden_states", "attentions"))):
        for one, other in zip(mine[key], plain[key]):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()), msg=key)


@pytest.mark.parametrize("name", ALL)
def test_every_output_is_rounded_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given back is bf16, as in PyTorch, and nearer to fp32 than what PyTorch computes in bf16 throughout."""
    model, wide = narrow(name)
    call = inputs(name, output_hidden_states=True, output_attentions=True)
    with runs(monkeypatch) as seen:
        mine = model(**call)
    assert len(seen) == len(model.base_model.stacks)
    exact = wide(**call)
    monkeypatch.setenv("GLASSFORMER_ENGINE", "off")
    torched = model(**call)
    assert mine.keys() == torched.keys()
    for key in (key for key in mine if key.endswith(("logits", "states", "attentions", "state"))):
        tensors = [
            [value] if isinstance(value, torch.Tensor) else value for value in (mine[key], torched[key], exact[key])
        ]
        for one, other, right in zip(*tensors):
            assert one.dtype == other.dtype == torch.bfloat16, key
            assert (one - right).norm() <= max(1.1 * (other - right).norm(), ULP * right.norm()), key
    assert (mine.logits - exact.logits).norm() < 0.02 * exact.logits.norm()


@pytest.mark.parametrize("name", ALL)
def test_greedy_tokens(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of fp32 with the same weights, wherever the two best scores are further apart than bf16 tells."""
    model, wide = narrow(name)
    call = {"max_new_tokens": 9, "eos_token_id": None, "do_sample": False}
    call |= {"output_logits": True, "return_dict_in_generate": True}
    ids = ragged()[0].clamp(min=3)
    with runs(monkeypatch) as seen:
        made = model.generate(ids, **call)
    assert len(seen) >= 9
    exact = wide.generate(ids, **call)
    start = made.sequences.shape[1] - 9
    apart = torch.stack([scores.topk(2).values.diff().abs()[:, 0] > 0.1 for scores in exact.logits], 1)
    for row in range(3):
        told = 9 if apart[row].all() else int(apart[row].int().argmin())
        assert torch.equal(made.sequences[row, : start + told], exact.sequences[row, : start + told])
    assert apart.float().mean() > 0.5


@pytest.mark.parametrize("first", ["native", "pytorch"])
@pytest.mark.parametrize("name", [DECODERS[1], ENCODER_DECODERS[0]])
def test_a_cache_goes_both_ways(name: str, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that one way has filled, the native one in fp32, is read by the other."""
    model, wide = narrow(name)
    token = {"decoder_input_ids" if name in ENCODER_DECODERS else "input_ids": torch.tensor([[9], [8], [7]])}

    def continued(model: Any, ways: tuple[str, str]) -> Any:
        monkeypatch.setenv("GLASSFORMER_ENGINE", ways[0])
        begun = model(**inputs(name, use_cache=True))
        monkeypatch.setenv("GLASSFORMER_ENGINE", ways[1])
        states = {"encoder_outputs": (begun.encoder_last_hidden_state,)} if name in ENCODER_DECODERS else {}
        return model(**token, **states, past_key_values=begun.past_key_values, use_cache=True).logits

    found = continued(model, ("on", "off") if first == "native" else ("off", "on"))
    exact = continued(wide, ("off", "off"))
    assert found.dtype == torch.bfloat16
    assert 0 < (found - exact).norm() < 0.04 * exact.norm()


def test_fp16_runs_in_pytorch() -> None:
    """Which models run natively is said in one sentence."""
    model = copy.deepcopy(ours(DECODERS[1])).half()
    assert not gf.programs(model).native
    assert "embedding.tokens.weight is torch.float16" in str(gf.programs(model))
    assert gf.programs(narrow(DECODERS[1])[0]).native
    assert "bf16" in str(gf.programs(narrow(DECODERS[1])[0]))
