"""Outputs say why every sequence ended, and give attentions and hidden states of the whole text as one tensor."""

import copy
import pickle
from typing import Any

import pytest
import torch

from glassformer.errors import GenerationError
from glassformer.generation.stopping import StoppingCriteria

from .texts import tokenizer
from .tiny import ALL, DECODERS, ENCODER_DECODERS, ENDS, ours, peer, ragged


@pytest.mark.parametrize("call", [{}, {"do_sample": True, "seed": 1}, {"num_beams": 3, "num_return_sequences": 2}])
@pytest.mark.parametrize("name", ALL)
def test_ends_and_lengths(name: str, call: dict[str, Any]) -> None:
    """Every row is told apart: it has an end among its tokens, or it has come to the length."""
    ids, mask = ragged()
    out = ours(name).generate(
        ids.repeat(4, 1), attention_mask=mask.repeat(4, 1), max_new_tokens=9, eos_token_id=ENDS, **call,
        return_dict_in_generate=True,
    )  # fmt: skip
    new = out.sequences[:, 1 if name in ENCODER_DECODERS else 7 :]
    wanted = ["eos" if ended else "length" for ended in torch.isin(new, torch.tensor(ENDS)).any(1)]
    assert list(out.finish_reason) == wanted
    assert "eos" in wanted or not call.get("do_sample")


class AtThree(StoppingCriteria):
    """Finishes the row 1 after three new tokens."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.tensor([False, input_ids.shape[1] >= 10, False])


class Never(StoppingCriteria):
    """Finishes nothing, and says so with one bool for all rows."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> bool:
        return False


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ({"max_time": 0.0}, ("time",) * 3),
        ({"stopping_criteria": [AtThree(), Never()]}, ("length", "criterion", "length")),
        ({"stop_strings": "e", "tokenizer": True}, ("length",) * 3),
        ({"forced_eos_token_id": 2, "eos_token_id": 2, "suppress_tokens": [7]}, ("eos",) * 3),
        ({"prompt_lookup_num_tokens": 3}, ("length",) * 3),
    ],
)
def test_reasons(call: dict[str, Any], wanted: tuple[str, ...]) -> None:
    """Time and criteria of one's own have names, too; an end at the last token counts as an end."""
    if "tokenizer" in call:
        call = {**call, "tokenizer": tokenizer("bytes"), "suppress_tokens": letters("e")}
    out = ours(DECODERS[1]).generate(
        ragged()[0], **{"eos_token_id": None, "max_new_tokens": 6, "return_dict_in_generate": True, **call}
    )
    assert out.finish_reason == wanted


def letters(letter: str) -> list[int]:
    """The tokens of the first 61 whose text has a letter."""
    return [token for token in range(61) if letter in tokenizer("bytes").decode([token])]


def test_stop_strings_are_a_reason() -> None:
    """The row that says the stop string ends there, the others go on."""
    own = tokenizer("bytes")
    model, ids = ours(DECODERS[1]), ragged()[0]
    call = {"max_new_tokens": 6, "eos_token_id": None, "return_dict_in_generate": True}
    plain = model.generate(ids, **call).sequences[:, 7:]
    texts = [own.convert_tokens_to_ids(own.convert_ids_to_tokens(row.tolist())) for row in plain]
    stop = next(own.decode([token]) for token in plain[1].tolist() if token > 3 and token not in plain[[0, 2]])
    out = model.generate(ids, stop_strings=stop, tokenizer=own, pad_token_id=0, **call)
    assert out.finish_reason[1] == "stop_string"
    assert len(texts) == 3
    assert "length" in out.finish_reason


def test_keys_stay_the_peers() -> None:
    """The reason is no key, and survives a copy and a pickle."""
    call = {"max_new_tokens": 2, "return_dict_in_generate": True, "use_cache": False}
    out = ours(DECODERS[1]).generate(ragged()[0], **call)
    assert list(out.keys()) == list(peer(DECODERS[1]).generate(ragged()[0], **call).keys())
    assert len(out.to_tuple()) == 1
    for other in (copy.deepcopy(out), pickle.loads(pickle.dumps(out))):
        assert other.finish_reason == out.finish_reason == ("length",) * 3
        assert torch.equal(other.sequences, out.sequences)


@pytest.mark.parametrize("call", [{}, {"use_cache": False}, {"prompt_lookup_num_tokens": 3}, {"num_beams": 3}])
@pytest.mark.parametrize("name", ALL)
def test_stitched(name: str, call: dict[str, Any]) -> None:
    """The stitched tensors are those of one forward over the whole text."""
    model, (ids, _) = ours(name), ragged()
    out = model.generate(
        ids, max_new_tokens=7, eos_token_id=None, return_dict_in_generate=True, output_attentions=True,
        output_hidden_states=True, attention_mask=torch.ones_like(ids), **call,
    )  # fmt: skip
    given: dict[str, Any] = {"input_ids": out.sequences[:, :-1]}
    if name in ENCODER_DECODERS:
        given = {"input_ids": ids, "decoder_input_ids": out.sequences[:, :-1]}
    whole = model(**given, output_attentions=True, output_hidden_states=True)
    names = [key for key in out if key.endswith(("attentions", "hidden_states")) and not key.startswith("encoder")]
    assert len(names) == (3 if name in ENCODER_DECODERS else 2)
    for key in names:
        layers = out.stitched(key)
        assert len(layers) == len(whole[key])
        for layer, wanted in zip(layers, whole[key]):
            torch.testing.assert_close(layer, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max().clamp(min=1)))


def test_stitched_layers_of_one_text() -> None:
    """Of one row all layers asked for are one tensor; a layer not asked for has none, and heads can be picked."""
    model, (ids, mask) = ours(DECODERS[1]), ragged()
    call = {"attention_mask": mask, "max_new_tokens": 5, "eos_token_id": None, "return_dict_in_generate": True}
    out = model.generate(ids, output_attentions=True, **call)
    layers = out.stitched("attentions")
    assert torch.equal(out.stitched("attentions", row=1), torch.stack([layer[1] for layer in layers]))
    some = model.generate(ids, output_attentions={1: [3, 0]}, **call)
    assert some.stitched("attentions")[0] is None
    torch.testing.assert_close(some.stitched("attentions", row=1), layers[1][1, [3, 0]][None], rtol=1e-5, atol=1e-6)


def test_nothing_to_stitch() -> None:
    """What was not asked for, or has no steps, is an error that says how to get it."""
    model, call = ours(ENCODER_DECODERS[0]), {"max_new_tokens": 2, "return_dict_in_generate": True}
    with pytest.raises(GenerationError, match="output_attentions"):
        model.generate(ragged()[0], **call).stitched("decoder_attentions")
    out = model.generate(ragged()[0], output_attentions=True, **call)
    with pytest.raises(GenerationError, match="cross_attentions"):
        out.stitched("encoder_attentions")
