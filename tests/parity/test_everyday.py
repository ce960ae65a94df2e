"""What scripts do every day: other kinds of masks and ids, a configuration changed after loading, autocast, devices."""

from typing import Any

import pytest
import torch

from .compare import close, rows, same
from .zoo import BY_NAME, GENERATIVE, PEER_ON_PEER, PLAIN, Case, Inputs, build, folder, load, ours, peer


@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.float32], ids=str)
def test_kinds_of_masks(case: Case, kind: torch.dtype) -> None:
    """A mask of shape (B, T) may be of any type."""
    head = GENERATIVE[case.family]
    arguments = Inputs(case, head).arguments()
    changed = {key: value.to(kind) if key.endswith("attention_mask") else value for key, value in arguments.items()}
    with torch.no_grad():
        same(ours(case, head)(**changed), peer(case, head)(**arguments), real=arguments)


@pytest.mark.parametrize("case", PLAIN)
def test_ids_of_half_the_size(case: Case) -> None:
    head = GENERATIVE[case.family]
    arguments = Inputs(case, head).arguments()
    small = {key: value.int() if "ids" in key else value for key, value in arguments.items()}
    with torch.no_grad():
        same(ours(case, head)(**small), peer(case, head)(**arguments), real=arguments)


@pytest.mark.parametrize("case", PLAIN)
def test_a_single_token_and_a_single_row(case: Case) -> None:
    head = GENERATIVE[case.family]
    ids = Inputs(case, head).ids(1, 1)
    arguments = {"input_ids": ids, **({"decoder_input_ids": ids} if case.family in ("T5", "Bart") else {})}
    with torch.no_grad():
        same(ours(case, head)(**arguments), peer(case, head)(**arguments), real=arguments)


@pytest.mark.parametrize("name", ["GPT2-plain", "Llama-no-pad"])
def test_a_padding_token_set_after_loading(name: str, tmp_path: Any) -> None:
    """The usual remedy for a decoder that has none: `model.config.pad_token_id = ...` holds from the next call on."""
    case, head = BY_NAME[name], "ForSequenceClassification"
    reference = build(case, head, pad_token_id=None)
    reference.save_pretrained(tmp_path)
    model = load(case, head, tmp_path)
    ids = Inputs(case, head).ids(3, 6, low=8)
    ids[1, 4:] = 5
    for m in (model, reference):
        m.config.pad_token_id = 5
    with torch.no_grad():
        same(model(ids), reference(ids))


@pytest.mark.parametrize("case", PLAIN)
def test_a_configuration_changed_after_loading(case: Case) -> None:
    """Caching, hidden states and the first decoder token follow the configuration of the moment."""
    if PEER_ON_PEER and case.family == "T5":
        pytest.skip("the peer's T5 keeps copies of its configuration in its parts")
    head = GENERATIVE[case.family]
    model = load(case, head, folder(case, head))
    inputs = Inputs(case, head)
    arguments, labels = inputs.arguments(), inputs.labels()
    shifted = {key: value for key, value in arguments.items() if not key.startswith("decoder_")}
    options: dict[str, Any] = {}
    for key, value in {"use_cache": False, "output_hidden_states": True, "decoder_start_token_id": 9}.items():
        options[key] = value
        setattr(model.config, key, value)
        reference = build(case, head, **options)
        with torch.no_grad():
            same(model(**arguments), reference(**arguments), real=arguments)
            same(model(**shifted, **labels), reference(**shifted, **labels), real=shifted)


@pytest.mark.parametrize("case", PLAIN)
def test_a_kind_of_problem_set_after_loading(case: Case) -> None:
    head = "ForSequenceClassification"
    model, reference = load(case, head, folder(case, head)), build(case, head)
    arguments = Inputs(case, head).arguments()
    labels = torch.rand(3, reference.config.num_labels)
    for kind in ("regression", "multi_label_classification"):
        model.config.problem_type = reference.config.problem_type = kind
        with torch.no_grad():
            same(model(**arguments, labels=labels), reference(**arguments, labels=labels), real=arguments)


@pytest.mark.parametrize("case", PLAIN)
def test_autocast(case: Case) -> None:
    """Under autocast the logits have the peer's type, and are as near to the truth as the peer's."""
    head = GENERATIVE[case.family]
    arguments = Inputs(case, head).arguments()
    with torch.no_grad():
        truth = peer(case, head)(**arguments).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mine, theirs = ours(case, head)(**arguments).logits, peer(case, head)(**arguments).logits
    assert mine.dtype == theirs.dtype
    real = rows("logits", truth, arguments)
    error, allowed = (((logits.float() - truth).abs() * real).mean() for logits in (mine, theirs))
    assert 0 < error < 1.5 * allowed


@pytest.mark.skipif(PEER_ON_PEER, reason="the peer needs another package for it")
@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}, torch.device("cpu")], ids=str)
def test_device_maps(device_map: Any) -> None:
    case, head = BY_NAME["Llama-plain"], "ForCausalLM"
    arguments = Inputs(case, head).arguments()
    model = load(case, head, folder(case, head), device_map=device_map)
    assert model.device.type == ("cuda" if device_map == "auto" and torch.cuda.is_available() else "cpu")
    with torch.no_grad():
        if model.device.type == "cpu":
            same(model(**arguments), peer(case, head)(**arguments), real=arguments)


@pytest.mark.parametrize("case", PLAIN)
def test_inference_mode(case: Case) -> None:
    head = GENERATIVE[case.family]
    arguments = Inputs(case, head).arguments()
    with torch.inference_mode():
        mine = ours(case, head)(**arguments)
    with torch.no_grad():
        same(mine, peer(case, head)(**arguments), real=arguments)


@pytest.mark.parametrize("case", PLAIN)
def test_frozen_embeddings(case: Case) -> None:
    """A table that needs no gradient gets none, and the loss is the same."""
    head = GENERATIVE[case.family]
    inputs = Inputs(case, head)
    arguments = {**inputs.arguments(), **inputs.labels()}
    losses = []
    for model in (load(case, head, folder(case, head)), build(case, head)):
        model.get_input_embeddings().weight.requires_grad_(False)
        losses.append(model(**arguments).loss)
        losses[-1].backward()
        assert model.get_input_embeddings().weight.grad is None
        assert any(p.grad is not None for p in model.parameters())
    close(*losses, "loss")


@pytest.mark.parametrize("name", ["Bert-plain", "GPT2-plain", "T5-plain", "Llama-plain"])
def test_batches_equal_their_rows(name: str) -> None:
    """Each row of a padded batch is what it is alone."""
    case = BY_NAME[name]
    head = "ForTokenClassification"
    for side in ("right", "left"):
        arguments = Inputs(case, head, side=side).arguments()
        with torch.no_grad():
            together = ours(case, head)(**arguments).logits
            for row, mask in enumerate(arguments["attention_mask"].bool()):
                alone = {key: value[row][mask][None] for key, value in arguments.items()}
                if case.family in ("Bert", "GPT2") and side == "left":  # learned positions count from the left
                    alone["position_ids"] = torch.arange(len(mask))[mask][None]
                close(ours(case, head)(**alone).logits[0], together[row][mask], f"row {row} padded {side}")
