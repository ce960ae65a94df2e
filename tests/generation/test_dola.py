"""DoLa gives what its paper says, written plainly from the hidden states of every step."""

from typing import Any

import pytest
import torch

from glassformer.errors import GenerationError
from glassformer.generation.dola import chosen_layers, contrasted

from .tiny import ALL, ENCODER_DECODERS, ENDS, PAD, ours, ragged


def plain_contrast(final: torch.Tensor, earlier: list[torch.Tensor]) -> torch.Tensor:
    """Scores (V,) of one row, from logits (V,)."""
    p = final.softmax(-1)

    def divergence(logits: torch.Tensor) -> float:
        q = logits.softmax(-1)
        m = (p + q) / 2
        return float((torch.xlogy(p, p / m) + torch.xlogy(q, q / m)).sum() / 2)

    base = max(earlier, key=divergence)
    scores = final.log_softmax(-1) - base.log_softmax(-1)
    return torch.where(p >= 0.1 * p.max(), scores, -torch.inf)


@torch.no_grad()
def reference(name: str, ids: torch.Tensor, steps: int, layers: list[int]) -> list[int]:
    """The new tokens after one prompt (1, T), or for one text of an encoder."""
    model, encoder_decoder = ours(name), name in ENCODER_DECODERS
    text = torch.tensor([[model.generation_config.decoder_start_token_id]]) if encoder_decoder else ids
    start = text.shape[1]
    for _ in range(steps):
        given = {"input_ids": ids, "decoder_input_ids": text} if encoder_decoder else {"input_ids": text}
        out = model(**given, use_cache=False, output_hidden_states=True)
        states = out["decoder_hidden_states" if encoder_decoder else "hidden_states"]
        earlier = [model.lm_head(states[layer][0, -1]) for layer in layers]
        token = plain_contrast(out.logits[0, -1], earlier).argmax()
        text = torch.cat([text, token.view(1, 1)], dim=1)
        if int(token) in ENDS:
            break
    return text[0, start:].tolist()


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize("layers", [[0], [1], [0, 1]])
@pytest.mark.parametrize("name", ALL)
def test_tokens(name: str, layers: list[int], use_cache: bool) -> None:
    """Every row of a ragged batch is what the reference finds for it alone; only padding follows an end."""
    ids, mask = ragged("right" if name in ENCODER_DECODERS else "left")
    found = ours(name).generate(
        ids, attention_mask=mask, dola_layers=layers, max_new_tokens=6, eos_token_id=ENDS, use_cache=use_cache,
        forced_eos_token_id=None,
    )  # fmt: skip
    found = found[:, 1 if name in ENCODER_DECODERS else 7 :]
    for row, real, result in zip(ids, mask, found.tolist()):
        wanted = reference(name, row[real.bool()][None], 6, layers)
        assert result[: len(wanted)] == wanted
        assert set(result[len(wanted) :]) <= {PAD}


def test_contrast_by_row() -> None:
    """Every row takes the layer that differs most for it, whatever is beside it."""
    torch.manual_seed(0)
    final, earlier = torch.randn(6, 40) * 3, torch.randn(4, 6, 40) * 3
    found = contrasted(final, earlier)
    for row in range(6):
        torch.testing.assert_close(found[row], plain_contrast(final[row], list(earlier[:, row])))
    extreme = contrasted(torch.tensor([[200.0, 0.0, -200.0]]), torch.tensor([[[0.0, 300.0, 0.0]], [[1.0, 1.0, 1.0]]]))
    assert not extreme.isnan().any()
    assert extreme.argmax() == 0


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_outputs(name: str, do_sample: bool) -> None:
    """Hidden states come back only if asked for; the logits are the contrasted ones; samples follow a seed."""
    ids, mask = ragged()
    call = {"attention_mask": mask, "max_new_tokens": 5, "dola_layers": [0], "do_sample": do_sample}
    call |= {"seed": 4} if do_sample else {}
    plain = ours(name).generate(ids, return_dict_in_generate=True, output_logits=True, **call)
    assert not [key for key in plain if key.endswith("hidden_states")]
    assert all(logits.isneginf().any() for logits in plain.logits)
    full = ours(name).generate(ids, return_dict_in_generate=True, output_hidden_states=True, **call)
    assert [key for key in full if key.endswith("hidden_states")]
    assert torch.equal(full.sequences, plain.sequences)


def test_layers_of_words() -> None:
    """Every second layer of the lower or upper half, at most 20 layers; a tied embedding is left out."""
    assert chosen_layers("low", 32, False) == list(range(0, 16, 2))
    assert chosen_layers("low", 32, True) == list(range(2, 16, 2))
    assert chosen_layers("high", 32, True) == list(range(16, 32, 2))
    assert chosen_layers("low", 80, False) == list(range(0, 20, 2))
    assert chosen_layers("high", 80, False) == list(range(60, 80, 2))
    assert chosen_layers("low", 4, True) == [2]
    assert chosen_layers("low", 2, True) == [1]
    assert chosen_layers([3, 1, 3], 4, True) == [3, 1]


WRONG: list[Any] = ["middle", [], [2], [-1], [0.5], "lower", 1]


@pytest.mark.parametrize("layers", WRONG)
def test_refused(layers: Any) -> None:
    """Layers that the model does not have are an error that names them."""
    with pytest.raises(GenerationError, match="dola_layers"):
        ours("GPT2LMHeadModel").generate(ragged()[0], dola_layers=layers)
