"""The trace: what is heard, that hearing changes nothing, and the story that is told of it."""

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import glassformer as gf
from glassformer import InputError
from glassformer.glassbox.listen import parts
from parity import zoo

GENERATIVE = [pytest.param(case, zoo.GENERATIVE[case.family], id=case.family) for case in zoo.PLAIN]
CASES = [pair for pair in zoo.PAIRS if pair[0].name in ("plain", "cross-attention", "decoder", "biases")]
SOURCE = Path(gf.__file__).parent


@pytest.fixture(scope="module")
def gpt2():
    return gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")


def model_and_call(case: zoo.Case, head: str):
    inputs = zoo.Inputs(case, head)
    return zoo.ours(case, head), inputs.arguments(), inputs.labels()


def all_tensors(output) -> Iterator[torch.Tensor]:
    for value in output.values():
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from (tensor for tensor in value if isinstance(tensor, torch.Tensor))


def test_every_place_is_heard_and_everything_heard_is_a_place() -> None:
    """Over all families and heads, with labels: no name that is promised stays silent, and none comes unannounced."""
    declared, heard = set(), set()
    for case, head in CASES:
        model, call, labels = model_and_call(case, head)
        if case.family == "GPT2":
            call["token_type_ids"] = call["input_ids"].flip(-1)
        with gf.Trace(model) as t:
            model(**call, **labels)
        assert set(t.names) <= set(gf.places(model))
        for path, part in parts(model).items():
            dot = f"{path}." if path else ""
            declared |= {(type(part).__name__, place) for place in part.places if part.has(place)}
            heard |= {(type(part).__name__, place) for place in part.places if dot + place in t}
    assert declared == heard


@pytest.mark.parametrize(("case", "head"), CASES)
def test_a_model_lists_only_tensors_that_it_can_have(case: zoo.Case, head: str) -> None:
    """Given every input, it computes each tensor that it lists; cross-attention only where it is given a memory."""
    model, call, labels = model_and_call(case, head)
    if case.family == "GPT2":
        call["token_type_ids"] = call["input_ids"].flip(-1)
    with gf.Trace(model) as t:
        model(**call, **labels)
    memory = model.config.is_encoder_decoder or "encoder_hidden_states" in call
    crossing = {name for name in gf.places(model) if "cross_attention" in name or name.endswith("memory_mask")}
    assert set(gf.places(model)) - set(t.names) == (set() if memory else crossing)


@pytest.mark.parametrize(("case", "head"), CASES)
def test_a_trace_changes_nothing_and_leaves_no_listener(case: zoo.Case, head: str) -> None:
    model, call, labels = model_and_call(case, head)
    asked = {"output_attentions": True, "output_hidden_states": True}
    before = model(**call, **labels, **asked)
    with model.trace():
        during = model(**call, **labels, **asked)
    after = model(**call, **labels, **asked)
    for a, b, c in zip(*map(all_tensors, (before, during, after)), strict=True):
        # Padding that is looked at is computed, so that sums come in another order.
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(a.abs().max()))
        assert torch.equal(a, c)
    assert all(part.listener is None for part in parts(model).values())
    with pytest.raises(InputError), model.trace():
        model()
    assert all(part.listener is None for part in parts(model).values())


def blank(x: torch.Tensor, real: torch.Tensor | None, axis: int) -> torch.Tensor:
    """A record with zeros where the positions along an axis are padding: real is (B, T)."""
    if real is None:
        return x
    shape = [len(real), *[1] * (x.dim() - 1)]
    shape[axis] = real.shape[1]
    return x.masked_fill(~real.bool().view(shape), 0)


@pytest.mark.parametrize(("case", "head"), GENERATIVE)
def test_records_are_what_the_call_gives(case: zoo.Case, head: str) -> None:
    """Attention maps, states and scores are those of output_attentions and so on, to the bit, but zeros at padding."""
    model, call, _ = model_and_call(case, head)
    with model.trace() as t:
        out = model(**call, output_attentions=True, output_hidden_states=True)
    both = "decoder_attentions" in out
    assert torch.equal(t["logits"], out.logits)
    for stack in ("encoder", "decoder"):
        prefix = f"{stack}_" if both else ""
        real = call.get("decoder_attention_mask" if prefix == "decoder_" else "attention_mask")
        if f"{stack}.output" not in t:
            continue
        states = out[f"{prefix}hidden_states"]
        for layer, weights in enumerate(out[f"{prefix}attentions"]):
            seen = t[f"{stack}.layers.{layer}.attention.weights"]
            assert torch.equal(blank(seen, real, 2), weights)
            assert torch.equal(blank(t[f"{stack}.layers.{layer}.input"], real, 1), states[layer])
            scores = t[f"{stack}.layers.{layer}.attention.scores"]
            torch.testing.assert_close(scores.softmax(-1), seen, rtol=1e-6, atol=1e-7)
        assert torch.equal(blank(t[f"{stack}.output"], real, 1), states[-1])
        assert torch.equal(t[f"{stack}.layers.0.input"], t[f"{stack}.embedding.output"])
    for layer, weights in enumerate(out.get("cross_attentions") or ()):
        assert torch.equal(blank(t[f"decoder.layers.{layer}.cross_attention.weights"], real, 2), weights)


@pytest.mark.parametrize(("case", "head"), GENERATIVE)
def test_tensors_fit_each_other(case: zoo.Case, head: str) -> None:
    """The formulas of the textbook hold between what is recorded: scores, weights, what is mixed of the values."""
    model, call, _ = model_and_call(case, head)
    with model.trace() as t:
        model(**call)
    for name in t.names:
        if not name.endswith("attention.weights"):
            continue
        path = name.removesuffix("weights")
        attention = parts(model)[path.rstrip(".")]
        group = attention.heads // attention.kv_heads
        keys, values = (t[path + place].repeat_interleave(group, 1) for place in ("keys", "values"))
        stack = name.partition(".")[0]
        scores = t[path + "queries"] @ keys.transpose(2, 3) * attention.scale
        scores = scores + t[f"{stack}.memory_mask" if "cross" in name else f"{stack}.mask"].clamp(min=-1e30)
        if f"{stack}.positions.bias" in t and "cross" not in name:
            scores = scores + t[f"{stack}.positions.bias"]
        seen = scores > -1e20
        torch.testing.assert_close(scores[seen], t[path + "scores"][seen], rtol=1e-5, atol=1e-5)
        real = seen.any(-1)  # a query of padding may look at nothing
        mixed = t[name] @ values
        torch.testing.assert_close(mixed[real], t[path + "mixed"][real], rtol=1e-5, atol=1e-5)
        projected = attention.o_proj(t[path + "mixed"].transpose(1, 2).flatten(2))
        torch.testing.assert_close(projected, t[path + "output"], rtol=1e-5, atol=1e-5)


def test_only_what_is_asked_for_is_recorded(gpt2, monkeypatch) -> None:
    """Nor is anything else computed: maps of one head and query are asked of one layer alone."""
    from glassformer.structure import attention

    asked = []
    computed = attention.attention_maps
    monkeypatch.setattr(attention, "attention_maps", lambda *args: asked.append(args[5]) or computed(*args))
    ids = torch.tensor([[5, 6, 7, 8]])
    one = gf.Maps(heads=[2], queries=-1)
    with gpt2.trace({"decoder.layers.1.attention.weights": one, "*.after_attention": gf.Maps()}) as t:
        gpt2(input_ids=ids)
    assert asked == [one]
    assert t["decoder.layers.1.attention.weights"].shape == (1, 1, 1, 4)
    layers = len(gpt2.base_model.decoder.layers)
    assert sorted(t.names) == sorted(
        ["decoder.layers.1.attention.weights", *(f"decoder.layers.{n}.after_attention" for n in range(layers))]
    )
    assert t.tokens
    assert not t.choices
    assert set(t.lines) == set(t.names)
    with gpt2.trace("logits") as t:
        gpt2(input_ids=ids)
    assert t.names == ["logits"]
    assert len(asked) == 1
    with pytest.raises(InputError, match=r"nearest are .*attention\.weights"):
        gpt2.trace("decoder.layers.0.attention.weight")
    with pytest.raises(InputError, match="was not recorded; recorded were logits"):
        t["loss"]


def test_nested_traces_hear_each_what_they_asked_for(gpt2) -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    name = "decoder.layers.0.attention.weights"
    with gpt2.trace({name: gf.Maps(heads=1)}) as a, gpt2.trace({name: gf.Maps(queries=[0, -2])}) as b:
        with gpt2.trace(name) as c:
            gpt2(input_ids=ids)
        gpt2(input_ids=ids[:, :3])  # the inner one is over
    whole = c[name]
    assert len(c.calls(name)) == 1
    assert len(a.calls(name)) == len(b.calls(name)) == 2
    assert torch.equal(a.calls(name)[0], whole[:, [1]])
    assert torch.equal(b.calls(name)[0], whole[:, :, [0, 3]])
    assert a[name].shape == (1, 1, 3, 3)
    assert all(part.listener is None for part in parts(gpt2).values())


def test_a_trace_records_once(gpt2, tmp_path) -> None:
    trace = gf.trace(gpt2, "To be")
    trace.save(tmp_path)
    for done in (trace, gf.Trace.load(tmp_path)):
        with pytest.raises(InputError, match="A trace records once"), done:
            pass


def test_nothing_was_called(gpt2) -> None:
    with gpt2.trace() as trace:
        pass
    assert not trace.names
    assert not trace.choices
    assert str(trace) == "GPT2LMHeadModel · 0 calls · 0 tensors"
    assert trace._repr_html_().startswith("<figure")


def test_gradients_flow_where_they_are_wanted(gpt2) -> None:
    with gpt2.trace("decoder.embedding.output", detach=False) as t:
        gpt2(input_ids=torch.tensor([[5, 6]])).logits.sum().backward()
    assert t["decoder.embedding.output"].grad_fn is not None
    gpt2.zero_grad()
    with gpt2.trace("decoder.embedding.output") as t:
        gpt2(input_ids=torch.tensor([[5, 6]]))
    assert t["decoder.embedding.output"].grad_fn is None


@pytest.mark.parametrize(("case", "head"), GENERATIVE)
def test_a_generation_is_one_tensor_a_call_and_stitched_the_whole_text(case: zoo.Case, head: str) -> None:
    """What single steps gave, end to end, is what one call of the whole text gives."""
    if case.family == "Bert":
        case = zoo.BY_NAME["Bert-decoder"]
    model, call, _ = model_and_call(case, head)
    ids = call["input_ids"][:1, :5]
    with model.trace() as t:
        whole = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, min_new_tokens=6,
                               do_sample=False)  # fmt: skip
    decoder = {"input_ids": whole[:, :-1]}
    if "encoder.input_ids" in t:
        decoder = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": whole[:, :-1]}
        assert len(t.calls("encoder.output")) == 1
    assert len(t.calls("logits")) == len(t.calls("decoder.layers.1.output")) == 6
    assert t.tokens["decoder"] == [[str(token) for token in whole[0, :-1].tolist()]]
    with model.trace() as full:
        model(**decoder)
    for name in t.names:
        if name.startswith("decoder.layers.") and not re.search(r"scores|cross_attention\.(keys|values)", name):
            torch.testing.assert_close(t.stitched(name), full[name], rtol=1e-4, atol=1e-5, msg=name)
    assert [choice.call for choice in t.choices] == list(range(6))
    # The last token may be one that the configuration forces.
    assert [choice.labels[0] for choice in t.choices[:5]] == [str(token) for token in whole[0, -6:-1].tolist()]


def test_a_batch_with_padding_is_the_texts_alone() -> None:
    """Tokens, choices and maps of a text do not depend on what stands beside it; padding is looked at by no token."""
    bert = gf.AutoModelForMaskedLM.from_pretrained(zoo.folder(zoo.PLAIN[0], "ForMaskedLM")).eval()
    long, short = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[11, 12, 13]])
    ids = torch.cat([long, torch.nn.functional.pad(short, (0, 2))])
    mask = (torch.arange(5) < torch.tensor([[5], [3]])).long()
    together = gf.trace(bert, {"input_ids": ids, "attention_mask": mask})
    alone = gf.trace(bert, {"input_ids": short, "attention_mask": torch.ones_like(short)})
    for name in ("encoder.layers.1.attention.weights", "encoder.output", "logits"):
        keys = (slice(None), slice(3), slice(3)) if name.endswith("weights") else (slice(3),)
        torch.testing.assert_close(together[name][1][keys], alone[name][0], rtol=1e-4, atol=1e-5)
    assert together["encoder.layers.0.attention.weights"][1, :, :3, 3:].eq(0).all()
    assert together.tokens["encoder"] == [["5", "6", "7", "8", "9"], ["11", "12", "13", "0", "0"]]

    decoder = gf.AutoModelForCausalLM.from_pretrained(zoo.folder(zoo.BY_NAME["GPT2-plain"], "LMHeadModel"))
    ids = torch.where(mask.bool(), ids, decoder.config.pad_token_id)
    both = gf.trace(decoder, {"input_ids": ids, "attention_mask": mask})
    assert [(choice.row, choice.position) for choice in both.choices] == [(0, 4), (1, 2)]
    assert both.choices[1].labels == gf.trace(decoder, {"input_ids": short}).choices[0].labels
    assert both.padding == "3"
    assert "13 looks at" in str(gf.trace(decoder, {"input_ids": ids[1:]}))


def test_several_texts(gpt2) -> None:
    """Texts are tokenized with the tokenizer beside the model, and read back where only ids were given."""
    bert = gf.AutoModel.from_pretrained("glassformer/tiny-bert")
    texts = ["To be", "To be or not to be"]
    t = gf.trace(bert, texts)
    assert t.texts == texts
    assert t.padding == "[PAD]"
    assert t.tokens["encoder"][0] == ["[CLS]", "to", "be", "[SEP]", "[PAD]", "[PAD]", "[PAD]", "[PAD]"]
    tokenizer = gf.AutoTokenizer.from_pretrained("glassformer/tiny-gpt2")
    t = gf.trace(gpt2, tokenizer("To be or", return_tensors="pt"))
    assert t.texts == ["To be or"]
    assert t.tokens["decoder"] == [["T", "o", "Ġbe", "Ġor"]]
    with pytest.raises(InputError, match="give tokenizer="):
        gf.trace(zoo.ours(zoo.PLAIN[0], "Model"), "To be")


@pytest.mark.parametrize(("case", "head"), zoo.PLAIN_PAIRS)
def test_choices_are_the_likeliest(case: zoo.Case, head: str) -> None:
    model, call, labels = model_and_call(case, head)
    with model.trace() as t:
        model(**call, **labels)
    if head in ("Model", "EncoderModel"):
        assert not t.choices
        return
    assert t.choices or t["logits"].dim() == 4
    for choice in t.choices:
        scores = t.calls(choice.name)[choice.call][choice.row]
        scores = scores if choice.position is None else scores[choice.position]
        best = scores.softmax(-1).topk(len(choice.labels))
        torch.testing.assert_close(torch.tensor(choice.probabilities), best.values)
        if choice.name == "logits" and scores.shape[-1] == model.config.vocab_size:
            assert list(choice.labels) == [str(token) for token in best.indices.tolist()]
        elif choice.name == "logits" and head in ("ForSequenceClassification", "ForTokenClassification"):
            assert list(choice.labels) == [model.config.id2label[label] for label in best.indices.tolist()]


@pytest.mark.parametrize(("case", "head"), GENERATIVE)
def test_lines_lead_to_the_code(case: zoo.Case, head: str) -> None:
    """Every recorded name has a line of this package that passes it on, and the line stands where it is said to."""
    model, call, labels = model_and_call(case, head)
    with model.trace() as t:
        model(**call, **labels)
    assert set(t.lines) == set(t.names)
    for name, source in t.lines.items():
        line = (SOURCE / source.file).read_text(encoding="utf-8").splitlines()[source.line - 1]
        assert line.strip() == source.text
        assert f'("{name.rpartition(".")[2]}"' in line


@pytest.mark.parametrize(("case", "head"), GENERATIVE)
def test_the_story_is_narrow_and_whole(case: zoo.Case, head: str) -> None:
    """No line is wider than 110 columns; unfolded, and in a notebook, every tensor is in it with its meaning."""
    model, call, _ = model_and_call(case, head)
    t = gf.trace(model, call)
    for story in (str(t), t.story(fold=False)):
        assert max(map(len, story.split("\n"))) <= 110
    assert len(str(t)) < len(t.story(fold=False))
    words = re.sub(r"\s+", " ", t.story(fold=False))
    page = t._repr_html_()
    for name in t.names:
        label = re.sub(r"^(encoder|decoder)\.(layers\.\d+\.)?", "", name)
        shape = ", ".join(map(str, t[name].shape))
        assert re.search(rf" {re.escape(label)} \({re.escape(shape)}\) ", words), name
        assert t.meanings[name] in words
        assert html.escape(t.meanings[name]) in page
        assert f'title="{name}"' in page
    assert page.count("<details") == sum(len(stack.layers) for stack in model.base_model.stacks)


def test_the_story_of_a_text(gpt2) -> None:
    """It says what was read, what the last token looks at, and what comes next; as numbers say it too."""
    t = gf.trace(gpt2, "To be or not to be")
    story = str(t)
    assert story.startswith("GPT2LMHeadModel · 1 text · 7 tokens in the decoder · 1 call · ")
    assert "tokens   T o ·be ·or ·not ·to ·be\n" in story
    weights = t["decoder.layers.0.attention.weights"][0, :, -1].mean(0)
    place = int(weights.argmax())
    token = ["T", "o", "·be", "·or", "·not", "·to", "·be"][place]
    assert f"·be looks at {token} {weights[place]:.2f}" in story
    best = t["logits"][0, -1].softmax(-1).max()
    assert re.search(rf"·be → ·?\w+ {best:.3f} ", story)
    assert "structure/attention.py:" in story
    assert "layers 1–3: as layer 0" in story
    with gpt2.trace("logits") as few:
        gpt2(input_ids=torch.tensor([[5, 6]]))
    assert "layer" not in str(few)
    assert "logits" in str(few)


def test_a_text_cannot_become_script_or_steer_a_terminal(gpt2) -> None:
    hostile = "<script>alert(1)</script> & \x1b[31m\"' \u202e"
    t = gf.trace(gpt2, hostile)
    t.texts = [hostile]
    t.model = t.meanings["logits"] = hostile
    page, story = t._repr_html_(), str(t)
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "\x1b" not in story
    assert "\u202e" not in story
    assert not re.search(r"<[a-z]+[^>]*\son\w+=", page)


def test_values_that_are_not_finite_are_said(gpt2) -> None:
    t = gf.trace(gpt2, "To be")
    t.records["decoder.output"][0] = t["decoder.output"].clone()
    t["decoder.output"][0, 0, :3] = torch.nan
    assert f"3 of {t['decoder.output'].numel()} not finite" in str(t)
