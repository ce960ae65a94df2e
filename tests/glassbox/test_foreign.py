"""The peer's models under our names: they agree with ours tensor by tensor, and a weight that differs is found."""

from fnmatch import fnmatch

import pytest
import torch
import transformers

import glassformer as gf
from glassformer import InputError
from parity import zoo

ODD = [
    pytest.param(case, head, id=f"{case}-{head}")
    for case in zoo.CASES
    for head in sorted({zoo.GENERATIVE[case.family], "Model"})
    if case.name != "plain"
]
# What is not heard of the peer: it computes these within a module.
UNHEARD = {"mask", "memory_mask", "scores"}
ROTATED = {*UNHEARD, "cos", "sin", "queries", "keys"}


def unpadded(case: zoo.Case, head: str) -> dict[str, torch.Tensor]:
    """A call without padding, which is left out of what is given back here."""
    call = zoo.Inputs(case, head).arguments()
    return {key: torch.ones_like(value) if key.endswith("attention_mask") else value for key, value in call.items()}


def both(case: zoo.Case, head: str, **more):
    call = unpadded(case, head)
    if case.family == "GPT2":
        call["token_type_ids"] = call["input_ids"].flip(-1)
    return gf.trace(zoo.ours(case, head), {**call, **more}), gf.trace(zoo.peer_sdpa(case, head), {**call, **more})


@pytest.mark.parametrize(("case", "head"), [*zoo.PLAIN_PAIRS, *ODD])
def test_ours_and_the_peers_agree_in_every_tensor(case: zoo.Case, head: str) -> None:
    """In all families and heads, from an implementation of the peer's that never forms maps."""
    ours, theirs = both(case, head)
    difference = ours.diff(theirs)
    assert difference.same, difference
    assert str(difference).startswith(f"No difference: {len(difference.parted)} tensors")
    unheard = ROTATED if case.family == "Llama" else UNHEARD
    pieces = "*.feedforward.*" if case.options.get("chunk_size_feed_forward") else ""
    silent = [n for n in difference.only_here if n.rpartition(".")[2] not in unheard and not fnmatch(n, pieces)]
    assert silent == []
    assert difference.only_there == ()
    assert difference.tokens == ()
    assert all(parted.whole or parted.name.endswith((".positions", ".types")) for parted in difference.parted)
    assert theirs.diff(ours).same
    order = [name for name in ours.names if name in theirs]
    # Both compute in the same order, but for what is added up, and T5's distances, which its first layer computes.
    free = (".types", ".positions", ".bias")
    assert [n for n in theirs.names if not n.endswith(free)] == [n for n in order if not n.endswith(free)]


@pytest.mark.parametrize("case", zoo.PLAIN, ids=str)
def test_labels_give_the_loss_too(case: zoo.Case) -> None:
    head = zoo.GENERATIVE[case.family]
    ours, theirs = both(case, head, **zoo.Inputs(case, head).labels())
    assert "loss" in theirs
    assert ours.diff(theirs).same


# A weight of the peer's second layer, and the first place after it of what is heard.
CHANGED = [
    ("Bert", "bert.encoder.layer.1.attention.self.query.weight", "decoder.layers.1.attention.queries"),
    ("Bert", "bert.encoder.layer.1.attention.output.LayerNorm.bias", "decoder.layers.1.after_attention"),
    ("GPT2", "transformer.h.1.attn.c_attn.weight", "decoder.layers.1.attention.queries"),
    ("GPT2", "transformer.h.1.ln_1.weight", "decoder.layers.1.attention.input"),
    ("GPT2", "transformer.h.1.mlp.c_proj.bias", "decoder.layers.1.feedforward.output"),
    ("T5", "encoder.block.1.layer.0.SelfAttention.v.weight", "encoder.layers.1.attention.values"),
    ("T5", "decoder.block.1.layer.1.EncDecAttention.k.weight", "decoder.layers.1.cross_attention.keys"),
    ("T5", "decoder.final_layer_norm.weight", "decoder.output"),
    ("Bart", "model.decoder.layers.1.encoder_attn.out_proj.weight", "decoder.layers.1.cross_attention.output"),
    ("Bart", "model.encoder.layers.1.fc1.weight", "encoder.layers.1.feedforward.inner"),
    ("Bart", "model.decoder.layernorm_embedding.weight", "decoder.embedding.output"),
    ("Llama", "model.layers.1.self_attn.k_proj.weight", "decoder.layers.1.attention.weights"),
    ("Llama", "model.layers.1.self_attn.v_proj.weight", "decoder.layers.1.attention.values"),
    ("Llama", "model.layers.1.input_layernorm.weight", "decoder.layers.1.attention.input"),
    ("Llama", "model.layers.1.mlp.gate_proj.weight", "decoder.layers.1.feedforward.inner"),
    ("Llama", "lm_head.weight", "logits"),
]


@pytest.mark.parametrize(("family", "weight", "place"), CHANGED)
@pytest.mark.parametrize("peer_first", [False, True], ids=["ours-first", "peer-first"])
def test_one_changed_weight_is_found(family: str, weight: str, place: str, peer_first: bool) -> None:
    """All that was computed before it agrees, and what is named first is what the weight computes."""
    case, head = zoo.BY_NAME[f"{family}-{'decoder' if family == 'Bert' else 'plain'}"], zoo.GENERATIVE[family]
    call = unpadded(case, head)
    changed = zoo.build(case, head)
    changed.load_state_dict(zoo.peer(case, head).state_dict())
    with torch.no_grad():
        dict(changed.named_parameters())[weight].mul_(1.1).add_(0.02)
    ours, theirs = gf.trace(zoo.ours(case, head), call), gf.trace(changed, call)
    first, second = (theirs, ours) if peer_first else (ours, theirs)
    difference = first.diff(second)
    assert difference.first is not None
    assert difference.first.name == place
    assert f"First difference: {place}, at [" in str(difference)
    index = difference.first.index
    assert difference.first.values == (first[place][index].item(), second[place][index].item())


@pytest.mark.parametrize("case", zoo.PLAIN, ids=str)
def test_the_peers_model_is_left_as_it_was(case: zoo.Case) -> None:
    """No hook stays, the attention is put back, also after a call that fails; and its output is what it was."""
    head = zoo.GENERATIVE[case.family]
    peer, call = zoo.peer_sdpa(case, head), zoo.Inputs(case, head).arguments()
    before = peer(**call).logits
    config = peer.config.to_dict()

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in peer.modules())

    gf.trace(peer, call)  # the peer keeps hooks of its own from the first maps on that it is asked for
    count = hooks()
    gf.trace(peer, call)
    with pytest.raises(IndexError):
        gf.trace(peer, {"input_ids": call["input_ids"] + 10_000})
    assert hooks() == count
    assert {m.config._attn_implementation for m in peer.modules() if hasattr(m, "config")} == {"sdpa"}
    assert peer.config.to_dict() == config
    assert torch.equal(peer(**call).logits, before)


def test_only_what_is_asked_for() -> None:
    """Patterns and Maps are those of our own models; names that are not there are refused before the call."""
    case = zoo.BY_NAME["GPT2-plain"]
    peer, call = zoo.peer(case, "LMHeadModel"), zoo.Inputs(case, "LMHeadModel").arguments()
    whole = gf.trace(peer, call)
    name = "decoder.layers.1.attention.weights"
    one = gf.trace(peer, call, record={name: gf.Maps(heads=[2], queries=-1)})
    assert one.names == [name]
    assert torch.equal(one[name], whole[name][:, [2]][:, :, [-1]])
    assert gf.trace(peer, call, record="decoder.output").names == ["decoder.output"]
    with pytest.raises(InputError, match="nearest are"):
        gf.trace(peer, call, record="decoder.layers.7.output")
    assert whole.lines["decoder.layers.0.feedforward.output"].file.startswith("transformers/")
    assert whole.model == "GPT2LMHeadModel"
    assert max(map(len, str(whole).split("\n"))) <= 110


def test_texts_with_the_peers_own_tokenizer() -> None:
    """A folder opened by both: the same texts, tokens, tensors and choices."""
    folder = gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2").config.name_or_path
    from glassformer.checkpoints.hub import Repository

    path = Repository(folder).folder
    peer = transformers.AutoModelForCausalLM.from_pretrained(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    theirs = gf.trace(peer, "To be or not to be", tokenizer=tokenizer)
    ours = gf.trace(gf.AutoModelForCausalLM.from_pretrained(folder), "To be or not to be")
    assert ours.diff(theirs).same
    assert theirs.tokens == ours.tokens
    assert theirs.texts == ours.texts
    assert [choice.labels for choice in theirs.choices] == [choice.labels for choice in ours.choices]
    assert gf.trace(peer, "To be or not to be").tokens == ours.tokens  # the tokenizer beside it is found


def test_an_encoder_decoder_begins_with_its_start_token() -> None:
    case = zoo.BY_NAME["T5-odd-start"]
    head = zoo.GENERATIVE["T5"]
    ids = {"input_ids": torch.tensor([[5, 6, 7]])}
    ours, theirs = gf.trace(zoo.ours(case, head), ids), gf.trace(zoo.peer(case, head), ids)
    assert theirs.tokens == ours.tokens == {"encoder": [["5", "6", "7"]], "decoder": [["4"]]}
    assert ours.diff(theirs).same


def test_a_feed_forward_in_chunks_is_not_taken_for_the_whole() -> None:
    """The peer may send a text through it in pieces; what is whole is heard and agrees."""
    case = zoo.BY_NAME["Bert-plain"]
    peer = zoo.build(case, "ForMaskedLM", chunk_size_feed_forward=2)
    peer.load_state_dict(zoo.peer(case, "ForMaskedLM").state_dict())
    call = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    ours, theirs = gf.trace(zoo.ours(case, "ForMaskedLM"), call), gf.trace(peer, call)
    assert ours.diff(theirs).same
    assert not theirs.find("*.feedforward.*")
    assert len(theirs.find("*.layers.*.output")) == 4


def test_classes_that_are_not_here_are_refused() -> None:
    config = transformers.BertConfig(**zoo.BASE["Bert"])
    other = type("BertForSomething", (transformers.BertForMaskedLM,), {})(config)
    with pytest.raises(InputError, match=r"A BertForSomething cannot be traced.*BertForMaskedLM"):
        gf.trace(other, {"input_ids": torch.tensor([[5]])})
    distil = transformers.DistilBertModel(transformers.DistilBertConfig(dim=8, hidden_dim=8, n_heads=1, n_layers=1))
    with pytest.raises(InputError, match="announces no tensors"):
        gf.Trace(distil)
    with pytest.raises(gf.ConfigError, match="'distilbert' is not supported"):
        gf.trace(distil, {"input_ids": torch.tensor([[5]])})
