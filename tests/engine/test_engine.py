"""The native way to run a model gives what PyTorch gives, and steps aside where it cannot."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import glassformer as gf
from generation.tiny import ALL, DECODERS, ENCODER_DECODERS, ours, ragged
from glassformer.engine.burst import Burst
from glassformer.engine.program import Program
from glassformer.engine.stacks import StackExecutor
from glassformer.kernels import native

pytestmark = pytest.mark.skipif(native.load() is None, reason=f"no native code: {native.reason()}")


@contextmanager
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The native runs of stacks inside the `with`, alone or with what reads their states."""
    seen: list[int] = []

    def counting(run: Callable[..., Any]) -> Callable[..., Any]:
        def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(1)
            return run(self, *args, **kwargs)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(StackExecutor, "_collect", counting(StackExecutor._collect))
        patch.setattr(Burst, "_bound", counting(Burst._bound))
        yield seen


def inputs(name: str, **more: Any) -> dict[str, Any]:
    ids, _ = ragged()
    given = {"input_ids": ids, **more}
    return {**given, "decoder_input_ids": ids[:, :5]} if name in ENCODER_DECODERS else given


def both(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any], stacks: int) -> tuple[Any, Any]:
    """What a call gives natively, which it must be, and in PyTorch."""
    with torch.no_grad(), runs(monkeypatch) as seen:
        mine = call()
    assert len(seen) >= stacks
    with torch.no_grad(), monkeypatch.context() as patch, runs(monkeypatch) as seen:
        patch.setenv("GLASSFORMER_ENGINE", "off")
        plain = call()
    assert not seen
    return mine, plain


def same(mine: Any, plain: Any, what: str = "") -> None:
    if isinstance(plain, torch.Tensor):
        atol = 1e-5 * max(1.0, float(plain.abs().max()))
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=atol, msg=lambda text: f"{what}: {text}")
    elif plain is None:
        assert mine is None, what
    elif isinstance(plain, tuple):
        assert len(mine) == len(plain)
        for index, pair in enumerate(zip(mine, plain)):
            same(*pair, f"{what}[{index}]")
    elif isinstance(plain, gf.KVCache):
        for index, (one, other) in enumerate(zip(mine, plain)):
            same(tuple(one), tuple(other), f"{what} layer {index}")
    else:
        assert list(mine) == list(plain)
        for key in plain:
            same(mine[key], plain[key], key)


@pytest.mark.parametrize("name", ALL)
def test_every_output(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores, states, maps of all or some heads and queries, and the cache; then one token more on that cache."""
    model, stacks = ours(name), len(ours(name).base_model.stacks)
    for maps in (True, [1], {0: [3, 0], 1: gf.Maps(queries=-1)}):
        call = inputs(name, output_attentions=maps, output_hidden_states=True)
        same(*both(monkeypatch, lambda call=call: model(**call), stacks))
    same(*both(monkeypatch, lambda: model(**inputs(name, output_hidden_states=[1])), stacks))

    def continued() -> Any:
        first = model(**inputs(name, use_cache=True))
        token = {"decoder_input_ids" if stacks == 2 else "input_ids": torch.tensor([[9], [8], [7]])}
        if stacks == 2:
            token["encoder_outputs"] = (first.encoder_last_hidden_state,)
        return model(**token, past_key_values=first.past_key_values, use_cache=True, output_attentions=True)

    same(*both(monkeypatch, continued, stacks))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_a_padded_encoder(name: str, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding is no key of the encoder nor of the cross-attention; what is computed there is the same, too."""
    ids, mask = ragged(side)
    call = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids[:, :5].clamp(min=3)}
    same(*both(monkeypatch, lambda: ours(name)(**call, output_attentions=True), 2))


@pytest.mark.parametrize("name", ALL)
def test_generation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tokens from ragged prompts; beams reorder the cache that the native code writes.

    Greedy steps follow each other within native code (test_bursts.py).
    """
    ids, mask = ragged()
    for strategy, runs in (({"do_sample": False}, 1), ({"num_beams": 3}, 11), ({"do_sample": True, "seed": 3}, 11)):
        call = {"attention_mask": mask, "max_new_tokens": 12, "eos_token_id": None, **strategy}
        mine, plain = both(monkeypatch, lambda call=call: ours(name).generate(ids, **call), runs)
        assert torch.equal(mine, plain)


@pytest.mark.parametrize("name", ALL)
def test_traces_are_native(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in a buffer is heard there, and may be replaced there; the rest is heard in PyTorch."""
    model = ours(name)
    patterns = ["*.attention.weights", "*.queries", "*.mixed", "*.inner", "*layers.1.input", "decoder.output"]

    def traced() -> Any:
        with model.trace(patterns) as trace:
            model(**inputs(name))
        return {key: trace[key] for key in sorted(trace.names)}

    same(*both(monkeypatch, traced, len(model.base_model.stacks)))

    def patched() -> Any:
        with (
            model.intervene()
            .scale("decoder.layers.0.attention.mixed", 0.5, heads=[1, 3])
            .add("decoder.layers.1.input", torch.linspace(-1, 1, 32), positions=[2])
        ):
            return model(**inputs(name)).logits

    same(*both(monkeypatch, patched, 1))
    with torch.no_grad(), runs(monkeypatch) as seen, model.trace("decoder.layers.0.attention.output"):
        model(**inputs(name))
    assert len(seen) == len(model.base_model.stacks) - 1


def swapped(model: Any) -> None:
    class Twice(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    model.base_model.decoder.layers[0].attention.q_proj = Twice(32, 32)


def trained(model: Any) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)


ASIDE: dict[str, Callable[[Any], Any]] = {
    "training": lambda model: model.train(),
    "hook": lambda model: model.base_model.decoder.layers[0].register_forward_hook(lambda *_: None),
    "another layer": swapped,
    "float64": lambda model: model.double(),
}


@pytest.mark.parametrize("change", ASIDE)
def test_it_steps_aside(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change that native code cannot see, the next call is PyTorch's."""
    model = copy.deepcopy(ours(DECODERS[1]))
    ids = ragged()[0]
    with torch.no_grad():
        with runs(monkeypatch) as seen:
            model(ids)
        assert seen
        ASIDE[change](model)
        with runs(monkeypatch) as seen:
            model(ids)
        assert not seen
        with runs(monkeypatch) as seen, torch.autocast("cpu", dtype=torch.bfloat16):
            ours(DECODERS[1])(ids)
        assert not seen


@pytest.mark.parametrize(
    "call",
    [
        {"input_ids": torch.tensor([[3, 61]])},
        {"input_ids": torch.tensor([[3, -1]])},
        {"input_ids": torch.tensor([[3, 4]]), "token_type_ids": torch.tensor([[0, 2]])},
        {"input_ids": torch.tensor([[3, 4]]), "position_ids": torch.tensor([[0, 64]])},
        {"input_ids": torch.full((1, 65), 3)},
    ],
)
def test_no_row_beyond_a_table(call: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """An id, type or position that no table has a row for is PyTorch's error, and is not looked up."""
    with torch.no_grad(), runs(monkeypatch) as seen, pytest.raises(gf.InputError):
        ours(DECODERS[0])(**call)
    assert not seen


def test_gradients_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that can be differentiated is; with frozen weights there is nothing to differentiate."""
    model = copy.deepcopy(ours(DECODERS[1]))
    with runs(monkeypatch) as seen:
        assert model(ragged()[0]).logits.requires_grad
        assert not seen
        model.requires_grad_(False)
        assert not model(ragged()[0]).logits.requires_grad
        assert seen


@pytest.mark.parametrize("name", ALL)
def test_weights_may_change(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights changed in place, or loaded anew, are those of the next call; copies have their own."""
    model = copy.deepcopy(ours(name))
    call = inputs(name)
    with torch.no_grad():
        before = model(**call).logits
    trained(model)
    mine, plain = both(monkeypatch, lambda: model(**call).logits, 1)
    same(mine, plain)
    assert not torch.allclose(mine, before)
    again = pickle.loads(pickle.dumps(model))
    same(both(monkeypatch, lambda: again(**call).logits, 1)[0], plain)
    model.load_state_dict(ours(name).state_dict())
    same(both(monkeypatch, lambda: model(**call).logits, 1)[0], before)


@pytest.mark.parametrize("name", ALL)
def test_a_program_can_be_read(name: str) -> None:
    """It names every matrix with its shape and bytes, and all weights but tables and norms are in it once."""
    model = ours(name)
    found = gf.programs(model)
    assert found.native
    for stack, program in found.stacks.items():
        assert isinstance(program, Program)
        linear = [operation.matrix for operation in program.operations if operation.kind == "linear"]
        module = getattr(model.base_model, stack)
        expected = {
            f"{path}.weight": layer.weight.shape
            for path, layer in module.named_modules()
            if isinstance(layer, torch.nn.Linear)
            and ".cross_attention.k" not in path
            and ".cross_attention.v" not in path
        }
        assert {matrix.name: (matrix.outputs, matrix.inputs) for matrix in linear if matrix} == expected
        assert f"{program.nbytes:,} B of weights" in str(found)


@pytest.mark.parametrize("name", ALL)
def test_a_model_that_is_gone_is_gone(name: str) -> None:
    """Executors do not keep a model, nor its weights, alive."""
    model = copy.deepcopy(ours(name))
    with torch.no_grad():
        model(**inputs(name))
    gone = [weakref.ref(model), *map(weakref.ref, model.base_model.stacks)]
    gc.collect()
    gc.disable()
    try:
        del model
        assert all(ref() is None for ref in gone)
    finally:
        gc.enable()


def test_a_call_within_a_call() -> None:
    """A change that calls the model itself does not wait for the call that it is part of."""
    model, ids = ours(DECODERS[1]), ragged()[0]
    with torch.no_grad():
        plain, inner = model(ids).logits, []
        seen = []

        def once(states: torch.Tensor) -> torch.Tensor:
            if not seen:
                seen.append(None)
                inner.append(model(ids).logits)
            return states

        with model.intervene({"decoder.layers.0.output": once}):
            outer = model(ids).logits
    same(outer, plain)
    same(inner[0], plain)


def test_a_table_of_ones_own_runs_in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Token vectors and scores by a module of one's own are what it computes."""

    class Twice(torch.nn.Embedding):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    model, ids = copy.deepcopy(ours(DECODERS[2])), ragged()[0]
    model.set_input_embeddings(Twice(61, 32))
    model.lm_head.linear = torch.nn.Sequential(torch.nn.Linear(32, 61))
    with torch.no_grad(), runs(monkeypatch) as seen:
        assert model(ids).logits.shape == (3, 7, 61)
    assert not seen


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 61), (1, 1)])
def test_an_offset_of_the_scores(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is added to scores is added natively, and by PyTorch where it is not one number a score."""
    model = copy.deepcopy(ours("BartForConditionalGeneration"))
    model.lm_head.offset = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    call = inputs("BartForConditionalGeneration")
    mine = model(**call).logits
    monkeypatch.setenv("GLASSFORMER_ENGINE", "off")
    torch.testing.assert_close(mine, model(**call).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_no_tokens(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A call without any is PyTorch's, whatever that makes of it."""

    def call() -> Any:
        try:
            return ours(DECODERS[2])(torch.zeros(shape, dtype=torch.long)).logits.shape
        except (RuntimeError, ValueError, gf.errors.GlassformerError) as error:
            return str(error)

    mine = call()
    monkeypatch.setenv("GLASSFORMER_ENGINE", "off")
    assert mine == call()


def test_threads_share_a_model() -> None:
    """Two threads that generate with one model do not write into each other's buffers."""
    model, ids = ours(DECODERS[1]), [ragged(seed=seed)[0] for seed in range(4)]
    call = {"max_new_tokens": 20, "eos_token_id": None, "do_sample": False}
    alone = [model.generate(each, **call) for each in ids]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda each: model.generate(each, **call), ids))
    assert all(torch.equal(one, other) for one, other in zip(alone, together))


def test_no_second_copy_of_the_weights() -> None:
    """In fp32 the kernels read the weights that were loaded."""
    model = ours(DECODERS[1])
    with torch.no_grad():
        model(ragged()[0])
    program = model.base_model.decoder.executor.program
    own = {weight.data_ptr() for weight in model.parameters()}
    read = {weight.untyped_storage().data_ptr() for weight in model.parameters()} | own
    for operation in program.operations:
        if operation.matrix is not None:
            assert operation.matrix.tensor.untyped_storage().data_ptr() in read


def test_the_configuration_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """show_config says what computes, and why."""
    gf.show_config()
    assert native.load().gf_isa().decode() in capsys.readouterr().out
    monkeypatch.setenv("GLASSFORMER_ENGINE", "off")
    gf.show_config()
    assert "GLASSFORMER_ENGINE is off" in capsys.readouterr().out


def test_an_unknown_part_is_named() -> None:
    """Why a model runs in PyTorch is one sentence."""
    model = copy.deepcopy(ours(DECODERS[1]))
    swapped(model)
    assert not gf.programs(model).native
    assert "layers.0.attention.q_proj is a Twice, not a Linear" in str(gf.programs(model))
