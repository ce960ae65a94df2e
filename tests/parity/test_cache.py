"""The cache: token by token equals at once, and its methods do what the peer's do."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from .compare import cached, close, same, same_cache
from .zoo import BY_NAME, CASES, GENERATIVE, PEER_ON_PEER, Case, Inputs, folder, gf, load, ours, peer

DECODERS = [
    (case, GENERATIVE[case.family])
    for case in CASES
    # An encoder has no cache, and the peer's dynamic scaling rotates old keys by the length at their time.
    if (case.family != "Bert" or case.options.get("is_decoder")) and "dynamic-beyond" not in case.name
    # Beyond the original length longrope changes its frequencies in the middle of a text, in the peer too.
    and case.name not in ("longrope-long", "longrope-factor")
] + [(BY_NAME["Bart-plain"], "ForCausalLM"), (BY_NAME["Bart-relu-untied"], "ForCausalLM")]  # fmt: skip
SOME = [
    (BY_NAME[name], head)
    for name, head in (
        ("Bert-cross-attention", "LMHeadModel"),
        ("GPT2-plain", "LMHeadModel"),
        ("GPT2-cross-attention", "LMHeadModel"),
        ("T5-plain", "ForConditionalGeneration"),
        ("Bart-plain", "ForConditionalGeneration"),
        ("Bart-plain", "ForCausalLM"),
        ("Llama-plain", "ForCausalLM"),
    )
]
needs_ours = pytest.mark.skipif(PEER_ON_PEER, reason="an ability the peer does not have")


def names(arguments: dict[str, Any]) -> tuple[str, str]:
    """The ids and the mask that grow."""
    if "decoder_input_ids" in arguments:
        return "decoder_input_ids", "decoder_attention_mask"
    return "input_ids", "attention_mask"


def piece(arguments: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """The arguments of a call on positions start to stop, the mask reaching back to the beginning."""
    ids, mask = names(arguments)
    part = {**arguments, ids: arguments[ids][:, start:stop], mask: arguments[mask][:, :stop]}
    if "token_type_ids" in part:
        part["token_type_ids"] = part["token_type_ids"][:, start:stop]
    return part


@pytest.mark.parametrize(("case", "head"), DECODERS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_token_by_token_is_all_at_once(case: Case, head: str, side: str) -> None:
    """A first call on three tokens, then one by one, then the last two together; padded on either side."""
    inputs = Inputs(case, head, side=side)
    arguments = inputs.arguments()
    ids, mask = names(arguments)
    width = arguments[ids].shape[1]
    model = ours(case, head)
    with torch.no_grad():
        whole = model(**arguments, use_cache=True)
        past, logits = None, []
        edges = [0, 3, *range(4, width - 1), width]
        for start, stop in pairwise(edges):
            out = model(**piece(arguments, start, stop), past_key_values=past, use_cache=True)
            past = out.past_key_values
            logits.append(out.logits)
            assert past.get_seq_length() == stop
    real = arguments[mask].bool()[:, :, None].expand_as(whole.logits)
    close(torch.cat(logits, 1), whole.logits, "logits", where=real)
    assert [len(layer) for layer in cached(past)] == [len(layer) for layer in cached(whole.past_key_values)]


@pytest.mark.parametrize(("case", "head"), SOME)
def test_continuing_is_the_peers(case: Case, head: str) -> None:
    """A second call on a cache gives the peer's outputs, attentions over the past, and cache."""
    arguments = Inputs(case, head).arguments()
    results = []
    for model in (ours(case, head), peer(case, head)):
        with torch.no_grad():
            past = model(**piece(arguments, 0, 3), use_cache=True).past_key_values
            results.append(
                model(
                    **piece(arguments, 3, 5),
                    past_key_values=past,
                    use_cache=True,
                    output_attentions=True,
                    output_hidden_states=True,
                )
            )
    same(*results, real=piece(arguments, 3, 5))


@pytest.mark.parametrize("name", ["Llama-dynamic-beyond", "Llama-longrope-long", "Llama-longrope-factor"])
def test_rotations_that_change_while_decoding(name: str) -> None:
    """Where the frequencies follow the length, keys keep the rotation of their time, as the peer's do."""
    case, head = BY_NAME[name], "ForCausalLM"
    ids = Inputs(case, head).ids(2, 24)
    logits = []
    for model in (ours(case, head), peer(case, head)):
        past, steps = None, []
        with torch.no_grad():
            for start, stop in [(0, 5), *((n, n + 1) for n in range(5, 24))]:
                out = model(ids[:, start:stop], past_key_values=past, use_cache=True)
                past = out.past_key_values
                steps.append(out.logits)
        logits.append(torch.cat(steps, 1))
    close(*logits, "logits")


@pytest.mark.parametrize(("case", "head"), SOME)
def test_what_a_cache_can_do(case: Case, head: str) -> None:
    """Length, number of layers, iteration, reordering, repeating, selecting and cropping, each beside the peer's."""
    inputs = Inputs(case, head)
    # Without padding, whose keys and values are zeros here.
    arguments = {
        key: torch.ones_like(value) if key.endswith("attention_mask") else value
        for key, value in inputs.arguments().items()
    }

    def filled() -> tuple[Any, Any]:
        with torch.no_grad():
            return tuple(m(**arguments, use_cache=True).past_key_values for m in (ours(case, head), peer(case, head)))

    mine, theirs = filled()
    assert len(mine) == len(theirs) == len(list(mine))
    assert mine.get_seq_length() == theirs.get_seq_length() > 0
    same_cache(mine, theirs)
    for operate in (
        lambda cache: cache.reorder_cache(torch.tensor([2, 0, 0])),
        lambda cache: cache.batch_repeat_interleave(2),
        lambda cache: cache.batch_select_indices(torch.tensor([5, 1, 0])),
        lambda cache: cache.crop(-2),
        lambda cache: cache.crop(0),
    ):
        operate(mine)
        operate(theirs)
        same_cache(mine, theirs)
    with pytest.raises(ValueError, match="crop"):
        mine.crop(1)
    # It still works after all this.
    ids, _ = names(arguments)
    length = theirs.get_seq_length()
    more = {**piece(arguments, length, length + 1), ids: arguments[ids][:, length : length + 1]}
    rows = torch.tensor([0, 2, 2])
    for key, value in more.items():
        more[key] = value[rows]
    with torch.no_grad():
        same(
            ours(case, head)(**more, past_key_values=mine, use_cache=True),
            peer(case, head)(**more, past_key_values=theirs, use_cache=True),
        )
    mine.reset()
    assert mine.get_seq_length() == 0


@needs_ours
@pytest.mark.parametrize(("case", "head"), SOME)
def test_indexing_by_layer(case: Case, head: str) -> None:
    """`cache[i]` is layer i's keys and values, as in the older tuples."""
    arguments = Inputs(case, head).arguments()
    with torch.no_grad():
        cache = ours(case, head)(**arguments, use_cache=True).past_key_values
    for index, layer in enumerate(cached(cache)):
        item = tuple(tensor for tensor in cache[index] if tensor is not None)
        assert len(item) == len(layer)
        for a, b in zip(item, layer):
            assert torch.equal(a, b)
    assert torch.equal(cache[-1][0], cached(cache)[-1][0])


@needs_ours
@pytest.mark.parametrize(("case", "head"), SOME)
def test_older_tuples_are_taken(case: Case, head: str) -> None:
    """A tuple of (keys, values) a layer, with the cross-attention's after them, continues the text."""
    arguments = Inputs(case, head).arguments()
    model = ours(case, head)
    with torch.no_grad():
        past = model(**piece(arguments, 0, 3), use_cache=True).past_key_values
        older = tuple(tuple(t.clone() for t in layer) for layer in cached(past))
        expected = model(**piece(arguments, 3, 5), past_key_values=past, use_cache=True)
        mine = model(**piece(arguments, 3, 5), past_key_values=older, use_cache=True)
    same(mine, expected)


@pytest.mark.parametrize(("case", "head"), SOME)
def test_a_cache_is_not_given_unless_wanted(case: Case, head: str, tmp_path: Any) -> None:
    """`use_cache=False`, by argument or configuration, leaves the key out."""
    arguments = Inputs(case, head).arguments()
    with torch.no_grad():
        mine, theirs = (m(**arguments, use_cache=False) for m in (ours(case, head), peer(case, head)))
        assert "past_key_values" not in theirs
        same(mine, theirs, real=arguments)
        configured = load(case, head, folder(case, head), use_cache=False)
        assert "past_key_values" not in configured(**arguments)
        assert "past_key_values" in configured(**arguments, use_cache=True)


@pytest.mark.parametrize("name", ["T5-plain", "Bart-plain", "Bert-cross-attention", "GPT2-cross-attention"])
def test_cross_attention_is_computed_once(name: str) -> None:
    """After the first call the encoder's states are not read again: other states change nothing."""
    case = BY_NAME[name]
    head = GENERATIVE[case.family]
    arguments = Inputs(case, head).arguments()
    model = ours(case, head)
    with torch.no_grad():
        if case.family in ("T5", "Bart"):
            base = getattr(model, model.base_model_prefix, model)
            states = base.encoder(arguments.pop("input_ids"), attention_mask=arguments["attention_mask"])[0]
            first, other = {"encoder_outputs": (states,)}, {"encoder_outputs": (torch.randn_like(states),)}
        else:
            states = arguments.pop("encoder_hidden_states")
            first, other = {"encoder_hidden_states": states}, {"encoder_hidden_states": torch.randn_like(states)}
        results = []
        for later in (first, other):
            past = model(**piece({**arguments, **first}, 0, 3), use_cache=True).past_key_values
            results.append(model(**piece({**arguments, **later}, 3, 4), past_key_values=past, use_cache=True).logits)
    close(*results, "logits")


def test_a_given_empty_cache_is_filled() -> None:
    """A cache object passed in is the one that comes out, grown in place."""
    case, head = BY_NAME["Llama-plain"], "ForCausalLM"
    ids = Inputs(case, head).ids(2, 6)
    model = ours(case, head)
    cache = gf.DynamicCache()
    with torch.no_grad():
        out = model(ids, past_key_values=cache, use_cache=True)
        assert out.past_key_values is cache
        assert cache.get_seq_length() == 6
        same(out, peer(case, head)(ids, use_cache=True))
