"""Every configuration and head computes what the peer computes: keys, types, shapes, values and loss.

Right padding, left padding, full masks, embeddings in place of ids, given positions, an encoder's outputs, tuples,
selected layers and positions, each loss, dropout under the same seed.
"""

from typing import Any

import pytest
import torch

from .compare import close, rows, same
from .zoo import (
    BY_NAME,
    CASES,
    ENCODER_DECODER_HEADS,
    GENERATIVE,
    PAIRS,
    PEER_ON_PEER,
    PLAIN,
    PLAIN_PAIRS,
    Case,
    Inputs,
    build,
    folder,
    gf,
    load,
    ours,
    peer,
    peer_sdpa,
)

EVERYTHING = {"output_hidden_states": True, "output_attentions": True}
needs_ours = pytest.mark.skipif(PEER_ON_PEER, reason="an ability the peer does not have")


@pytest.mark.parametrize(("case", "head"), PAIRS)
def test_every_output_and_the_loss(case: Case, head: str) -> None:
    """With labels, hidden states and attentions asked for; and the plain call, cache included."""
    inputs = Inputs(case, head)
    arguments, labels = inputs.arguments(), inputs.labels()
    with torch.no_grad():
        same(
            ours(case, head)(**arguments, **labels, **EVERYTHING),
            peer(case, head)(**arguments, **labels, **EVERYTHING),
            real=arguments,
        )
        same(ours(case, head)(**arguments), peer(case, head)(**arguments), real=arguments)


@pytest.mark.parametrize(("case", "head"), [(c, h) for c, h in PAIRS if h in ("Model", GENERATIVE[c.family])])
def test_left_padding(case: Case, head: str) -> None:
    """Real positions equal the peer's; padded ones wherever the peer's two implementations agree with one another."""
    arguments = Inputs(case, head, side="left").arguments()
    with torch.no_grad():
        mine = ours(case, head)(**arguments, **EVERYTHING)
        eager = peer(case, head)(**arguments, **EVERYTHING)
        fast = peer_sdpa(case, head)(**arguments)
    # A pooler reads the first position, padding or not, so that all are computed.
    pools = "pooler_output" in eager
    for key in ("last_hidden_state", "logits", "encoder_last_hidden_state"):
        if key in eager:
            agreed = torch.isclose(eager[key], fast[key], rtol=1e-5, atol=1e-5)
            real = rows(key, eager[key], arguments)
            assert real is None or (agreed | ~real).all()
            if pools:
                close(mine[key].where(agreed, 0), eager[key].where(agreed, 0), key)
            elif real is not None:
                assert not mine[key].masked_fill(real, 0).any()
    if not pools:
        same(mine, eager, real=arguments)


@pytest.mark.parametrize(("case", "head"), PLAIN_PAIRS)
def test_unpadded_batch_without_a_mask(case: Case, head: str) -> None:
    inputs = Inputs(case, head, batch=1 if head == "ForSequenceClassification" else 2)
    arguments = {key: value for key, value in inputs.arguments().items() if not key.endswith("attention_mask")}
    with torch.no_grad():
        same(ours(case, head)(**arguments, **EVERYTHING), peer(case, head)(**arguments, **EVERYTHING), real=arguments)


@pytest.mark.parametrize(("case", "head"), PLAIN_PAIRS)
def test_tuples(case: Case, head: str) -> None:
    """`return_dict=False`, by argument and by configuration, gives the same items in the same order."""
    inputs = Inputs(case, head)
    arguments = {**inputs.arguments(), **inputs.labels(), "use_cache": False}
    if case.family == "Bert" or head in ("EncoderModel",) or (case.family, head) == ("T5", "ForTokenClassification"):
        del arguments["use_cache"]
    with torch.no_grad():
        theirs = peer(case, head)(**arguments, **EVERYTHING, return_dict=False)
        mine = ours(case, head)(**arguments, **EVERYTHING, return_dict=False)
        configured = mine
        if not PEER_ON_PEER:  # the peer's heads fail when the configuration asks for tuples
            configured = load(case, head, folder(case, head), return_dict=False)(**arguments, **EVERYTHING)
    assert type(mine) is type(theirs) is type(configured) is tuple
    assert len(mine) == len(theirs) == len(configured)
    with torch.no_grad():
        keys = list(peer(case, head)(**arguments, **EVERYTHING))
    for index, (key, yours) in enumerate(zip(keys, theirs, strict=True)):
        for result in (mine[index], configured[index]):
            if isinstance(yours, torch.Tensor):
                close(result, yours, key, rows(key, yours, arguments))
            elif isinstance(yours, tuple):
                for a, b in zip(result, yours, strict=True):
                    close(a, b, key, rows(key, b, arguments))


@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.parametrize("wanted", [0, -1, [1], [0, -1]], ids=str)
def test_selected_hidden_states(case: Case, wanted: Any) -> None:
    """`output_hidden_states` as an index or a list: the others are None."""
    arguments = Inputs(case, "Model").arguments()
    with torch.no_grad():
        mine = ours(case, "Model")(**arguments, output_hidden_states=wanted)
        theirs = peer(case, "Model")(**arguments, output_hidden_states=wanted)
    assert list(mine.keys()) == list(theirs.keys())
    for key in (key for key in theirs if key.endswith("hidden_states")):
        assert [state is None for state in mine[key]] == [state is None for state in theirs[key]]
        for a, b in zip(mine[key], theirs[key]):
            if b is not None:
                close(a, b, key, rows(key, b, arguments))


@needs_ours
@pytest.mark.parametrize(("case", "head"), [(BY_NAME[name], head) for name, head in (
    ("Bert-cross-attention", "Model"), ("GPT2-scaled-by-layer", "LMHeadModel"), ("T5-uneven-depth", "Model"),
    ("Bart-uneven", "ForConditionalGeneration"), ("Llama-plain", "ForCausalLM"))])  # fmt: skip
def test_selected_attentions(case: Case, head: str) -> None:
    """A list of layers gives those maps, the same as all of them, and None for the rest; nothing else changes."""
    arguments = Inputs(case, head).arguments()
    with torch.no_grad():
        plain = ours(case, head)(**arguments)
        full = ours(case, head)(**arguments, output_attentions=True)
        some = ours(case, head)(**arguments, output_attentions=[1])
    assert list(some.keys()) == list(full.keys())
    for key in (key for key in full if key.endswith("attentions")):
        assert len(some[key]) == len(full[key])
        for layer, attention in enumerate(full[key]):
            if layer == 1:
                close(some[key][layer], attention, key)
            else:
                assert some[key][layer] is None
    first = next(key for key in plain if key in ("last_hidden_state", "logits"))
    close(full[first], plain[first], first)
    close(some[first], plain[first], first)


@pytest.mark.parametrize("case", [case for case in CASES if case.name in ("plain", "decoder", "cross-attention")])
@pytest.mark.parametrize("kind", ["additive", "boolean"])
def test_four_dimensional_masks(case: Case, kind: str) -> None:
    """A mask of shape (B, 1, T, S) is taken as it is: nothing causal is added."""
    inputs = Inputs(case, "Model")
    arguments = inputs.arguments()
    key = "decoder_attention_mask" if "decoder_input_ids" in arguments else "attention_mask"
    batch, width = arguments[key].shape
    keep = torch.rand(batch, 1, width, width, generator=inputs.generator) < 0.6
    keep = keep | torch.eye(width, dtype=torch.bool)
    additive = torch.where(keep, 0.0, torch.finfo(torch.float32).min)
    arguments[key] = additive
    with torch.no_grad():
        theirs = peer(case, "Model")(**arguments, **EVERYTHING)
        arguments[key] = additive if kind == "additive" else keep
        if PEER_ON_PEER and kind == "boolean":
            pytest.skip("the peer takes a boolean mask in its fast attention only")
        same(ours(case, "Model")(**arguments, **EVERYTHING), theirs, real=arguments)


@pytest.mark.parametrize(("case", "head"), PLAIN_PAIRS)
def test_embeddings_in_place_of_ids(case: Case, head: str) -> None:
    """`inputs_embeds` (and `decoder_inputs_embeds`) give what the ids give, and what the peer gives for them."""
    inputs = Inputs(case, head)
    arguments = inputs.arguments()
    if head == "ForSequenceClassification" and case.family in ("T5", "Bart"):
        return  # these read the end-of-sequence token in the ids
    if head == "ForSequenceClassification" and case.family != "Bert":
        arguments = {key: value[:1] for key, value in arguments.items()}
    table = peer(case, head).get_input_embeddings()
    for key in ("input_ids", "decoder_input_ids"):
        if key in arguments and not (key == "decoder_input_ids" and head == "ForConditionalGeneration"):
            arguments[key.replace("input_ids", "inputs_embeds")] = table(arguments.pop(key)).detach()
    if head == "DoubleHeadsModel":
        pytest.skip("the peer's double heads do not take embedded choices")
    with torch.no_grad():
        same(ours(case, head)(**arguments), peer(case, head)(**arguments), real=arguments)


@pytest.mark.parametrize("case", [case for case in CASES if case.family in ("Bert", "GPT2", "Llama")])
def test_given_positions(case: Case) -> None:
    """`position_ids` one row a sequence, with gaps, under a mask."""
    inputs = Inputs(case, GENERATIVE[case.family])
    arguments = inputs.arguments()
    arguments["position_ids"] = (inputs.ids(inputs.batch, inputs.length, high=2) + 1).cumsum(1) - 1
    with torch.no_grad():
        same(
            ours(case, inputs.head)(**arguments, **EVERYTHING),
            peer(case, inputs.head)(**arguments, **EVERYTHING),
            real=arguments,
        )


@pytest.mark.parametrize("name", ["GPT2-plain", "Llama-plain"])
def test_packed_sequences(name: str) -> None:
    """Positions that start again, with no mask, keep the packed sequences apart, as in the peer."""
    case = BY_NAME[name]
    head = GENERATIVE[case.family]
    ids = Inputs(case, head).ids(1, 7)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    with torch.no_grad():
        arguments = {"input_ids": ids, "position_ids": positions, "use_cache": False}
        mine, theirs = ours(case, head)(**arguments), peer(case, head)(**arguments)
        alone = peer(case, head)(ids[:, 3:], use_cache=False)
    close(theirs.logits[:, 3:], alone.logits, "the peer's own second sequence")
    same(mine, theirs)


@pytest.mark.parametrize(
    ("case", "head"), [(case, head) for case, head in PLAIN_PAIRS if case.family + head in ENCODER_DECODER_HEADS]
)
@pytest.mark.parametrize("form", ["output", "tuple", "long tuple"])
def test_given_encoder_outputs(case: Case, head: str, form: str) -> None:
    """The encoder's outputs are taken as they are, as an output or as a tuple."""
    inputs = Inputs(case, head)
    arguments = inputs.arguments()

    def call(model: Any) -> Any:
        with torch.no_grad():
            base = getattr(model, model.base_model_prefix, model)
            encoded = base.encoder(
                input_ids=arguments["input_ids"], attention_mask=arguments["attention_mask"], **EVERYTHING
            )
            given = {"output": encoded, "tuple": (encoded[0],), "long tuple": encoded.to_tuple()}[form]
            rest = {key: value for key, value in arguments.items() if key != "input_ids"}
            if head == "ForSequenceClassification":
                rest = arguments
            return encoded, model(**rest, encoder_outputs=given)

    encoded, mine = call(ours(case, head))
    reference, theirs = call(peer(case, head))
    text = {"attention_mask": arguments["attention_mask"]}
    for key in ("last_hidden_state", "hidden_states", "attentions"):
        for a, b in (
            zip(encoded[key], reference[key], strict=True)
            if key != "last_hidden_state"
            else [(encoded[key], reference[key])]
        ):
            close(a, b, key, rows(key, b, text))
    same(mine, theirs, real=arguments)


@pytest.mark.parametrize("case", PLAIN)
def test_decoder_inputs_that_the_model_makes_itself(case: Case) -> None:
    """Bart shifts its own input ids when no decoder ids are given; T5 and Bart shift the labels."""
    if case.family not in ("T5", "Bart"):
        return
    inputs = Inputs(case, "ForConditionalGeneration")
    arguments = {key: value for key, value in inputs.arguments().items() if not key.startswith("decoder_")}
    labels = inputs.labels()
    with torch.no_grad():
        head = "ForConditionalGeneration"
        same(ours(case, head)(**arguments, **labels), peer(case, head)(**arguments, **labels), real=arguments)
        shifted = ours(case, head).prepare_decoder_input_ids_from_labels(labels["labels"])
        assert torch.equal(shifted, peer(case, head).prepare_decoder_input_ids_from_labels(labels["labels"]))
        for head in ("Model", "ForSequenceClassification", "ForQuestionAnswering"):
            if case.family == "Bart" or head != "Model":
                given = Inputs(case, head).arguments()
                given = {key: value for key, value in given.items() if not key.startswith("decoder_")}
                same(ours(case, head)(**given), peer(case, head)(**given), real=given)


@pytest.mark.parametrize("name", ["Bert-decoder", "GPT2-plain", "Bart-plain", "Llama-plain"])
@pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 4])], ids=["last", "three", "positions"])
def test_logits_to_keep(name: str, keep: Any) -> None:
    case = BY_NAME[name]
    head = "ForCausalLM" if case.family == "Bart" else GENERATIVE[case.family]
    arguments = {**Inputs(case, head).arguments(), "use_cache": False}
    mask = arguments["attention_mask"]
    kept = {"attention_mask": mask[:, -keep:] if isinstance(keep, int) else mask[:, keep]}
    with torch.no_grad():
        mine, theirs = (m(**arguments, logits_to_keep=keep) for m in (ours(case, head), peer(case, head)))
    same(mine, theirs, real=kept)


@pytest.mark.parametrize("name", ["Bert-decoder", "GPT2-plain", "Llama-plain"])
def test_loss_over_the_items_of_a_larger_batch(name: str) -> None:
    """`num_items_in_batch` divides the sum of the losses, `shift_labels` takes labels that are shifted already."""
    case = BY_NAME[name]
    head = GENERATIVE[case.family]
    inputs = Inputs(case, head)
    arguments, labels = inputs.arguments(), inputs.labels()["labels"]
    for extra in ({"num_items_in_batch": 17}, {"shift_labels": labels.roll(1, 1)}):
        with torch.no_grad():
            same(
                ours(case, head)(**arguments, labels=labels, **extra),
                peer(case, head)(**arguments, labels=labels, **extra),
                real=arguments,
            )


PROBLEMS = {
    "single, inferred": ({"num_labels": 4}, torch.tensor([0, 3, 1])),
    "single, said": ({"num_labels": 3, "problem_type": "single_label_classification"}, torch.tensor([0, 2, 1])),
    "multi, inferred": ({"num_labels": 4}, torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])),
    "multi, said": (
        {"num_labels": 5, "problem_type": "multi_label_classification"},
        torch.tensor([[0.0, 1, 1, 0, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0]]),
    ),
    "regression, inferred": ({"num_labels": 1}, torch.tensor([0.3, -1.2, 2.0])),
    "regression, a column": ({"num_labels": 1}, torch.tensor([[0.3], [-1.2], [2.0]])),
    "regression of three": (
        {"num_labels": 3, "problem_type": "regression"},
        torch.tensor([[0.3, 1, -1], [2, 0, 0.5], [0, 1, 1]]),
    ),
}


@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_sequence_losses(case: Case, problem: str, tmp_path: Any) -> None:
    """One label, many labels, regression: as the configuration says, or as the labels tell; then remembered."""
    options, labels = PROBLEMS[problem]
    head = "ForSequenceClassification"
    reference = build(case, head, **options)
    reference.save_pretrained(tmp_path)
    model = load(case, head, tmp_path)
    arguments = Inputs(case, head).arguments()
    mine, theirs = model(**arguments, labels=labels), reference(**arguments, labels=labels)
    same(mine, theirs, real=arguments)
    assert model.config.problem_type == reference.config.problem_type


@pytest.mark.parametrize("name", ["GPT2-plain", "Llama-no-pad"])
def test_classification_without_a_padding_token(name: str, tmp_path: Any) -> None:
    """One row is read at its last position; more than one cannot be, and the error says so."""
    case = BY_NAME[name]
    head = "ForSequenceClassification"
    reference = build(case, head, pad_token_id=None)
    reference.save_pretrained(tmp_path)
    model = load(case, head, tmp_path)
    ids = Inputs(case, head).ids(1, 6)
    with torch.no_grad():
        same(model(ids), reference(ids))
        with pytest.raises(ValueError, match="pad"):
            model(ids.repeat(2, 1))


@pytest.mark.parametrize("case", CASES)
def test_fully_masked_rows_are_finite(case: Case) -> None:
    head = GENERATIVE[case.family]
    inputs = Inputs(case, head)
    arguments, labels = inputs.arguments(), inputs.labels()
    arguments["attention_mask"][0] = 0
    if "encoder_attention_mask" in arguments:
        arguments["encoder_attention_mask"][0] = 0
    model = load(case, head, folder(case, head))
    output = model(**arguments, **labels, **EVERYTHING)
    output.loss.backward()
    assert torch.isfinite(output.logits).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    # The other rows are as if the masked one were not there.
    close(output.logits[1:], peer(case, head)(**arguments).logits[1:], "logits of the other rows")


def test_gpt2_token_types_share_the_word_embeddings() -> None:
    case = BY_NAME["GPT2-plain"]
    for head in ("LMHeadModel", "ForSequenceClassification", "ForTokenClassification"):
        inputs = Inputs(case, head)
        arguments = {**inputs.arguments(), "token_type_ids": inputs.ids(inputs.batch, inputs.length)}
        with torch.no_grad():
            same(ours(case, head)(**arguments), peer(case, head)(**arguments), real=arguments)


def test_bert_without_its_pooler() -> None:
    """`add_pooling_layer=False` leaves the pooler out, in the output as in the parameters."""
    case = BY_NAME["Bert-plain"]
    model = load(case, "Model", folder(case, "Model"), add_pooling_layer=False)
    reference = type(peer(case, "Model")).from_pretrained(
        folder(case, "Model"), add_pooling_layer=False, attn_implementation="eager"
    )
    arguments = Inputs(case, "Model").arguments()
    with torch.no_grad():
        same(model(**arguments), reference(**arguments), real=arguments)
    assert model.num_parameters() == reference.num_parameters()


DROPOUT: dict[str, dict[str, Any]] = {
    "Bert": {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3, "classifier_dropout": 0.4},
    "GPT2": {"resid_pdrop": 0.2, "embd_pdrop": 0.3, "attn_pdrop": 0.25, "summary_first_dropout": 0.4},
    "T5": {"dropout_rate": 0.3, "classifier_dropout": 0.4},
    "Bart": {"dropout": 0.2, "attention_dropout": 0.3, "activation_dropout": 0.25, "classifier_dropout": 0.4},
    "Llama": {"attention_dropout": 0.3},
}
DROPPED = [
    *PLAIN_PAIRS,
    *((BY_NAME[n], "Model") for n in ("Bert-cross-attention", "GPT2-cross-attention", "T5-gated-gelu-v1.1")),
]


@pytest.mark.parametrize(("case", "head"), DROPPED)
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "unmasked"])
def test_dropout_under_the_same_seed(case: Case, head: str, masked: bool, tmp_path: Any) -> None:
    """In training the same values are dropped in the same order as in the peer's fast attention."""
    reference = build(case, head, attention="sdpa", **DROPOUT[case.family])
    reference.save_pretrained(tmp_path)
    model = getattr(gf, case.family + head).from_pretrained(tmp_path)
    arguments = Inputs(case, head).arguments()
    if not masked:
        arguments = {key: value for key, value in arguments.items() if not key.endswith("attention_mask")}
    with torch.no_grad():
        still = model(**arguments)
        torch.manual_seed(11)
        mine = model.train()(**arguments)
        torch.manual_seed(11)
        theirs = reference.train()(**arguments)
    first = next(key for key in theirs if key in ("last_hidden_state", "logits", "prediction_logits", "start_logits"))
    assert (mine[first] - still[first]).abs().max() > 1e-2, "nothing was dropped"
    same(mine, theirs, real=arguments)


def test_layers_that_bart_drops(tmp_path: Any) -> None:
    """Layerdrop skips the same whole layers of the encoder and decoder, in training alone."""
    case = BY_NAME["Bart-plain"]
    options = {
        "encoder_layerdrop": 0.5,
        "decoder_layerdrop": 0.5,
        "encoder_layers": 4,
        "decoder_layers": 4,
    }
    reference = build(case, "Model", attention="sdpa", dropout=0.0, **options)
    reference.save_pretrained(tmp_path)
    model = gf.BartModel.from_pretrained(tmp_path)
    arguments = {**Inputs(case, "Model").arguments(), "use_cache": False}
    with torch.no_grad():
        still = model(**arguments)
        close(still[0], reference(**arguments)[0], "in evaluation", rows("last_hidden_state", still[0], arguments))
        changed = 0
        for seed in range(6):
            torch.manual_seed(seed)
            mine = model.train()(**arguments)
            torch.manual_seed(seed)
            theirs = reference.train()(**arguments)
            same(mine, theirs, real=arguments)
            changed += not torch.allclose(mine[0], still[0], atol=1e-3)
    assert changed


def test_two_calls_do_not_touch_each_other() -> None:
    """A long sequence and then a short one: rotary scalings that follow the length come back."""
    for name in ("Llama-dynamic-beyond", "Llama-longrope-long"):
        case = BY_NAME[name]
        model, inputs = load(case, "Model", folder(case, "Model")), Inputs(case, "Model")
        for length in (6, 22, 12, 5):
            ids = inputs.ids(2, length)
            if PEER_ON_PEER and length == 12:
                continue  # the peer itself remembers the 22
            with torch.no_grad():
                close(model(ids)[0], peer(case, "Model")(ids)[0], f"{name}, {length} tokens")
