"""The gradient of every parameter is the peer's, by the peer's name for it.

Each library writes its gradients where its weights are and saves them, so the two files hold gradients under the
checkpoint's names, and the name table is checked by the way.
"""

import warnings
from collections.abc import Set
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from .compare import close, rows, same
from .zoo import BY_NAME, GENERATIVE, PAIRS, PLAIN, Case, Inputs, build, folder, load, ours, peer, scratch, unread


def gradients(model: Any, arguments: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The gradients of one call's loss, by the names of a saved file (zeros where nothing flows)."""
    model.zero_grad()
    output = model(**arguments)
    loss = output.get("loss")
    if loss is None:  # a model without a head: pull on every value of its states, unevenly
        states = [read(output["last_hidden_state"], arguments), output.get("pooler_output")]
        loss = sum(
            (state * torch.arange(state.numel()).view_as(state).cos()).sum() for state in states if state is not None
        )
    if "mc_loss" in output:
        loss = loss + output["mc_loss"]
    loss.backward()
    return save_gradients(model, scratch("gradients"))


def read(states: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    """The states (B, T, D) that are no padding, and zeros."""
    real = rows("last_hidden_state", states, arguments)
    return states if real is None else states * real


def save_gradients(model: Any, path: Path) -> dict[str, torch.Tensor]:
    weights = {id(p): p.data for p in model.parameters()}
    for p in model.parameters():
        p.data = torch.zeros_like(p) if p.grad is None else p.grad.clone()
    try:
        model.save_pretrained(path)
    finally:
        for p in model.parameters():
            p.data = weights[id(p)]
    model.zero_grad()
    return load_file(path / "model.safetensors")


def equal(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], without: Set[str] = frozenset()) -> None:
    assert mine.keys() == theirs.keys()
    for name in theirs.keys() - without:
        close(mine[name], theirs[name], name)


@pytest.mark.parametrize(("case", "head"), PAIRS)
def test_every_gradient(case: Case, head: str) -> None:
    """Of the loss in a padded batch, some labels ignored; padding rows of the embeddings included."""
    inputs = Inputs(case, head)
    arguments = {**inputs.arguments(), **inputs.labels()}
    theirs = gradients(peer(case, head), arguments)
    assert sum(bool(g.any()) for g in theirs.values()) > len(theirs) / 3, "hardly anything flows"
    equal(gradients(ours(case, head), arguments), theirs, without=unread(case))


@pytest.mark.parametrize("case", PLAIN)
def test_gradient_checkpointing(case: Case, tmp_path: Path) -> None:
    """Recomputing the layers changes no gradient, in training without dropout; it can be turned off again."""
    silent = {
        "Bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        "GPT2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
        "T5": {"dropout_rate": 0.0},
        "Bart": {"dropout": 0.0},
        "Llama": {},
    }[case.family]
    head = GENERATIVE[case.family]
    reference = build(case, head, **silent)
    reference.save_pretrained(tmp_path)
    model = load(case, head, tmp_path).train()
    inputs = Inputs(case, head)
    arguments = {**inputs.arguments(), **inputs.labels()}
    plain = gradients(model, arguments)
    equal(plain, gradients(reference.train(), arguments))

    calls = {}
    for enabled in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the peer calls these by a new name
            (model.gradient_checkpointing_enable if enabled else model.gradient_checkpointing_disable)()
            assert model.is_gradient_checkpointing is enabled
        ran: list[int] = []
        norms = [module for module in model.modules() if type(module).__name__.endswith("Norm")]
        handles = [norm.register_forward_hook(lambda *_, ran=ran: ran.append(1)) for norm in norms]
        equal(gradients(model, arguments), plain)
        for handle in handles:
            handle.remove()
        calls[enabled] = len(ran)
    assert calls[True] > calls[False], "nothing was computed again"


@pytest.mark.parametrize("name", ["Bert-plain", "GPT2-plain", "Llama-plain"])
def test_gradients_reach_given_embeddings(name: str) -> None:
    """`inputs_embeds` that require a gradient get the peer's, which is what attribution methods stand on."""
    case = BY_NAME[name]
    head = "ForTokenClassification"
    inputs = Inputs(case, head)
    arguments, labels = inputs.arguments(), inputs.labels()
    embedded = peer(case, head).get_input_embeddings()(arguments.pop("input_ids")).detach()
    pulls = []
    for model in (ours(case, head), peer(case, head)):
        leaf = embedded.clone().requires_grad_()
        output = model(inputs_embeds=leaf, **arguments, **labels)
        (pull,) = torch.autograd.grad(output.loss, leaf)
        pulls.append(pull)
    close(*pulls, "inputs_embeds")


def test_a_training_step_is_the_peers() -> None:
    """Three steps of AdamW on the same batch leave the same weights in the saved file."""
    case, head = BY_NAME["GPT2-plain"], "LMHeadModel"
    inputs = Inputs(case, head)
    arguments = {**inputs.arguments(), **inputs.labels()}
    reference, model = build(case, head), load(case, head, folder(case, head))
    for m in (model, reference):
        optimizer = torch.optim.AdamW(m.parameters(), lr=1e-2, eps=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            m(**arguments).loss.backward()
            optimizer.step()
    with torch.no_grad():
        same(model(**arguments), reference(**arguments))
