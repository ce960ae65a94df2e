"""The tokens that come out are the peer's, greedy and drawn from the same seed, for all configurations that decode."""

from typing import Any

import pytest
import torch

from .compare import close
from .zoo import BY_NAME, CASES, GENERATIVE, Case, Inputs, ours, peer

DECODING = [
    *((case, GENERATIVE[case.family]) for case in CASES if case.family != "Bert" or case.options.get("is_decoder")),
    (BY_NAME["Bart-plain"], "ForCausalLM"),
    (BY_NAME["GPT2-plain"], "DoubleHeadsModel"),
]
GREEDY = {"do_sample": False, "max_new_tokens": 9}
SAMPLED = {"do_sample": True, "max_new_tokens": 9, "temperature": 0.8, "top_k": 20, "top_p": 0.9}


def prompts(case: Case, head: str) -> dict[str, Any]:
    """A batch padded on the side where its texts begin, so that all of them end together."""
    inputs = Inputs(case, GENERATIVE[case.family] if head == "DoubleHeadsModel" else head, side="left")
    arguments = {key: value for key, value in inputs.arguments().items() if not key.startswith("decoder_")}
    if case.family == "Bert":
        del arguments["token_type_ids"]
    if case.family in ("Bert", "Bart"):  # with these states the peer's own `generate` fails
        arguments.pop("encoder_hidden_states", None)
        arguments.pop("encoder_attention_mask", None)
    return arguments


def drawn(model: Any, arguments: dict[str, Any], options: dict[str, Any]) -> Any:
    torch.manual_seed(4)
    return model.generate(**arguments, **options)


@pytest.mark.parametrize(("case", "head"), DECODING)
def test_greedy_and_sampled_tokens(case: Case, head: str) -> None:
    """Both ways of choosing, from a padded batch, with and without the end and padding tokens of the configuration."""
    arguments = prompts(case, head)
    for options in (
        {**GREEDY, "pad_token_id": 3},
        {**SAMPLED, "pad_token_id": 3},
        {**GREEDY, "eos_token_id": [11, 12, 13, 14, 15, 16, 17, 18], "pad_token_id": 0},
        {**SAMPLED, "eos_token_id": None, "pad_token_id": 3, "use_cache": False},
    ):
        mine = drawn(ours(case, head), arguments, options)
        theirs = drawn(peer(case, head), arguments, options)
        assert torch.equal(mine, theirs), (options, mine.tolist(), theirs.tolist())


@pytest.mark.parametrize(("case", "head"), [(c, h) for c, h in DECODING if c.name in ("plain", "cross-attention")])
def test_what_generate_can_give_back(case: Case, head: str) -> None:
    """Scores, raw logits, hidden states and attentions of every step, in the peer's output."""
    options = {
        **GREEDY,
        "max_new_tokens": 4,
        "eos_token_id": None,
        "pad_token_id": 3,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "output_hidden_states": True,
        "output_attentions": True,
    }
    arguments = {key: value[:1] for key, value in prompts(case, head).items()}
    mine, theirs = drawn(ours(case, head), arguments, options), drawn(peer(case, head), arguments, options)
    assert type(mine).__name__ == type(theirs).__name__
    assert list(mine.keys()) == list(theirs.keys())
    assert torch.equal(mine.sequences, theirs.sequences)

    def compare(a: Any, b: Any, what: str) -> None:
        if isinstance(b, torch.Tensor):
            close(a, b, what)
        elif isinstance(b, tuple):
            assert isinstance(a, tuple), what
            for index, (x, y) in enumerate(zip(a, b, strict=True)):
                compare(x, y, f"{what}[{index}]")

    for key in theirs:
        if key not in ("sequences", "past_key_values"):
            compare(mine[key], theirs[key], key)


def test_padding_changes_no_token() -> None:
    """Positions come from the mask: a text padded on the left continues as it does alone."""
    case, head = BY_NAME["GPT2-plain"], "LMHeadModel"
    arguments = prompts(case, head)
    options = {**GREEDY, "eos_token_id": None, "pad_token_id": 3}
    together = drawn(ours(case, head), arguments, options)
    for row, mask in enumerate(arguments["attention_mask"]):
        text = arguments["input_ids"][row][mask.bool()][None]
        alone = drawn(ours(case, head), {"input_ids": text, "attention_mask": torch.ones_like(text)}, options)
        assert torch.equal(alone[0, text.shape[1] :], together[row, arguments["input_ids"].shape[1] :])
