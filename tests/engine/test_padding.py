"""Padding is not computed, natively or in PyTorch, and nobody's numbers change by that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from counted import Rows
from generation.tiny import ALL, DECODERS, ENCODER_DECODERS, ours, ragged
from glassformer.engine.run import Bound
from glassformer.kernels import native

from .test_engine import both, same

pytestmark = pytest.mark.skipif(native.load() is None, reason=f"no native code: {native.reason()}")

LENGTHS = [7, 4, 6]  # of the texts that `ragged` gives


@contextmanager
def tokens(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many tokens each native pass inside the `with` computes."""
    seen: list[int] = []
    run = Bound.run

    def counted(self: Bound, call: Any, *part: int) -> None:
        seen.append(call.native.tokens)
        run(self, call, *part)

    with monkeypatch.context() as patch:
        patch.setattr(Bound, "run", counted)
        yield seen


def padded(name: str, side: str, **more: Any) -> dict[str, Any]:
    """A padded batch; positions of decoders alone are those of each text alone."""
    ids, mask = ragged(side)
    call = {"input_ids": ids, "attention_mask": mask, **more}
    if name in ENCODER_DECODERS:
        return {**call, "decoder_input_ids": ids[:, :5].clamp(min=3)}
    return {**call, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def alone(call: dict[str, Any], row: int) -> dict[str, Any]:
    """The same call of one text, without its padding."""
    real = call["attention_mask"][row].bool()
    cut = ("input_ids", "position_ids")
    return {key: value[row : row + 1, real] if key in cut else value[row : row + 1] for key, value in call.items()
            if key != "attention_mask"}  # fmt: skip


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ALL)
def test_a_text_among_others_is_as_alone(name: str, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores, states and maps of each text are those of the text alone, and zeros at padding."""
    if name == "BartForConditionalGeneration" and side == "left":
        pytest.skip("its positions count columns, so that a text padded at the left is another one")
    model, call = ours(name), padded(name, side)
    asked = {"output_hidden_states": True, "output_attentions": True, "use_cache": False}
    mine, plain = both(monkeypatch, lambda: model(**call, **asked), len(model.base_model.stacks))
    same(mine, plain)
    mask = call["attention_mask"].bool()
    own = "encoder_" if name in ENCODER_DECODERS else ""
    for row in range(3):
        real = mask[row]
        with torch.no_grad():
            lonely = model(**alone(call, row), **asked)
        for batch, single in zip(mine[f"{own}hidden_states"], lonely[f"{own}hidden_states"], strict=True):
            same(batch[row : row + 1, real], single)
            assert not batch[row, ~real].any()
        for batch, single in zip(mine[f"{own}attentions"], lonely[f"{own}attentions"], strict=True):
            same(batch[row : row + 1, :, real][..., real], single)
            assert not batch[row, :, ~real].any()
            assert not batch[row, ..., ~real].any()
        if own:
            same(mine.logits[row : row + 1], lonely.logits)
        else:
            same(mine.logits[row : row + 1, real], lonely.logits)
            assert not mine.logits[row, ~real].any()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ALL)
def test_no_row_is_computed_for_padding(name: str, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tokens go through the layers, and through the scores, as there are."""
    model, call = ours(name), padded(name, side)
    count = sum(LENGTHS)
    # An encoder's tokens, those whose keys and values the decoder's layers look at, the decoder's, and their scores.
    expected = {count, 15} if name in ENCODER_DECODERS else {count}
    with torch.no_grad(), tokens(monkeypatch) as seen:
        model(**call)
    assert set(seen) == expected
    monkeypatch.setenv("GLASSFORMER_ENGINE", "off")
    with Rows() as rows:
        model(**call, labels=None)
    assert rows.seen
    assert set(rows.seen) == expected


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", DECODERS)
def test_in_pieces(name: str, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A padded text read in pieces, some of which hold no token of a row, and then a token for some rows only."""
    model, call = ours(name), padded(name, side)
    ids, mask, positions = call["input_ids"], call["attention_mask"], call["position_ids"]
    with torch.no_grad():
        whole = model(**call).logits

    def read() -> Any:
        scores, cache = [], None
        for start, end in ((0, 2), (2, 3), (3, 6), (6, 7)):
            piece = {"input_ids": ids[:, start:end], "position_ids": positions[:, start:end]}
            out = model(**piece, attention_mask=mask[:, :end], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            scores.append(out.logits)
        return {"logits": torch.cat(scores, 1), "cache": cache}

    mine, plain = both(monkeypatch, read, 4)
    same(mine, plain)
    same(mine["logits"], whole)


@pytest.mark.parametrize("name", ALL)
def test_a_native_cache_goes_on_in_pytorch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no token wrote is zero, in the cache over the encoder, too, so that PyTorch can read on; and vice versa."""
    model, call = ours(name), padded(name, "left")
    stacked = name in ENCODER_DECODERS
    mask = torch.nn.functional.pad(call["attention_mask"], (0, 1), value=1)
    token: dict[str, Any] = {"attention_mask": mask, "position_ids": mask.sum(1)[:, None] - 1}
    if stacked:
        token = {"attention_mask": call["attention_mask"]}
    token["decoder_input_ids" if stacked else "input_ids"] = torch.tensor([[9], [8], [7]])

    def read(first: str, second: str) -> Any:
        with torch.no_grad(), monkeypatch.context() as patch:
            patch.setenv("GLASSFORMER_ENGINE", first)
            out = model(**call, use_cache=True)
            patch.setenv("GLASSFORMER_ENGINE", second)
            if stacked:
                token["encoder_outputs"] = (out.encoder_last_hidden_state,)
            return model(**token, past_key_values=out.past_key_values, use_cache=True)

    expected = read("off", "off")
    for order in (("on", "on"), ("on", "off"), ("off", "on")):
        same(read(*order), expected)


@pytest.mark.parametrize("name", ALL)
def test_a_row_without_tokens(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is zeros, and the others are as without it; a batch without any token is zeros."""
    model, call = ours(name), padded(name, "right")
    call["attention_mask"] = call["attention_mask"].clone()
    call["attention_mask"][1] = 0
    mine, plain = both(monkeypatch, lambda: model(**call), 1)
    same(mine, plain)
    with torch.no_grad():
        others = model(**{key: value[[0, 2]] for key, value in call.items()})
        same(mine.logits[[0, 2]], others.logits)
        nothing = model.base_model.stacks[0](input_ids=call["input_ids"], attention_mask=torch.zeros(3, 7))
    assert nothing.last_hidden_state.shape == (3, 7, 32)
    assert not nothing.last_hidden_state.any()


@pytest.mark.parametrize("name", ALL)
def test_gaps_are_left_out_in_pytorch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask with holes means the same: what is behind them is zeros, and the tokens are as if all were computed."""
    model, call = ours(name), padded(name, "right")
    call["attention_mask"] = torch.tensor([[1, 0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 1, 0]])
    stack, real = model.base_model.stacks[0], call["attention_mask"].bool()
    square = torch.ones(7, 7, dtype=torch.bool)
    allowed = real[:, None, None, :] & (square.tril() if name in DECODERS else square)
    with torch.no_grad(), Rows() as rows:
        states = stack(input_ids=call["input_ids"], attention_mask=call["attention_mask"]).last_hidden_state
        assert set(rows.seen) == {int(real.sum())}
        computed = stack(input_ids=call["input_ids"], attention_mask=allowed).last_hidden_state
    same(states[real], computed[real])
    assert not states[~real].any()
    assert computed[~real].abs().min() > 0


def test_all_is_computed_for_who_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace and a hook get tensors of the batch's shape; the states that are given back are the same."""
    for name in ALL:
        model, call = ours(name), padded(name, "right")
        stack = model.base_model.stacks[0]
        with torch.no_grad():
            plain = model(**call).logits
            with model.trace("*.layers.0.output") as trace:
                same(model(**call).logits, plain)
            assert all(len(trace[key]) == 3 for key in trace.names)
            shapes: list[Any] = []
            handle = stack.layers[0].register_forward_hook(
                lambda module, x, y, shapes=shapes: shapes.append(y[0].shape)
            )
            same(model(**call).logits, plain)
            handle.remove()
        assert shapes == [(3, 7, 32)]


def test_four_dimensions_leave_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask of keys, (B, 1, 1, T), asks for the states at padding, too; an encoder computes them natively."""
    model, call = ours("T5ForConditionalGeneration"), padded("T5ForConditionalGeneration", "left")
    encoder, mask = model.get_encoder(), call["attention_mask"].bool()
    states = lambda given: encoder(input_ids=call["input_ids"], attention_mask=given).last_hidden_state  # noqa: E731
    mine, plain = both(monkeypatch, lambda: states(mask[:, None, None, :]), 1)
    same(mine, plain)
    assert mine[~mask].abs().min() > 0
    with torch.no_grad():
        same(mine[mask], states(call["attention_mask"])[mask])
