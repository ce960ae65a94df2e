"""No silent numbers: each key of the peer's configurations is honoured or refused, and unknown keys are kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from .compare import close, rows
from .zoo import BY_NAME, GENERATIVE, PEER_ON_PEER, PLAIN, Case, Inputs, build, load, peer, settings, variant


@pytest.mark.parametrize("case", PLAIN)
def test_unknown_keys_are_kept(case: Case, tmp_path: Path) -> None:
    """A key that nobody knows is there as an attribute, and is saved again word for word."""
    head = GENERATIVE[case.family]
    note = {"a": [1, {"b": None}], "c": "é"}
    path = variant(case, head, lambda keys: keys.update(my_note=note, task_specific_params={"x": {"y": 1}}))
    model = load(case, head, path)
    assert model.config.my_note == note
    model.save_pretrained(tmp_path)
    assert settings(tmp_path) == settings(path)


OTHER_VALUES: dict[str, Any] = {
    "hidden_act": "relu",
    "activation_function": "tanh",
    "feed_forward_proj": "gated-relu",
    "summary_type": "mean",
    "summary_activation": "tanh",
    "problem_type": "regression",
    "rope_parameters": {"rope_type": "proportional", "rope_theta": 100.0, "partial_rotary_factor": 0.5, "factor": 2.0},
    "chunk_size_feed_forward": 7,
    "head_dim": 12,
    "pretraining_tp": 2,
    "num_decoder_layers": 1,
    "n_inner": 17,
    "num_key_value_heads": 1,
    "classifier_dropout": 0.5,
}
SKIPPED = {"transformers_version", "architectures", "dtype", "id2label", "label2id", "vocab_size"}


def changed(config: Any, key: str) -> Any:
    value = getattr(config, key)
    if key in OTHER_VALUES:
        return OTHER_VALUES[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value * 0.5 + 0.001
    if isinstance(value, int):
        return {"n_head": 2, "num_heads": 2, "hidden_size": 48, "n_embd": 48, "d_model": 48}.get(
            key, 1 if "layers" in key or "heads" in key or key == "n_layer" else value + 1
        )
    return 3


KEYS = [
    (case, key)
    for case in PLAIN
    for key in vars(getattr(transformers, f"{case.family}Config")(**case.keys()))
    if not key.startswith("_") and key not in SKIPPED
]


@pytest.mark.parametrize(("case", "key"), KEYS)
def test_no_silent_numbers(case: Case, key: str, tmp_path: Path) -> None:
    """Each key of the peer's configuration, at another value: the peer's numbers, or an error naming key and value."""
    head = GENERATIVE[case.family]
    value = changed(peer(case, head).config, key)
    try:
        reference = build(case, head, **{key: value})
        reference.save_pretrained(tmp_path)
        arguments = Inputs(case, head).arguments()
        with torch.no_grad():
            theirs = reference(**arguments)
    except Exception as error:  # the peer itself refuses the value
        pytest.skip(f"the peer: {error}")
    try:
        model = load(case, head, tmp_path)
    except ValueError as error:
        assert key in str(error), str(error)  # noqa: PT017 it need not raise
        assert str(value) in str(error), str(error)  # noqa: PT017
        return
    with torch.no_grad():
        mine = model(**arguments)
    if isinstance(theirs, tuple):
        close(mine[0], theirs[0], "the first item", rows("logits", theirs[0], arguments))
    else:
        close(mine.logits, theirs.logits, "logits", rows("logits", theirs.logits, arguments))
        assert list(mine.keys()) == list(theirs.keys())


@pytest.mark.skipif(PEER_ON_PEER, reason="the peer loads some of these and computes something else")
@pytest.mark.parametrize(("name", "keys", "said"), [
    ("Bert-plain", {"hidden_act": "sharp_relu"}, "sharp_relu"),
    ("Bert-plain", {"position_embedding_type": "relative_key"}, "relative_key"),
    ("GPT2-plain", {"activation_function": "sharp_relu"}, "sharp_relu"),
    ("GPT2-plain", {"summary_type": "attn"}, "attn"),
    ("T5-plain", {"feed_forward_proj": "gated-sharp_relu"}, "sharp_relu"),
    ("Bart-plain", {"activation_function": "sharp_relu"}, "sharp_relu"),
    ("Llama-plain", {"hidden_act": "sharp_relu"}, "sharp_relu"),
    ("Llama-plain", {"rope_parameters": {"rope_type": "spiral", "rope_theta": 10000.0}}, "spiral"),
    ("Llama-plain", {"rope_scaling": {"type": "su", "factor": 2.0}}, "su"),
    # The peer's Llama ignores a partial rotation, or fails in the call.
    ("Llama-plain", {"partial_rotary_factor": 0.25}, "partial_rotary_factor"),
    ("Llama-linear", {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0,
                                          "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
], ids=str)  # fmt: skip
def test_values_that_no_one_computes(name: str, keys: dict[str, Any], said: str) -> None:
    """An unknown activation, rotation or kind of positions is an error that names the value."""
    case = BY_NAME[name]
    head = "DoubleHeadsModel" if "summary_type" in keys else GENERATIVE[case.family]
    path = variant(case, head, lambda config: config.update(keys))
    with pytest.raises(ValueError, match=said):
        load(case, head, path)
