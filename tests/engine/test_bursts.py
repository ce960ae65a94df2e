"""Several greedy steps in one native call choose the tokens that steps one by one do, and stop where those stop.

Any other step is one native call, too, which gives the scores that the stack and the readout would give in two.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from generation.tiny import ALL, ENCODER_DECODERS, ours
from glassformer.engine.burst import Burst
from glassformer.errors import GlassformerError
from glassformer.kernels import native

pytestmark = pytest.mark.skipif(native.load() is None, reason=f"no native code: {native.reason()}")
TEXTS = torch.tensor([[5, 9, 4, 7, 11, 3, 8, 2], [6, 2, 8, 8, 3, 10, 12, 4], [7, 7, 1, 4, 13, 2, 5, 9]])
BURSTING = [name for name in ALL if name != "BertLMHeadModel"]  # whose readout is no single matrix


@pytest.fixture
def bursts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps each burst made; 0 where the model was called instead."""
    made: list[int] = []
    run = Burst._call

    def noted(self: Burst, head: Any, inputs: Any, *several: Any) -> Tensor | None:
        found = run(self, head, inputs, *several)
        if several:
            made.append(0 if found is None else found.shape[1])
        return found

    monkeypatch.setattr(Burst, "_call", noted)
    return made


def model_of(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """A model of a family that does not repeat itself, whose readout adds and multiplies as far as its class does."""
    model = copy.deepcopy(ours(name))
    head = model.lm_head.linear
    drawn = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(3))
    head.weight = torch.nn.Parameter(drawn, requires_grad=False)
    if name == "BartForConditionalGeneration":
        model.lm_head.offset.copy_(torch.linspace(-1, 1, model.lm_head.offset.numel())[None])
    return model.to(dtype)


def written(model: Any, ids: Tensor, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Tensor, Tensor]:
    """What is generated in bursts, and a step a call."""
    settings = {"do_sample": False, "max_new_tokens": 24, "eos_token_id": None, **settings}
    fast = model.generate(ids, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(model, "burst", None)
        return fast, model.generate(ids, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", BURSTING)
def test_the_same_tokens(name: str, dtype: torch.dtype, bursts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a batch with padding; steps follow at once from the prompt on."""
    mask = torch.ones_like(TEXTS)
    mask[1, :3] = 0
    fast, slow = written(model_of(name, dtype), TEXTS, monkeypatch, attention_mask=mask)
    assert torch.equal(fast, slow)
    forced = name == "BartForConditionalGeneration"  # the last token
    assert bursts == [23 - forced] + [0] * forced


@pytest.mark.parametrize("name", BURSTING)
def test_rows_that_end(name: str, bursts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst stops where a row ends; those that go on are read alone, and what ended is padded."""
    model, texts = model_of(name), torch.arange(48).view(6, 8) % 37 + 3
    usual = model.generate(texts, do_sample=False, max_new_tokens=30, eos_token_id=None)[:, -30:]
    # Ends that come after some steps, in some rows.
    ends = [token for token in usual.unique().tolist() if token not in usual[:, :4]][:3]
    bursts.clear()
    settings = {"eos_token_id": ends, "pad_token_id": 0, "max_new_tokens": 30}
    fast, slow = written(model, texts, monkeypatch, **settings)
    assert torch.equal(fast, slow)
    assert sum(made > 1 for made in bursts) >= 2
    assert len({row.eq(0).sum().item() for row in fast}) > 1  # rows ended at different steps


@pytest.mark.parametrize("cache", [None, "static"])
def test_buffers_that_are_full(cache: str | None, bursts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst stops where a buffer ends, which grows before the next one; one of a fixed size is large enough."""
    model = model_of("LlamaForCausalLM")
    fast, slow = written(model, TEXTS[:1].repeat(1, 7), monkeypatch, max_new_tokens=80, cache_implementation=cache)
    assert torch.equal(fast, slow)
    assert bursts == ([8, 64, 7] if cache is None else [79])


def test_the_last_position(bursts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the table of positions ends, steps one by one say what is wrong, as without bursts."""
    model = model_of("GPT2LMHeadModel")
    with pytest.raises(GlassformerError, match="64") as fast:
        written(model, TEXTS[:1], monkeypatch, max_new_tokens=80)
    assert bursts[-1] == 0
    monkeypatch.setattr(model, "burst", None)
    with pytest.raises(type(fast.value), match="64"):
        model.generate(TEXTS[:1], do_sample=False, max_new_tokens=80, eos_token_id=None)


def test_time_ends_a_burst(bursts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """With no time for a second step, every burst is one; so an interrupt is heard between two."""
    monkeypatch.setattr("glassformer.engine.run.MILLISECONDS", 0)
    fast, slow = written(model_of("LlamaForCausalLM"), TEXTS, monkeypatch, max_new_tokens=6)
    assert torch.equal(fast, slow)
    assert bursts == [1, 1, 1, 1, 1]


def test_a_text_goes_on(bursts: list[int]) -> None:
    """A cache that bursts filled is what step after step would have left: a second call goes on from it."""
    model = model_of("GPT2LMHeadModel")

    def write(ids: Tensor, count: int, cache: Any = None) -> Tensor:
        settings = {"do_sample": False, "eos_token_id": None, "attention_mask": torch.ones_like(ids)}
        return model.generate(ids, max_new_tokens=count, past_key_values=cache, **settings)

    whole = write(TEXTS, 20)
    cache = model(TEXTS[:, :-1], use_cache=True).past_key_values
    first = write(TEXTS, 9, cache)
    assert cache.get_seq_length() == first.shape[1] - 1
    assert torch.equal(write(first, 11, cache), whole)
    assert sum(made > 1 for made in bursts) >= 3


def test_a_cache_of_ones_own_holds_padding(bursts: list[int]) -> None:
    """Where rows that are finished stay in the batch, for the sake of a cache that was given, they read padding."""
    model = model_of("LlamaForCausalLM")

    def write() -> tuple[Tensor, Any]:
        cache = model(TEXTS[:, :-1], use_cache=True).past_key_values
        settings = {"attention_mask": torch.ones_like(TEXTS), "do_sample": False, "max_new_tokens": 20}
        return model.generate(TEXTS, past_key_values=cache, eos_token_id=ends, pad_token_id=0, **settings), cache

    ends = 60
    usual = write()[0][:, 8:]
    ends = next(token for token in usual[0].tolist() if token not in usual[1])  # of which the first row ends, early
    fast, held = write()
    assert any(bursts)
    model.burst = None
    slow, expected = write()
    assert torch.equal(fast, slow)
    for mine, plain in zip(held.layers, expected.layers, strict=True):
        torch.testing.assert_close(mine.keys, plain.keys, rtol=1e-5, atol=1e-5)


def hooked(model: Any) -> dict[str, Any]:
    model.lm_head.register_forward_hook(lambda module, inputs, output: None)
    return {}


def patched(model: Any) -> dict[str, Any]:
    forward = model.forward
    model.forward = lambda **inputs: forward(**inputs)
    return {}


def stretched(model: Any) -> dict[str, Any]:
    model.get_decoder().positions.by_length = True
    return {}


WAYS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "hook": hooked,
    "forward of one's own": patched,
    "angles by length": stretched,
    "sampling": lambda model: {"do_sample": True, "top_k": 1},
    "beams": lambda model: {"num_beams": 2},
    "a processor": lambda model: {"repetition_penalty": 1.3},
    "time": lambda model: {"max_time": 60.0},
    "scores": lambda model: {"return_dict_in_generate": True, "output_scores": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_steps_one_by_one(way: str, bursts: list[int]) -> None:
    """What somebody looks at, or what is more than a choice of the largest, is made a step a call."""
    model = model_of("LlamaForCausalLM")
    model.generate(TEXTS, **{"do_sample": False, "max_new_tokens": 6, "eos_token_id": None, **WAYS[way](model)})
    assert not any(bursts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", ["sampling", "beams", "a processor", "scores"])
@pytest.mark.parametrize("name", ALL)
def test_one_call_a_step(name: str, way: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that is no burst is one native call, and its scores are those of two, bit for bit."""
    model = model_of(name, dtype) if name in BURSTING else copy.deepcopy(ours(name)).to(dtype)
    settings = {"max_new_tokens": 9, "eos_token_id": None, "forced_eos_token_id": None, **WAYS[way](model)}
    settings |= {"return_dict_in_generate": True, "output_logits": True}
    settings.setdefault("do_sample", False)
    run, calls = native.load().gf_run, []

    def counted(operations: Any, count: int, *rest: Any) -> int:
        calls.append(count)
        return run(operations, count, *rest)

    def write() -> Any:
        calls.clear()
        torch.manual_seed(4)
        return model.generate(TEXTS, **settings)

    monkeypatch.setattr(native.load(), "gf_run", counted)
    lean, once = write(), len(calls)
    model.burst = None
    usual, twice = write(), len(calls)
    assert torch.equal(lean.sequences, usual.sequences)
    assert all(torch.equal(mine, plain) for mine, plain in zip(lean.logits, usual.logits, strict=True))
    assert twice - once == (8 if name in BURSTING else 0)  # of nine steps, the first being the prompt's


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_quantised(bits: str, bursts: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Matrices in panels are read alike."""
    ours("LlamaForCausalLM").save_pretrained(tmp_path)
    model = type(ours("LlamaForCausalLM")).from_pretrained(tmp_path, quantization=bits)
    fast, slow = written(model, TEXTS, monkeypatch)
    assert torch.equal(fast, slow)
    assert bursts == [23]


@torch.no_grad()
@pytest.mark.parametrize("name", [BURSTING[0], ENCODER_DECODERS[0]])
def test_other_weights_are_used(name: str, bursts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that change between two calls of `generate`, in place or not, change the next one's tokens."""
    model = model_of(name)
    before, _ = written(model, TEXTS, monkeypatch)
    projection = model.get_decoder().layers[1].feedforward.up_proj
    projection.weight.mul_(-3)
    in_place, slow = written(model, TEXTS, monkeypatch)
    assert torch.equal(in_place, slow)
    projection.weight = torch.nn.Parameter(-projection.weight.flip(0))
    replaced, slow = written(model, TEXTS, monkeypatch)
    assert torch.equal(replaced, slow)
    assert not torch.equal(before, in_place)
    assert not torch.equal(in_place, replaced)
