"""Padding is left out of what is computed, and no number that somebody may use changes by that.

Where something reads a padded position after all (a label there, a pooler, the scores of an answer's start), all
positions are computed, and every number is the peer's.
"""

from typing import Any

import pytest
import torch

from counted import Rows
from glassformer.errors import InputError

from .compare import close, same
from .test_gradients import equal, gradients
from .zoo import BY_NAME, GENERATIVE, PEER_ON_PEER, PLAIN, Case, Inputs, ours, peer

pytestmark = pytest.mark.skipif(PEER_ON_PEER, reason="the peer computes padding")

COMPUTED = ("ForQuestionAnswering", "DoubleHeadsModel")  # whose padding competes with the text, or may be summed up
# Heads with a label a position, and which of the inputs says what is padding there.
LABELLED = [
    ("Bert", "ForMaskedLM", "attention_mask"),
    ("Bert", "ForPreTraining", "attention_mask"),
    ("Bert", "ForTokenClassification", "attention_mask"),
    ("Bert", "LMHeadModel", "attention_mask"),
    ("GPT2", "LMHeadModel", "attention_mask"),
    ("GPT2", "ForTokenClassification", "attention_mask"),
    ("T5", "ForConditionalGeneration", "decoder_attention_mask"),
    ("T5", "ForTokenClassification", "attention_mask"),
    ("Bart", "ForConditionalGeneration", "decoder_attention_mask"),
    ("Bart", "ForCausalLM", "attention_mask"),
    ("Llama", "ForCausalLM", "attention_mask"),
]


def case_of(family: str) -> Case:
    return BY_NAME[f"{family}-plain"]


def ignored(arguments: dict[str, Any], labels: dict[str, Any], mask: str) -> dict[str, Any]:
    """The labels, with -100 at padding, as a collator gives them."""
    real = arguments[mask].bool()
    return {
        key: value.masked_fill(~real, -100) if value.shape == real.shape else value for key, value in labels.items()
    }


def rows_of(model: Any, arguments: dict[str, Any]) -> set[int]:
    """How many rows the linear layers of a call compute, those of a text's one vector left aside."""
    with Rows() as rows:
        model(**arguments)
    return {count for count in rows.seen if count > len(arguments["attention_mask"])}


@pytest.mark.parametrize(("family", "head", "mask"), LABELLED)
def test_a_loss_of_tokens_leaves_padding_out(family: str, head: str, mask: str) -> None:
    """The loss and every gradient are the peer's, from as many rows as there are tokens; at padding are zeros."""
    case = case_of(family)
    inputs = Inputs(case, head)
    arguments = inputs.arguments()
    arguments |= ignored(arguments, inputs.labels(), mask)
    counts = {int(value.sum()) for key, value in arguments.items() if key.endswith("attention_mask")}
    assert rows_of(ours(case, head), arguments) == counts
    asked = {"output_hidden_states": True}
    mine, theirs = (m(**arguments, **asked) for m in (ours(case, head), peer(case, head)))
    same(mine, theirs, real=arguments)
    assert not mine["prediction_logits" if head == "ForPreTraining" else "logits"][~arguments[mask].bool()].any()
    equal(gradients(ours(case, head), arguments), gradients(peer(case, head), arguments))


@pytest.mark.parametrize(("family", "head", "mask"), LABELLED)
def test_a_label_at_padding_counts(family: str, head: str, mask: str) -> None:
    """`labels=input_ids` as they are: the peer's loss, gradients and scores, at padding too."""
    case = case_of(family)
    inputs = Inputs(case, head)
    arguments = {**inputs.arguments(), **inputs.labels()}
    with torch.no_grad():
        mine, theirs = (m(**arguments) for m in (ours(case, head), peer(case, head)))
    close(mine.loss, theirs.loss, "loss")
    key = "prediction_logits" if head == "ForPreTraining" else "logits"
    assert mine[key][~arguments[mask].bool()].abs().min() > 0
    close(mine[key], theirs[key], key)
    equal(gradients(ours(case, head), arguments), gradients(peer(case, head), arguments))
    arguments |= ignored(arguments, inputs.labels(), mask)
    with torch.no_grad():
        assert (ours(case, head)(**arguments).loss - mine.loss).abs() > 1e-3, "the labels at padding do not count"


def test_the_first_token_of_a_text_padded_at_the_left() -> None:
    """It is predicted at padding, which a loss that counts it has computed."""
    case, head = BY_NAME["Llama-plain"], "ForCausalLM"
    arguments = Inputs(case, head, side="left").arguments()
    real = arguments["attention_mask"].bool()
    labels = arguments["input_ids"].masked_fill(~real, -100)
    with torch.no_grad():
        assert ours(case, head)(**arguments, labels=labels).logits[~real].abs().min() > 0
        first = real.int().argmax(1)
        labels[torch.arange(3), first] = -100
        mine, theirs = (m(**arguments, labels=labels) for m in (ours(case, head), peer(case, head)))
    close(mine.loss, theirs.loss, "loss")
    assert not mine.logits[~real].any()


@pytest.mark.parametrize(("family", "head"), [(c.family, h) for c in PLAIN for h in COMPUTED if (c.family, h) in {
    *((c.family, "ForQuestionAnswering") for c in PLAIN), ("GPT2", "DoubleHeadsModel")}])  # fmt: skip
def test_scores_that_compete_are_the_peers_everywhere(family: str, head: str) -> None:
    """An answer's start among padding, and what a summary reads."""
    case = case_of(family)
    arguments = Inputs(case, head).arguments()
    with torch.no_grad():
        mine, theirs = (m(**arguments) for m in (ours(case, head), peer(case, head)))
    for key in ("start_logits", "end_logits", "logits", "mc_logits"):
        if key in theirs:
            close(mine[key], theirs[key], key)


@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification", "ForNextSentencePrediction"])
def test_a_pooler_reads_the_first_position(head: str) -> None:
    """Padding or not."""
    case = BY_NAME["Bert-plain"]
    arguments = Inputs(case, head, side="left").arguments()
    assert not arguments["attention_mask"][:, 0].all()
    with torch.no_grad():
        mine, theirs = (m(**arguments) for m in (ours(case, head), peer(case, head)))
    for key in ("pooler_output", "logits", "last_hidden_state"):
        if key in theirs:
            close(mine[key], theirs[key], key)


@pytest.mark.parametrize("family", ["GPT2", "Llama", "T5", "Bart"])
def test_the_token_that_stands_for_a_text_may_be_padding(family: str) -> None:
    """A class is read at the last id that is no padding token (or the last end), whatever the mask says."""
    case, head = case_of(family), "ForSequenceClassification"
    arguments = Inputs(case, head).arguments()
    mask = "decoder_attention_mask" if "decoder_input_ids" in arguments else "attention_mask"
    arguments[mask] = arguments[mask].clone()
    arguments[mask][:, -3:] = 0
    read = arguments["input_ids"] != peer(case, head).config.pad_token_id
    assert (read & ~arguments[mask].bool()).any()
    with torch.no_grad():
        mine, theirs = (m(**arguments) for m in (ours(case, head), peer(case, head)))
    close(mine.logits, theirs.logits, "logits")


@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.parametrize("side", ["left", "right"])
def test_four_dimensions_are_the_way_out(case: Case, side: str) -> None:
    """A mask (B, 1, T, T) leaves nothing out: padding has the peer's states."""
    models = [ours(case, "Model"), peer(case, "Model")]
    if case.family in ("T5", "Bart"):
        models = [model.get_encoder() for model in models]
    arguments = Inputs(case, "Model", side=side).arguments()
    ids, real = arguments["input_ids"], arguments["attention_mask"].bool()
    length = real.shape[1]
    allowed = real[:, None, None, :].expand(-1, 1, length, -1)
    if case.family in ("GPT2", "Llama"):  # padding sees itself, so that it sees something
        allowed = (allowed & torch.ones(length, length).tril().bool()) | torch.eye(length).bool()
    mask = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
    with torch.no_grad():
        mine, theirs = (model(ids, attention_mask=mask).last_hidden_state for model in models)
    close(mine, theirs, "last_hidden_state")
    assert mine[~real].abs().min() > 0


@pytest.mark.parametrize("case", PLAIN)
def test_a_training_step_without_dropout(case: Case) -> None:
    """In training mode padding is left out as long as nothing is drawn for it."""
    head = GENERATIVE[case.family]
    inputs = Inputs(case, head)
    arguments = inputs.arguments()
    mask = "decoder_attention_mask" if "decoder_input_ids" in arguments else "attention_mask"
    arguments |= ignored(arguments, inputs.labels(), mask)
    model = ours(case, head).train()
    counts = {int(value.sum()) for key, value in arguments.items() if key.endswith("attention_mask")}
    dropouts = [part for part in model.modules() if isinstance(part, torch.nn.Dropout)]
    was = [part.p for part in dropouts]
    try:
        for part in dropouts:
            part.p = 0.0
        assert rows_of(model, arguments) == counts
        if any(was):
            for part, p in zip(dropouts, was):
                part.p = p
            assert max(rows_of(model, arguments)) > max(counts)
    finally:
        for part, p in zip(dropouts, was):
            part.p = p
        model.eval()


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize(("family", "head", "mask"), [*LABELLED, ("Bert", "Model", "attention_mask")])
def test_a_mask_that_does_not_fit(family: str, head: str, mask: str, labelled: bool) -> None:
    """One sentence says so, whoever would have looked at the padding that it tells of."""
    inputs = Inputs(case_of(family), head)
    arguments = {**inputs.arguments(), **(inputs.labels() if labelled else {})}
    arguments[mask] = arguments[mask][:, 1:]
    with pytest.raises(InputError, match=r"attention_mask has shape \(3, \d+\), but there are \d+ tokens"):
        ours(case_of(family), head)(**arguments)
