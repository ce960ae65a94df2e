"""What all analyses keep to: the model is afterwards what it was, in whatever mode; no token runs as markup."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from glassformer.generation.explain_table import columns
from glassformer.glassbox.analyses.attribution import direct_logit_attribution
from glassformer.glassbox.analyses.entropy import attention_entropy
from glassformer.glassbox.analyses.gradients import integrated_gradients
from glassformer.glassbox.analyses.lens import logit_lens
from glassformer.glassbox.analyses.losses import token_losses
from glassformer.glassbox.analyses.rollout import attention_rollout
from glassformer.glassbox.tables import Drawn, Table, bars, markup, terminal
from parity.zoo import BY_NAME, folder, load

from .analysed import arguments, listeners

ANALYSES: list[tuple[Callable[..., Drawn], dict[str, Any], str]] = [
    (logit_lens, {}, "target_probabilities"),
    (direct_logit_attribution, {"target": 7}, "contributions"),
    (attention_rollout, {}, "layers"),
    (attention_entropy, {}, "heads"),
    (integrated_gradients, {"target": 7, "steps": 3}, "attributions"),
    (token_losses, {}, "losses"),
]


@pytest.mark.parametrize(("analysis", "options", "result"), ANALYSES)
def test_the_model_is_left_as_it_was(analysis: Callable[..., Drawn], options: dict[str, Any], result: str) -> None:
    """Dropout is off inside whatever mode the parts are in; modes, gradients and listeners are as before."""
    case = BY_NAME["GPT2-plain"]
    model, given = load(case, "LMHeadModel", folder(case, "LMHeadModel")), arguments("GPT2-plain:LMHeadModel")
    plain = getattr(analysis(model, given, **options), result)
    model.train()
    model.base_model.decoder.layers[1].eval()
    frozen = next(model.parameters()).requires_grad_(False)
    modes = {path: part.training for path, part in model.named_modules()}
    weight = model.base_model.decoder.final_norm.weight
    weight.grad = torch.ones_like(weight)
    keys = {name: value.clone() for name, value in given.items()}
    again = getattr(analysis(model, given, **options), result)
    torch.testing.assert_close(again, plain, rtol=0, atol=0, equal_nan=True)
    assert {path: part.training for path, part in model.named_modules()} == modes
    assert not frozen.requires_grad
    assert weight.requires_grad
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert all(parameter.grad is None for parameter in model.parameters() if parameter is not weight)
    assert not listeners(model)
    assert not again.requires_grad
    assert given.keys() == keys.keys()
    assert all(torch.equal(given[name], keys[name]) for name in keys)


@pytest.mark.parametrize(("analysis", "options", "result"), ANALYSES)
def test_a_failed_call_leaves_nothing_either(
    analysis: Callable[..., Drawn], options: dict[str, Any], result: str
) -> None:
    case = BY_NAME["GPT2-plain"]
    model = load(case, "LMHeadModel", folder(case, "LMHeadModel")).train()
    with pytest.raises(IndexError):
        analysis(model, {"input_ids": torch.tensor([[1, 2, 999]])}, **options)
    assert model.training
    assert all(part.training for part in model.modules())
    assert not listeners(model)


class Hostile:
    """A tokenizer whose tokens are markup and terminal controls."""

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"<script>alert({token})</script>\x1b[2J'\"&" for token in ids]


@pytest.mark.parametrize(("analysis", "options", "result"), ANALYSES)
def test_no_token_runs_as_markup(analysis: Callable[..., Drawn], options: dict[str, Any], result: str) -> None:
    case = BY_NAME["GPT2-plain"]
    model = load(case, "LMHeadModel", folder(case, "LMHeadModel"))
    found = analysis(model, arguments("GPT2-plain:LMHeadModel"), tokenizer=Hostile(), **options)
    page = found._repr_html_()
    assert "<script" not in page
    assert "\x1b" not in str(found)
    assert max(map(columns, str(found).splitlines())) <= 110
    assert repr(found) == str(found)


def test_long_tables_are_thinned_with_a_word() -> None:
    """Both ends stay, and it is said how much lies between."""
    header = ["", *(f"column {at}" for at in range(500))]
    table = Table("日本語" * 60, header, [[f"row {at}", *["x"] * 500] for at in range(1000)])
    drawn = terminal(table)
    lines = drawn.splitlines()
    assert max(map(columns, lines)) <= 110
    assert all(word in drawn for word in ("row 0", "row 999", "column 0", "column 499", "… 960 more rows …"))
    shown = set(re.findall(r"column \d+", drawn))
    assert f"… {500 - len(shown)} more columns …" in drawn
    page = markup(table)
    assert "… 700 more rows …" in page
    assert len(page) < 3_000_000


def test_bars_are_to_scale() -> None:
    strips, shares = bars([2.0, -1.0, float("nan"), 0.0], width=10)
    assert strips == ["█" * 10, "░" * 5 + " " * 5, " " * 10, " " * 10]
    assert shares == [1.0, -0.5, 0.0, 0.0]
    assert bars([0.1], least=1.0)[1] == [0.1]
    assert bars([])[0] == []
