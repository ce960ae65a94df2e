"""Differences: how far two traces are apart, and where they part first."""

import json
import re

import pytest
import torch

import glassformer as gf
from glassformer import InputError
from parity import zoo


@pytest.fixture
def model():
    """A fresh one, since some tests train it."""
    return gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")


IDS = torch.tensor([[5, 6, 7, 8, 9]])


def words(difference) -> str:
    """What it says, in one line."""
    return " ".join(str(difference).split())


def test_a_trace_does_not_differ_from_its_like(model) -> None:
    a, b = (gf.trace(model, {"input_ids": IDS}) for _ in range(2))
    difference = a.diff(b, rtol=0, atol=0)
    assert difference.same
    assert difference.first is None
    assert all(parted.absolute == parted.relative == 0 and parted.whole for parted in difference.parted)
    assert [parted.name for parted in difference.parted] == a.names
    assert words(difference) == (
        f"No difference: {len(a.names)} tensors of GPT2LMHeadModel and GPT2LMHeadModel agree within 0 of a value and "
        "0 of the largest."
    )


def test_the_largest_difference_and_the_first_place(model) -> None:
    """Of a change by hand: the numbers of the formula, the first index over the tolerance, and nothing before."""
    a, b = (gf.trace(model, {"input_ids": IDS}) for _ in range(2))
    name = "decoder.layers.2.feedforward.inner"
    changed = b[name].clone()
    changed[0, 3, 7] += 0.5
    changed[0, 4, 100] -= 2.0
    b.records[name][0] = changed
    difference = a.diff(b)
    first = difference.first
    assert first is not None
    assert (first.name, first.call, first.index) == (name, 0, (0, 3, 7))
    assert first.values == (a[name][0, 3, 7].item(), changed[0, 3, 7].item())
    apart = (a[name].double() - changed.double()).abs()
    assert first.absolute == apart.max().item()
    assert first.relative == (apart / changed.double().abs()).nan_to_num(0).max().item()
    assert [parted.name for parted in difference.parted if not parted.same] == [name]
    assert difference[name] is first
    assert difference["logits"].same
    assert f"First difference: {name}, at [0, 3, 7]: " in str(difference)
    assert a.diff(b, atol=3.0).same
    assert not a.diff(b, atol=1e-3).same
    with pytest.raises(InputError, match="'nonsense' is not in both"):
        difference["nonsense"]
    json.dumps(difference.to_dict())


def test_tolerances_are_those_of_the_formula(model) -> None:
    """atol · max(1, largest) + rtol · |value|."""
    a, b = (gf.trace(model, {"input_ids": IDS}, record="decoder.output") for _ in range(2))
    ours, theirs = torch.tensor([[10.0, 0.0, 1.0]]), torch.tensor([[10.0, 0.009, 1.0]])
    a.records["decoder.output"], b.records["decoder.output"] = [ours], [theirs]
    assert a.diff(b, rtol=0, atol=1e-3).same
    assert not a.diff(b, rtol=0, atol=8e-4).same
    assert a.diff(b, rtol=1.0, atol=0).same
    assert not a.diff(b, rtol=0.9, atol=0).same
    a.records["decoder.output"] = [torch.tensor([[10.0, torch.nan, 1.0]])]
    first = a.diff(b).first
    assert first is not None
    assert first.absolute == torch.inf
    assert first.index == (0, 1)
    b.records["decoder.output"] = [a["decoder.output"].clone()]
    assert a.diff(b).same  # the same NaN in the same place


def test_two_prompts(model) -> None:
    """Tokens come first; of different lengths the part that both have is compared, which it says."""
    a, b = gf.trace(model, "To be or not to be"), gf.trace(model, "To be or to go")
    difference = a.diff(b)
    pairs = list(zip(a.tokens["decoder"][0], b.tokens["decoder"][0]))
    where = next(place for place, (x, y) in enumerate(pairs) if x != y)
    assert where == 4
    assert difference.tokens[0].position == where
    assert difference.tokens[0].tokens == pairs[where]
    assert difference.tokens[-1].tokens[1] is None  # the longer text goes on
    # A decoder reads to the left: before that place nothing differs, and there the embedding is the first.
    assert difference.first is not None
    assert difference.first.name == "decoder.input_ids"
    assert difference.first.index == (0, where)
    text = str(difference)
    assert text.index("First difference") < text.index("Token 4 of text 0 in the decoder: “·not” and “·to”.")
    assert "only the part that both have was compared" in text
    shared = difference["decoder.layers.3.output"]
    assert shared.compared == (1, 6, 144)
    assert not shared.whole
    assert shared.index[1] == where
    assert difference["decoder.embedding.positions"].same
    assert difference["decoder.mask"].same  # what may be seen is alike in the part that both have
    ours = a["decoder.layers.3.output"][:, :6].double() - b["decoder.layers.3.output"].double()
    assert shared.absolute == ours.abs().max().item()


def test_before_and_after_a_step_of_training(model) -> None:
    """Of a step that moves one layer alone, the first place is in that layer."""
    before = gf.trace(model, {"input_ids": IDS, "labels": IDS})
    layer = model.base_model.decoder.layers[2]
    optimizer = torch.optim.SGD(layer.feedforward.parameters(), lr=0.5)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    after = gf.trace(model, {"input_ids": IDS, "labels": IDS})
    difference = before.diff(after)
    assert difference.first is not None
    assert difference.first.name == "decoder.layers.2.feedforward.inner"
    assert not difference["logits"].same
    assert not difference["loss"].same
    assert difference["decoder.layers.1.output"].absolute == 0


def test_a_generation_parts_at_a_call(model) -> None:
    """The first difference is the first in time: in the earliest call, whatever the order of names."""

    def generated(steps: int):
        with model.trace(["*.output", "logits"]) as trace:
            model.generate(input_ids=IDS, max_new_tokens=steps, do_sample=False)
        return trace

    a, b = generated(4), generated(4)
    for name, call in (("decoder.layers.0.output", 3), ("logits", 2)):
        b.records[name][call] = b.records[name][call] + 1.0
    difference = a.diff(b)
    assert difference.first is not None
    assert (difference.first.name, difference.first.call) == ("logits", 2)
    assert difference["decoder.layers.0.output"].call == 3
    assert "First difference: logits of call 2, at" in str(difference)
    longer = generated(6)
    difference = a.diff(longer)
    assert difference.same
    assert difference.calls == (4, 6)
    assert "4 and 6 calls: only those that both have were compared." in str(difference)


def test_names_that_only_one_has() -> None:
    """Two models of different depth, and two that have nothing in common."""
    case, deep = zoo.BY_NAME["Bert-plain"], zoo.BY_NAME["Bert-silu-uneven"]
    call = {"input_ids": torch.tensor([[5, 6, 7]])}
    a, b = gf.trace(zoo.ours(case, "Model"), call), gf.trace(zoo.ours(deep, "Model"), call)
    difference = a.diff(b)
    assert difference.only_here == ()
    assert all(name.startswith("encoder.layers.2.") for name in difference.only_there)
    assert difference.only_there
    assert re.search(r"Only in the second: encoder\.layers\.2\.input, .* and \d+ more\.", words(difference))
    assert difference["encoder.layers.0.attention.weights"].compared == (1, 3, 3, 3)
    few = gf.trace(zoo.ours(case, "Model"), call, record="pooler.output")
    none = few.diff(gf.trace(zoo.ours(case, "Model"), call, record="encoder.mask"))
    assert none.same
    assert "Nothing to compare" in str(none)


def test_a_batch_against_its_first_text() -> None:
    """Rows are matched from the first; what is there once for all rows is compared with each."""
    model = zoo.ours(zoo.BY_NAME["Bart-plain"], "ForConditionalGeneration")
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    start = torch.tensor([[2, 5], [2, 9]])
    a = gf.trace(model, {"input_ids": ids, "decoder_input_ids": start})
    b = gf.trace(model, {"input_ids": ids[:1], "decoder_input_ids": start[:1]})
    assert a.diff(b).same
    assert b.diff(a).same
    assert a.diff(b)["logits"].compared == (1, 2, 61)


def test_text_from_a_prompt_is_escaped(model) -> None:
    tokenizer = gf.AutoTokenizer.from_pretrained("glassformer/tiny-gpt2")
    a, b = (gf.trace(model, text, tokenizer=tokenizer) for text in ("a <script> \x1b[0m", "a b"))
    a.model = "<script>\x1b"
    page = a.diff(b)._repr_html_()
    assert page.startswith("<figure")
    assert "<script" not in page
    assert "\x1b" not in page + str(a.diff(b))
    assert all(name in page for name in b.names)
    assert max(map(len, str(a.diff(b)).split("\n"))) <= 110
