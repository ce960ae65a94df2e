"""A decoding step that follows another is that call again; whatever lies between the two, the numbers are PyTorch's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from generation.tiny import ALL, ENCODER_DECODERS, ours, ragged
from glassformer.cache import KVCache, StaticCache
from glassformer.engine.executor import Watched
from glassformer.engine.run import Call
from glassformer.engine.steps import Steps
from glassformer.errors import InputError
from glassformer.kernels import native

pytestmark = pytest.mark.skipif(native.load() is None, reason=f"no native code: {native.reason()}")
TEXTS = torch.tensor([[5, 9, 4, 7, 11, 3, 8, 2], [6, 2, 8, 8, 3, 10, 12, 4], [7, 7, 1, 4, 13, 2, 5, 9]])


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call followed the one before it."""
    seen: list[bool] = []
    following = Steps.next

    def noted(self: Steps, *args: Any) -> Call | None:
        call = following(self, *args)
        seen.append(call is not None)
        return call

    monkeypatch.setattr(Steps, "next", noted)
    return seen


def arguments(name: str, ids: Tensor, mask: Tensor | None = None, memory: Any = None) -> dict[str, Any]:
    if name in ENCODER_DECODERS:
        return {"decoder_input_ids": ids, "encoder_outputs": memory, "decoder_attention_mask": mask}
    return {"input_ids": ids, "attention_mask": mask}


def close(mine: Tensor, plain: Tensor) -> None:
    torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-5 * float(plain.abs().max()))


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_steps_follow(name: str, padded: bool, followed: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second new token on every call follows; the scores are those of PyTorch, read at once."""
    model = ours(name)
    memory = model.get_encoder()(input_ids=ragged()[0]) if name in ENCODER_DECODERS else None
    mask = torch.ones_like(TEXTS)
    if padded:
        mask[1, :2] = 0
    cache, scores = None, []
    for start, end in ((0, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8)):
        given = arguments(name, TEXTS[:, start:end], mask[:, :end] if padded else None, memory)
        out = model(**given, past_key_values=cache, use_cache=True)
        cache, scores = out.past_key_values, [*scores, out.logits]
    assert followed[-6:] == [False, False, True, True, True, True]
    monkeypatch.setenv("GLASSFORMER_ENGINE", "off")
    whole = model(**arguments(name, TEXTS, mask if padded else None, memory)).logits
    close(torch.cat(scores, dim=1)[:, 2:], whole[:, 2:])


def cropped(cache: Any) -> Any:
    cache.crop(-1)
    return cache


def swapped(cache: Any) -> Any:
    cache.reorder_cache(torch.tensor([1, 0, 2]))
    return cache


def shrunk(cache: Any) -> Any:
    cache.batch_select_indices(torch.tensor([0, 2]))
    return cache


def another(cache: Any) -> Any:
    return KVCache([(layer.keys.roll(1, 0).clone(), layer.values.roll(1, 0).clone()) for layer in cache.layers])


def moved(cache: Any) -> Any:
    for layer in cache.layers:
        layer.held = {kind: buffer.roll(1, 0).clone() for kind, buffer in layer.held.items()}
    return cache


@torch.no_grad()
@pytest.mark.parametrize("change", [cropped, swapped, shrunk, another, moved])
def test_a_cache_may_change_between_two_steps(
    change: Any, followed: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens taken back, rows in another order, fewer rows, another cache, other buffers."""
    model = ours("LlamaForCausalLM")

    def scores() -> Tensor:
        cache = model(TEXTS[:, :5], use_cache=True).past_key_values
        for column in (5, 6):
            model(TEXTS[:, column : column + 1], past_key_values=cache, use_cache=True)
        cache = change(cache)
        tokens = TEXTS[: cache.batch_size, 7:]
        return torch.cat([model(tokens, past_key_values=cache, use_cache=True).logits for _ in range(3)], dim=1)

    mine = scores()
    assert followed[-4] is True  # of the steps before the change
    assert followed[-3] is False
    monkeypatch.setenv("GLASSFORMER_ENGINE", "off")
    close(mine, scores())


@torch.no_grad()
def test_another_mask_is_another_call(followed: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is hidden of the past from one step on is hidden, and a step of padding is no token."""
    model = ours("GPT2LMHeadModel")
    late, gone = torch.ones(3, 7, dtype=torch.long), torch.ones(3, 8, dtype=torch.long)
    late[0, :2] = 0
    gone[0, :2] = gone[2, 7] = 0

    def scores() -> Tensor:
        cache = model(TEXTS[:, :5], attention_mask=torch.ones(3, 5), use_cache=True).past_key_values
        model(TEXTS[:, 5:6], attention_mask=torch.ones(3, 6), past_key_values=cache, use_cache=True)
        masks = ((6, late), (7, gone))
        found = [model(TEXTS[:, at : at + 1], attention_mask=mask, past_key_values=cache).logits for at, mask in masks]
        return torch.cat(found, dim=1)

    mine = scores()
    assert followed[-2:] == [False, False]
    monkeypatch.setenv("GLASSFORMER_ENGINE", "off")
    close(mine, scores())


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_other_weights_and_another_text(name: str, followed: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that changed in place are used, and another encoder's states with their own cache are looked at."""
    model = ours(name)
    one, two = (model.get_encoder()(input_ids=ids) for ids in (TEXTS, TEXTS.flip(1)))

    def scores() -> Tensor:
        found = []
        for memory in (one, two):
            cache = None
            for column in range(4):
                given = arguments(name, TEXTS[:, column : column + 1], None, memory)
                out = model(**given, past_key_values=cache, use_cache=True)
                cache, found = out.past_key_values, [*found, out.logits]
                with torch.no_grad():
                    model.base_model.decoder.layers[0].attention.q_proj.weight.mul_(1.25)
        for _ in range(8):
            model.base_model.decoder.layers[0].attention.q_proj.weight.div_(1.25)
        return torch.cat(found, dim=1)

    mine = scores()
    assert len({tuple(step.flatten().tolist()) for step in mine.unbind(1)}) == 8
    monkeypatch.setenv("GLASSFORMER_ENGINE", "off")
    close(mine, scores())


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_a_mask_that_is_gone_is_not_none(name: str, followed: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """A call without the mask over the encoder's states sees all of them, whatever the call before it hid."""
    model = ours(name)
    memory = model.get_encoder()(input_ids=TEXTS)

    def scores() -> Tensor:
        cache, found = None, []
        for column, hides in ((0, True), (1, True), (2, False)):
            mask = torch.ones_like(TEXTS)
            mask[:, 4:] = 0
            given = arguments(name, TEXTS[:, column : column + 1], None, memory) | {"past_key_values": cache}
            out = model(**given, attention_mask=mask if hides else None, use_cache=True)
            cache, found = out.past_key_values, [*found, out.logits]
            del mask, given
        return torch.cat(found, dim=1)

    mine = scores()
    assert followed[-1] is False
    monkeypatch.setenv("GLASSFORMER_ENGINE", "off")
    close(mine, scores())


@torch.no_grad()
def test_a_buffer_that_is_full(followed: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """A growing cache grows between two steps, and one of a fixed size says that it is full."""
    model = ours("LlamaForCausalLM")
    ids = torch.arange(70)[None] % 50

    def scores() -> Tensor:
        cache = model(ids[:, :60], use_cache=True).past_key_values
        columns = [ids[:, at : at + 1] for at in range(60, 70)]
        return torch.cat([model(one, past_key_values=cache, use_cache=True).logits for one in columns], dim=1)

    mine = scores()
    assert followed[-10:] == [False, True, True, True, False, True, True, True, True, True]
    cache = StaticCache(max_cache_len=6)
    model(ids[:, :4], past_key_values=cache)
    model(ids[:, 4:5], past_key_values=cache)
    model(ids[:, 5:6], past_key_values=cache)
    with pytest.raises(InputError, match="room for 6 tokens"):
        model(ids[:, 6:7], past_key_values=cache)
    monkeypatch.setenv("GLASSFORMER_ENGINE", "off")
    close(mine, scores())


class Meddler:
    """Code of somebody else's, which doubles a weight when it is called for the third time."""

    def __init__(self, model: Any) -> None:
        self.weight, self.calls = next(iter(model.get_decoder().layers)).feedforward.up_proj, 0

    def __call__(self, *given: Any) -> Any:
        self.calls += 1
        if self.calls == 3:
            self.weight.weight = torch.nn.Parameter(-2 * self.weight.weight)
        return given[-1]

    def put(self, tokens: Tensor) -> None:
        """As a streamer."""
        self(tokens)

    def end(self) -> None:
        """As a streamer."""


@torch.no_grad()
@pytest.mark.parametrize("way", ["processor", "streamer", "hook", "part", "none"])
@pytest.mark.parametrize("name", ALL[1::3])
def test_what_others_change_in_generate_is_seen(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that change between two steps count from the next on; where nobody can change any, nobody looks."""
    asked: list[bool] = []
    same = Watched.same

    def noted(self: Watched, root: Any) -> bool:
        asked.append(True)
        return same(self, root)

    monkeypatch.setattr(Watched, "same", noted)

    def write() -> Tensor:
        model = copy.deepcopy(ours(name))
        meddler = Meddler(model)
        own: dict[str, dict[str, Any]] = {
            "processor": {"logits_processor": [meddler]},
            "streamer": {"streamer": meddler},
        }
        if way == "part":
            dropout = model.lm_head.dropout
            dropout.__class__ = type("Own", (type(dropout),), {"forward": lambda module, states: meddler(states)})
        if way == "hook":
            model.register_forward_hook(lambda module, inputs, output: meddler(output))
        return model.generate(TEXTS[:1], max_new_tokens=8, do_sample=False, eos_token_id=None, **own.get(way, {}))

    mine = write()
    assert not asked if way == "none" else len(asked) >= 7
    monkeypatch.setenv("GLASSFORMER_ENGINE", "off")
    assert torch.equal(mine, write())
