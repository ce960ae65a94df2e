"""The pictures: what is drawn equals the tensors given, labels are the tokens, and nobody's settings change."""

import copy
import subprocess
import sys
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")  # before pyplot chooses a window

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from glassformer import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GlassformerError,
    KVCache,
    LlamaConfig,
    LlamaForCausalLM,
    QuantizedCache,
    StaticCache,
)
from glassformer.errors import InputError
from glassformer.glassbox import plot

HOSTILE = ["$x_{", "\n", "<script>", "", "\u202eabc", "\ud800", "日本", "$\\frac{$", "a" * 500, "\x00", "é"]


@pytest.fixture(autouse=True)
def _figures():
    """Every test leaves matplotlib as it was, but for the figures, which are closed here."""
    before = copy.deepcopy(dict(matplotlib.rcParams))
    yield
    assert dict(matplotlib.rcParams) == before
    plt.close("all")


@pytest.fixture(scope="module")
def gpt2():
    name = "glassformer/tiny-gpt2"
    return AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)


@pytest.fixture(scope="module")
def bert():
    """A text's tokens, and what tiny-bert makes of it."""
    name = "glassformer/tiny-bert"
    tokenizer = AutoTokenizer.from_pretrained(name)
    inputs = tokenizer("The children were playing.", return_tensors="pt")
    out = AutoModel.from_pretrained(name)(**inputs, output_attentions=True, output_hidden_states=True)
    return tokenizer.convert_ids_to_tokens(inputs.input_ids[0]), out


def drawn(ax: Axes) -> np.ndarray:
    """The numbers of a heatmap, taken from the picture."""
    return np.ma.getdata(ax.images[-1].get_array())


def same(picture: np.ndarray, tensor: torch.Tensor) -> None:
    np.testing.assert_allclose(picture, tensor.detach().double().numpy(), rtol=0, atol=1e-7)


def words(ticks) -> list[str]:
    return [tick.get_text() for tick in ticks]


def rendered(ax) -> None:
    """Draw the whole figure, where a text that matplotlib cannot read would fail."""
    ax.figure.canvas.draw()


# Attention


def test_attention_draws_the_weights(bert) -> None:
    """A head of a layer, from the tuple, a layer, one row or one map, is the head that the model gave."""
    tokens, out = bert
    expected = out.attentions[1][0, 2]
    for ax in (
        plot.attention(out.attentions, tokens, layer=1, head=2),
        plot.attention(out.attentions[1], tokens, head=2),
        plot.attention(out.attentions[1][0], tokens, head=-2),
        plot.attention(expected, tokens),
        plot.attention(expected.detach().numpy(), tokens),
    ):
        same(drawn(ax), expected)
        assert words(ax.get_yticklabels()) == words(ax.get_xticklabels()) == plot.readable(tokens)
    same(drawn(plot.attention(out.attentions)), out.attentions[-1][0].mean(0))
    assert plot.attention(out.attentions, layer=1, head=2).get_title() == "layer 1, head 2"


def test_attention_takes_the_layers_that_were_asked_for(bert) -> None:
    """A layer that was not kept is an error that names those that were; the last of these is the default."""
    _, out = bert
    some = (None, out.attentions[1], None)
    same(drawn(plot.attention(some, head=0)), out.attentions[1][0, 0])
    with pytest.raises(InputError, match=r"layer 0 were not asked for, only of \[1\]"):
        plot.attention(some, layer=0)
    with pytest.raises(InputError, match="output_attentions=True"):
        plot.attention((None, None))
    stacked = torch.rand(2, 3, 4, 4)  # layers of one text
    same(drawn(plot.attention(list(stacked), layer=1, head=2)), stacked[1, 2])


def test_cross_attention_needs_its_keys() -> None:
    """Queries and keys have labels of their own."""
    weights = torch.rand(2, 3, 5)
    ax = plot.attention(weights, list("abc"), list("vwxyz"), head=1)
    same(drawn(ax), weights[1])
    assert (words(ax.get_yticklabels()), words(ax.get_xticklabels())) == (list("abc"), list("vwxyz"))
    with pytest.raises(InputError, match=r"3 queries over 5 keys: give the keys' tokens too\."):
        plot.attention(weights, list("abc"))


def test_rows_and_types_of_number() -> None:
    """Any row, half precision and tensors with gradients can be drawn; vmax only changes the colours."""
    weights = torch.rand(2, 1, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    ax = plot.attention(weights, row=1, vmax=0.25)
    same(drawn(ax), weights[1, 0])
    assert ax.images[0].get_clim() == (0.0, 0.25)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot.attention(torch.rand(3)), r"The weights have shape \(3,\)"),
        (lambda: plot.attention(torch.rand(1, 2, 0, 0)), r"shape \(1, 2, 0, 0\)"),
        (lambda: plot.attention(torch.rand(2, 3, 3), list("ab")), "2 tokens for 3 positions"),
        (lambda: plot.attention(torch.rand(2, 3, 3), "abc"), "tokens is a str"),
        (lambda: plot.attention(torch.rand(2, 3, 3), head=2), "no head 2 among 2"),
        (lambda: plot.attention(torch.rand(1, 2, 3, 3), row=1), "no row 1 among 1"),
        (lambda: plot.attention(torch.rand(2, 3, 3), layer=0), "layer=0 is given, but"),
        (lambda: plot.attention(torch.rand(3, 3), head=0), "head=0 is given, but"),
        (lambda: plot.attention([["a"]]), "without numbers in it"),
        (lambda: plot.heads(torch.rand(3, 3)), "no heads to draw"),
        (lambda: plot.heads((torch.rand(1, 2, 3, 3),), layer=1), "no layer 1 among 1"),
        (lambda: plot.heads(torch.rand(2, 3, 3), axes=[plt.figure().gca()]), "1 axes are given for 1 × 2 heads"),
        (lambda: plot.attention_over_generation(torch.ones(1, 3), None), "output is a Tensor"),
        (lambda: plot.similarity(torch.rand(3)), r"states have shape \(3,\)"),
        (lambda: plot.similarity(torch.rand(3, 4), layer=1), "of one layer"),
        (lambda: plot.similarity((torch.rand(1, 3, 4),), layer=0, token=1), "not both"),
        (lambda: plot.similarity((torch.rand(1, 3, 4),), token=3), "no token 3 among 3"),
        (lambda: plot.similarity((None, torch.rand(1, 3, 4)), layer=0), r"only of \[1\]"),
        (lambda: plot.similarity((None,)), "output_hidden_states=True"),
        (lambda: plot.next_tokens(torch.rand(()), None), r"logits have shape \(\)"),
        (lambda: plot.next_tokens(torch.rand(5), None, temperature=0), "temperature is 0"),
        (lambda: plot.next_tokens(torch.rand(5), None, k=0), "k is 0"),
        (lambda: plot.next_tokens(torch.full((5,), torch.nan), None), "no softmax"),
        (lambda: plot.next_tokens(torch.rand(1, 4, 5), None, position=4), "no position 4 among 4"),
        (lambda: plot.token_losses(torch.rand(2, 3), list("abc")), r"losses have shape \(2, 3\)"),
        (lambda: plot.token_losses(torch.rand(5), list("abc")), "3 tokens for 5 positions"),
        (lambda: plot.logit_lens(3), "lens is a int"),
        (
            lambda: plot.logit_lens((torch.rand(2, 2), [["a"], ["b"]])),
            r"shape \(2, 2\), and the tokens 2 lines of \[1\]",
        ),
        (lambda: plot.cache_growth(KVCache()), "cache is empty"),
        (lambda: plot.cache_growth(torch.nn.Linear(1, 1)), "Linear has no decoder"),
        (lambda: plot.cache_growth(torch.nn.Linear(1, 1), 0), "tokens is 0"),
        (lambda: plot.cache_growth(torch.nn.Linear(1, 1), window=0), "window is 0"),
        (lambda: plot.cache_growth(torch.nn.Linear(1, 1), batch=0), "batch is 0"),
    ],
)
def test_what_does_not_fit_is_one_sentence(call, message) -> None:
    """Wrong shapes, indices and numbers are named, with what to give, and no empty figure is left."""
    open_before = len(plt.get_fignums())
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
    assert len(plt.get_fignums()) - open_before <= 1


def test_heads_in_a_grid(bert) -> None:
    """A line a layer, a column a head, all with the same scale of colours."""
    tokens, out = bert
    axes = plot.heads(out.attentions, tokens)
    layers, count = len(out.attentions), out.attentions[0].shape[1]
    assert axes.shape == (layers, count)
    for line in range(layers):
        for head in range(count):
            same(drawn(axes[line, head]), out.attentions[line][0, head])
    assert len({ax.images[0].get_clim() for ax in axes.flat}) == 1
    assert axes[1, 0].get_ylabel() == "layer 1"
    assert axes[0, 1].get_title() == "head 1"
    one = plot.heads(out.attentions, tokens, layer=2)
    assert one.shape == (1, count)
    same(drawn(one[0, 3]), out.attentions[2][0, 3])
    figure, given_axes = plt.subplots(2, 2)
    assert plot.heads(torch.rand(4, 3, 3), axes=given_axes)[0, 3].figure is figure


def test_layers_may_have_different_numbers_of_heads() -> None:
    """As when heads were asked for by layer: a place without a head stays empty."""
    axes = plot.heads((torch.rand(1, 1, 3, 3), None, torch.rand(1, 2, 3, 3)))
    assert axes.shape == (2, 2)
    assert not axes[0, 1].images
    assert axes[1, 0].get_ylabel() == "layer 2"


def test_attention_over_a_generation_is_that_of_reading_it_whole(gpt2) -> None:
    """Each new token's row is what the whole text, read at once, has at the place that chose it."""
    model, tokenizer = gpt2
    inputs = tokenizer("She had never been", return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=9, return_dict_in_generate=True, output_attentions=True)
    ax = plot.attention_over_generation(out, tokenizer, layer=2, head=1)
    whole = model(out.sequences[:, :-1], output_attentions=True).attentions[2][0, 1]
    first = inputs.input_ids.shape[1]
    np.testing.assert_allclose(drawn(ax), whole[first - 1 :].detach().numpy(), atol=1e-5)
    text = plot.readable(tokenizer.convert_ids_to_tokens(out.sequences[0]))
    assert words(ax.get_yticklabels()) == text[first:]
    assert words(ax.get_xticklabels()) == text[:-1]


def test_a_generation_without_its_padding(gpt2) -> None:
    """A padded row of a batch is drawn as it is alone: no padding at the left, nothing after the end."""
    model, _ = gpt2
    tokenizer = AutoTokenizer.from_pretrained("glassformer/tiny-gpt2", padding_side="left")
    tokenizer.pad_token = "!"
    settings = {"max_new_tokens": 6, "return_dict_in_generate": True, "output_attentions": True}
    settings["pad_token_id"] = tokenizer.pad_token_id
    alone = model.generate(**tokenizer("She had", return_tensors="pt"), **settings)
    stop = int(alone.sequences[0, 4])
    alone = model.generate(**tokenizer("She had", return_tensors="pt"), **settings, eos_token_id=[0, stop])
    batch = tokenizer(["I will never be so happy again", "She had"], padding=True, return_tensors="pt")
    both = model.generate(**batch, **settings, eos_token_id=[0, stop])
    assert both.sequences.shape[1] > alone.sequences.shape[1] + 2
    one = plot.attention_over_generation(alone, tokenizer, layer=1)
    two = plot.attention_over_generation(both, tokenizer, layer=1, row=1)
    np.testing.assert_allclose(drawn(one), drawn(two), atol=1e-5)
    for axis in ("get_xticklabels", "get_yticklabels"):
        assert words(getattr(one, axis)()) == words(getattr(two, axis)())


def test_cross_attention_over_a_generation() -> None:
    """With the source given, the columns are its tokens; without, those of the decoder; with beams too."""
    name = "glassformer/tiny-t5"
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    ids = tokenizer("donnerstag, 4. märz 2021", return_tensors="pt").input_ids
    settings = {"return_dict_in_generate": True, "output_attentions": True}
    for out in (model.generate(ids, **settings), model.generate(ids, num_beams=2, num_return_sequences=2, **settings)):
        ax = plot.attention_over_generation(out, tokenizer, layer=1, head=0, source=ids)
        same(drawn(ax), out.stitched("cross_attentions")[1][0, 0][: len(ax.get_yticklabels())])
        assert words(ax.get_xticklabels()) == plot.readable(tokenizer.convert_ids_to_tokens(ids[0]))
        assert words(ax.get_yticklabels())[-1] == "</s>"
        own = plot.attention_over_generation(out, tokenizer, layer=1, head=0)
        count = len(own.get_yticklabels())
        same(drawn(own), out.stitched("decoder_attentions")[1][0, 0][:count, :count])
    some = model.generate(ids, return_dict_in_generate=True, output_attentions=[0])
    assert plot.attention_over_generation(some, tokenizer).get_title() == "layer 0, mean of 4 heads"
    with pytest.raises(InputError, match=r"layer 1 were not asked for, only of \[0\]"):
        plot.attention_over_generation(some, tokenizer, layer=1)
    with pytest.raises(InputError, match="source has 2 tokens, but the encoder read"):
        plot.attention_over_generation(out, tokenizer, source=[[1, 2]])


# States


def test_similarity_is_the_cosine(bert) -> None:
    """Of each pair of tokens in a layer, and of one token's states in all layers."""
    tokens, out = bert
    for layer in (0, 2, -1):
        states = out.hidden_states[layer][0]
        expected = torch.nn.functional.cosine_similarity(states[:, None], states[None], dim=-1)
        for ax in (plot.similarity(out.hidden_states, tokens, layer=layer), plot.similarity(states, tokens)):
            np.testing.assert_allclose(drawn(ax), expected.detach().numpy(), atol=1e-5)
            assert words(ax.get_xticklabels()) == plot.readable(tokens)
    moved = torch.stack([states[0, 3] for states in out.hidden_states])
    expected = torch.nn.functional.cosine_similarity(moved[:, None], moved[None], dim=-1)
    ax = plot.similarity(out.hidden_states, tokens, token=3)
    np.testing.assert_allclose(drawn(ax), expected.detach().numpy(), atol=1e-5)
    assert ax.get_title() == f"token 3 “{tokens[3]}”"


def test_a_state_of_zeros_has_no_direction() -> None:
    """Its cosines are not numbers, and the others are."""
    ax = plot.similarity(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]))
    np.testing.assert_allclose(drawn(ax)[::2, ::2], np.eye(2))
    assert np.ma.getmaskarray(ax.images[0].get_array())[1].all()
    rendered(ax)


def test_logit_lens_shows_probabilities_and_tokens() -> None:
    """From an object or a pair, of one text or a row of a batch; the last layer is on top."""
    probabilities = torch.rand(2, 3, 4)
    top = [[[f"t{row}{layer}{at}" for at in range(4)] for layer in range(3)] for row in range(2)]
    for ax in (
        plot.logit_lens(SimpleNamespace(probabilities=probabilities[1], tokens=top[1]), list("abcd")),
        plot.logit_lens((probabilities, top), list("abcd"), row=1),
    ):
        same(drawn(ax), probabilities[1])
        assert words(ax.texts) == [text for line in top[1] for text in line]
        assert ax.get_ylim()[0] < ax.get_ylim()[1]
        assert words(ax.get_xticklabels()) == list("abcd")
        assert words(ax.get_yticklabels()) == ["embedding", "0", "1"]  # as `print(lens)` calls them
    wide = plot.logit_lens((torch.rand(2, 300), [["a"] * 300] * 2), ax=plt.figure(figsize=(5, 2)).gca())
    assert not wide.texts  # no room for letters


# Scores


def test_next_tokens_are_the_softmax(gpt2) -> None:
    """The bars are the greatest probabilities at that temperature, best first, under their tokens."""
    model, tokenizer = gpt2
    logits = model(**tokenizer("She had never been", return_tensors="pt")).logits
    for given_logits in (logits, logits[:, -1], logits[0, -1]):
        ax = plot.next_tokens(given_logits, tokenizer, k=5, temperature=0.7)
        best = (logits[0, -1].double() / 0.7).softmax(-1).topk(5)
        np.testing.assert_allclose([bar.get_width() for bar in ax.patches], best.values.detach().numpy(), rtol=1e-6)
        expected = plot.readable(tokenizer.convert_ids_to_tokens(best.indices.tolist()))
        assert words(ax.get_yticklabels()) == expected
    assert words(ax.texts)[0] == f"{best.values[0]:.1%}"
    forbidden = torch.full((4,), -torch.inf)
    forbidden[2] = 0.0
    ax = plot.next_tokens(forbidden, tokenizer)
    assert [bar.get_width() for bar in ax.patches] == [1.0, 0.0, 0.0, 0.0]


def test_token_losses_as_bars_and_as_text() -> None:
    """Both hold the losses given; the first token of a causal text has none."""
    losses, tokens = torch.tensor([0.5, 3.0]), ["She", "Ġhad", "Ġa"]
    bars = plot.token_losses(losses, tokens)
    assert [bar.get_height() for bar in bars.patches[1:]] == [0.5, 3.0]
    assert np.isnan(bars.patches[0].get_height())
    assert bars.get_title() == f"mean 1.75 nats, perplexity {np.exp(1.75):.3g}"
    text = plot.token_losses(losses, tokens, text=True)
    np.testing.assert_array_equal(np.ma.getmaskarray(text.collections[0].get_array()), [True, False, False])
    np.testing.assert_array_equal(text.collections[0].get_array()[1:], [0.5, 3.0])
    assert words(text.texts) == ["She", "·had", "·a"]
    long = plot.token_losses(torch.rand(200), [f"t{place}" for place in range(200)])
    assert words(long.texts) == [f"t{place}" for place in range(200)]  # a long text is drawn as one, and whole
    assert not plot.token_losses([float("nan")] * 2, ["a", "b"]).get_title().startswith("mean")


# The cache


def llama(**settings):
    sizes = {"hidden_size": 32, "intermediate_size": 8, "vocab_size": 16, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, **settings)).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_formula_is_what_a_cache_holds(dtype) -> None:
    """Bytes a token by the model's shape are those of the keys and values of a real cache, with grouped heads too."""
    model = llama().to(dtype)
    cache = model(torch.randint(16, (2, 7)), use_cache=True).past_key_values
    held = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    assert plot.cache_shape(model, batch=2).bytes_per_token * 7 == held
    assert plot.cache_shape(model).bytes_per_token == 2 * 3 * 2 * 12 * dtype.itemsize


def test_the_line_is_what_the_buffers_take() -> None:
    """After every token, the curve has the bytes of a real cache that has read as many."""
    model = llama()
    ax = plot.cache_growth(model, 140, static=130, quantized=True)
    needed, growing, static, small = ax.lines
    assert ax.get_ylabel() == "KV cache (KiB)"
    cache, fixed, rounded = KVCache(), StaticCache(max_cache_len=130), QuantizedCache()
    with torch.no_grad():
        for count in range(1, 141):
            model(torch.tensor([[3]]), past_key_values=cache, use_cache=True)
            assert growing.get_ydata()[count] * 1024 == cache.nbytes
            model(torch.tensor([[3]]), past_key_values=rounded, use_cache=True)
            assert small.get_ydata()[count] * 1024 == rounded.nbytes
            if count <= 130:
                model(torch.tensor([[3]]), past_key_values=fixed, use_cache=True)
                assert static.get_ydata()[count] * 1024 == fixed.nbytes
    assert len(static.get_xdata()) == 131
    assert needed.get_ydata()[-1] * 1024 == 140 * plot.cache_shape(model).bytes_per_token


def test_windows_stop_growing_and_eight_bits_are_a_quarter() -> None:
    """What a window takes is bounded, and a quantised cache takes a byte a number and two a head."""
    model = llama()
    growing, window, quantized = plot.cache_growth(model, 5000, window=128, quantized=True).lines[1:]
    assert window.get_ydata()[-1] == window.get_ydata()[500] < growing.get_ydata()[-1] / 5
    assert quantized.get_ydata()[-1] / growing.get_ydata()[-1] == pytest.approx((12 + 2) / 48)
    assert growing.get_xdata()[-1] == 5000


def test_a_cache_is_marked_on_its_own_curve(gpt2) -> None:
    """The point is at the tokens and bytes of the cache that was given, on the line of its kind."""
    model, tokenizer = gpt2
    ids = tokenizer("She had never been", return_tensors="pt").input_ids
    for cache, name in ((KVCache(), "growing"), (StaticCache(max_cache_len=40), "static, 40 tokens")):
        with torch.no_grad():
            model(ids, past_key_values=cache, use_cache=True)
        ax = plot.cache_growth(cache, 64)
        _, line, point = ax.lines
        unit = {"KV cache (KiB)": 1024, "KV cache (MiB)": 1024**2}[ax.get_ylabel()]
        assert (line.get_label(), point.get_xdata()[0]) == (name, ids.shape[1])
        assert point.get_ydata()[0] * unit == cache.nbytes
        assert line.get_ydata()[ids.shape[1]] == point.get_ydata()[0]


# Manners


def pictures(tokens: list[str], ax: Axes | None = None) -> list[Axes]:
    """One of every picture that is labelled with tokens."""
    count = len(tokens)
    tokenizer = SimpleNamespace(convert_ids_to_tokens=lambda ids: [tokens[one] for one in ids])
    return [
        plot.attention(torch.rand(count, count), tokens, ax=ax),
        plot.heads(torch.rand(1, count, count), tokens, axes=None if ax is None else [ax])[0, 0],
        plot.similarity(torch.rand(1, count, 4), tokens, ax=ax),
        plot.similarity((torch.rand(1, count, 4),) * 2, tokens, token=0, ax=ax),
        plot.logit_lens((torch.rand(2, count), [tokens, tokens]), tokens, ax=ax),
        plot.next_tokens(torch.rand(count), tokenizer, ax=ax),
        plot.token_losses(torch.rand(count), tokens, text=False, ax=ax),
        plot.token_losses(torch.rand(count), tokens, text=True, ax=ax),
    ]


@pytest.mark.filterwarnings("error")
def test_hostile_tokens_are_drawn_as_they_are(capsys) -> None:
    """Formulas, line ends, markup, lone surrogates and letters without a font: no failure, no warning, no output."""
    for ax in pictures(HOSTILE):
        rendered(ax)
        texts = [*ax.get_xticklabels(), *ax.get_yticklabels()]
        assert not any("$" in text.get_text() and text.get_parse_math() for text in texts)
    labels = words(pictures(HOSTILE)[0].get_xticklabels())
    assert labels[:4] == ["$x_{", "↵", "<script>", "∅"]
    assert labels[8] == "a" * 13 + "…"
    assert capsys.readouterr() == ("", "")


def test_axes_given_are_drawn_on_and_no_other_figure_is_made() -> None:
    """The axes that come back are those that were given, and the user's figures stay open."""
    figure, ax = plt.subplots()
    assert all(one is ax for one in pictures(list("abc"), ax))
    assert plot.cache_growth(llama(), 64, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


def test_a_new_figure_is_pyplots() -> None:
    """So that notebooks show it, and `plt.savefig` and `plt.close` find it."""
    assert plot.attention(torch.rand(3, 3)).figure is plt.gcf()


@pytest.mark.parametrize("count", [3, 30, 200, 1000])
def test_labels_are_thinned_to_what_has_room(count) -> None:
    """Every token of a short text is named, and of a long one so many that none overlap."""
    tokens = [f"tok{place}" for place in range(count)]
    ax = plot.attention(torch.rand(count, count), tokens)
    rendered(ax)
    for ticks, at, low in (
        (ax.get_xticklabels(), ax.get_xticks(), "x0"),
        (ax.get_yticklabels(), ax.get_yticks(), "y0"),
    ):
        places = [getattr(tick.get_window_extent(), low) for tick in ticks]
        heights = min(min(tick.get_window_extent().width, tick.get_window_extent().height) for tick in ticks)
        assert np.abs(np.diff(places)).min() >= 0.9 * heights
        assert len(ticks) == count if count <= 30 else 40 < len(ticks) < 100
        assert all(tick.get_text() == tokens[round(place)] for tick, place in zip(ticks, at))


def test_without_matplotlib_the_way_out_is_named(monkeypatch) -> None:
    """A sentence with the command, as an error of this library."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(GlassformerError, match=r"pip install 'glassformer\[plot\]'"):
        plot.attention(torch.rand(3, 3))


def test_matplotlib_is_loaded_by_the_first_picture_only() -> None:
    """Importing the module costs nothing of it, so that `readable` works without."""
    code = "import sys; from glassformer.glassbox import plot; plot.readable(['a']); print('matplotlib' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
