"""The small operations in native code against float64: odd widths, strides, extremes; nothing is read past an end."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from glassformer.kernels import native
from glassformer.structure.positions import rotate

from .programs import caches, each_isa, guarded, needs_library, op, run, spaced
from .test_pack import pack, unpack

pytestmark = needs_library

seeds = st.integers(0, 2**32 - 1)
widths = st.one_of(st.integers(1, 70), st.sampled_from([128, 255, 768, 1001]))
rows = st.integers(1, 7)
gaps = st.integers(0, 19)
threads = st.integers(1, 3)
many = settings(max_examples=40, deadline=None)


def bf16(values):
    """The 16 upper bits of fp32 numbers, and the numbers that they stand for."""
    upper = (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return upper, (upper.astype(np.uint32) << 16).view(np.float32)


@each_isa
@many
@given(
    *(seeds, rows, widths, gaps, threads),
    st.sampled_from(["f32", "bf16", "f32_panel", "bf16_panel", "q8_panel", "q4_panel"]),
    *(st.booleans(), st.booleans(), st.booleans()),
)
def test_embed(isa, seed, rows, width, gap, threads, form, types, positions, given_vectors):
    """Token, type and position vectors are added, tokens from a table of any format, or vectors in their place."""
    rng = np.random.default_rng(seed)
    tables = [rng.standard_normal((count, width)).astype(np.float32) for count in (20, 2, 6)]
    stored = [guarded(table) for table in tables]
    if form == "bf16":
        upper, tables[0] = bf16(tables[0])
        stored[0] = guarded(upper, np.uint16)
    elif form != "f32":
        stored[0] = pack(form, tables[0])
        tables[0] = unpack(form, stored[0], 20, width)
    ids, type_ids = rng.integers(0, 20, rows), rng.integers(0, 2, rows)
    position_ids = rng.integers(0, 4, rows)
    x_buffer, x = spaced(rng, rows, width, width + gap)
    buffer, out = spaced(rng, rows, width, width + gap)
    before = buffer.copy()
    fields = {
        "weight": stored[0],
        "ld": width,
        "x": x_buffer,
        "x_stride": width + gap,
        "out": buffer,
        "out_stride": width + gap,
    }
    fields |= {"types": stored[1]} if types else {}
    fields |= {"positions": stored[2], "offset": 2} if positions else {}
    embed = op("embed", format=native.FORMATS[form], outputs=width, scale=1.5, **fields)
    arrays = {"type_ids": type_ids, "position_ids": position_ids} | ({} if given_vectors else {"ids": ids})
    assert run([embed], isa, threads, tokens=rows, **arrays) == 0
    expected = x if given_vectors else tables[0][ids] * np.float32(1.5)
    expected = expected + tables[1][type_ids] if types else expected
    expected = expected + tables[2][position_ids + 2] if positions else expected
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)
    untouched = np.ones(buffer.size, bool)
    for row in range(rows):
        untouched[row * (width + gap) : row * (width + gap) + width] = False
    np.testing.assert_array_equal(buffer[untouched], before[untouched])


@each_isa
@many
@given(seeds, rows, widths, gaps, threads, st.sampled_from([0.0, 100.0, -3e4]), st.sampled_from([1e-6, 1.0, 1e12]))
def test_norms(isa, seed, rows, width, gap, threads, mean, size):
    """LayerNorm and RMSNorm, also where the mean is large beside the spread, and where numbers are large."""
    rng = np.random.default_rng(seed)
    buffer, x = spaced(rng, rows, width, width + gap)
    x *= np.float32(size)
    x += np.float32(mean)
    weight, bias = (guarded(rng.standard_normal(width)) for _ in "wb")
    exact = x.astype(np.float64)
    spread = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
    root = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-5)
    # The mean itself is known to half a unit in the last place only.
    lost = 2e-7 * (abs(exact).max() / math.sqrt(exact.var(-1).min() + 1e-5))
    for kind, expected, room in (("layer_norm", spread, lost), ("rms_norm", root, 0.0)):
        for w, b in ((weight, bias), (weight, None), (None, None)):
            out_buffer, out = spaced(rng, rows, width, width + gap)
            fields = {} if w is None else {"weight": w}
            fields |= {"bias": b} if b is not None and kind == "layer_norm" else {}
            norm = op(kind, x=buffer, out=out_buffer, x_stride=width + gap, out_stride=width + gap, inputs=width,
                      outputs=width, eps=1e-5, **fields)  # fmt: skip
            assert run([norm], isa, threads, tokens=rows) == 0
            wanted = expected * (1.0 if w is None else w) + (b if "bias" in fields else 0.0)
            np.testing.assert_allclose(out, wanted, rtol=3e-6, atol=3e-6 + 5 * room)


def nearest_bf16(values):
    """fp32 numbers rounded as torch rounds them."""
    return torch.tensor(values).bfloat16().float().numpy()


special = st.sampled_from([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 3.4e38, 1e-45, -1.5])


@each_isa
@many
@given(seeds, rows, widths, gaps, threads, st.sampled_from(["f32", "bf16"]), st.lists(special, max_size=3))
def test_scale(isa, seed, rows, width, gap, threads, numbers, odd):
    """Rows times a factor, to the nearest bf16 where asked for; what lies between rows stays."""
    rng = np.random.default_rng(seed)
    buffer, x = spaced(rng, rows, width, width + gap)
    for value in odd:
        x[rng.integers(rows), rng.integers(width)] = value
    before, expected = buffer.copy(), x * np.float32(0.3)
    scale = op("scale", x=buffer, out=buffer, x_stride=width + gap, out_stride=width + gap, inputs=width,
               outputs=width, scale=0.3, format=native.FORMATS[numbers])  # fmt: skip
    assert run([scale], isa, threads, tokens=rows) == 0
    np.testing.assert_array_equal(x, nearest_bf16(expected) if numbers == "bf16" else expected)
    for row in range(rows - 1):
        between = slice(row * (width + gap) + width, (row + 1) * (width + gap))
        np.testing.assert_array_equal(buffer[between], before[between])


@each_isa
@many
@given(
    *(seeds, rows, st.one_of(widths, st.sampled_from([129, 640, 5003])), gaps, threads),
    *(st.sampled_from(["f32", "bf16"]), st.integers(0, 3), st.lists(special, max_size=3)),
)
def test_choose(isa, seed, rows, width, gap, threads, numbers, digits, odd):
    """The first of the largest, also of extremes and NaN, and in bf16 of what rounding makes equal."""
    rng = np.random.default_rng(seed)
    buffer, x = spaced(rng, rows, width, width + gap)
    x[...] = x.round(digits) - np.float32(rng.integers(0, 2) * 100)
    for value in odd:
        x[rng.integers(rows), rng.integers(width)] = value
    seen = nearest_bf16(x) if numbers == "bf16" else x
    choose = op("choose", x=buffer, x_stride=width + gap, inputs=width, format=native.FORMATS[numbers])
    chosen = guarded(np.full(rows, -1), np.int64)
    assert run([choose], isa, threads, tokens=rows, chosen=chosen.ctypes.data) == 0
    np.testing.assert_array_equal(chosen, seen.argmax(axis=-1))


@each_isa
@many
@given(seeds, rows, st.integers(1, 4), st.sampled_from([2, 8, 10, 64, 80, 128]), st.booleans(), gaps, threads)
def test_rotary(isa, seed, rows, heads, head_dim, partial, gap, threads):
    """Heads are turned in place as the structure's `rotate` does; what does not turn, and what lies between, stays."""
    rng = np.random.default_rng(seed)
    stride, turning = heads * head_dim + gap, max(2, head_dim // 4 * 2) if partial else head_dim
    buffer, x = spaced(rng, rows, heads * head_dim, stride)
    angles = rng.standard_normal((rows, turning // 2)) * 100
    cos, sin = (guarded(np.tile(f(angles), 2)) for f in (np.cos, np.sin))
    before = buffer.copy()
    heads_first = torch.tensor(x.reshape(rows, heads, head_dim)).double().transpose(0, 1)[None]
    turned = rotate(heads_first, (torch.tensor(cos).double()[None], torch.tensor(sin).double()[None]))
    rotary = op("rotary", x=buffer, x_stride=stride, heads=heads, head_dim=head_dim, cos=cos, sin=sin, rotary=turning)
    assert run([rotary], isa, threads, tokens=rows) == 0
    np.testing.assert_allclose(x, turned[0].transpose(0, 1).reshape(rows, -1).numpy(), rtol=1e-6, atol=1e-6)
    for row in range(rows - 1):
        between = slice(row * stride + heads * head_dim, (row + 1) * stride)
        np.testing.assert_array_equal(buffer[between], before[between])


@each_isa
@many
@given(seeds, st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 70), gaps, threads)
def test_store(isa, seed, lengths, heads, head_dim, gap, threads):
    """Each token's keys or values go to its place in its text's row of the cache or memory, and nowhere else."""
    rng = np.random.default_rng(seed)
    starts = [0, *np.cumsum(lengths)]
    rows, before = rng.permutation(len(lengths) + 1)[:-1], int(rng.integers(0, 3))
    buffer, x = spaced(rng, starts[-1], heads * head_dim, heads * head_dim + gap)
    places = np.concatenate([rng.permutation(8)[:length] for length in lengths])
    for layer, where in ((1, "cache"), (1000, "memory")):
        shape = (len(lengths) + 1, heads, 8, head_dim)
        held = [[guarded(rng.standard_normal(shape)) for _ in "kv"] for _ in range(2)]
        expected = [[part.copy() for part in pair] for pair in held]
        for value in (0, 1):
            for text, start in enumerate(starts[:-1]):
                for token in range(start, starts[text + 1]):
                    row = x[token].reshape(heads, head_dim)
                    expected[layer % 1000][value][rows[text], :, places[token]] = row
        ops = [
            op("store", x=buffer, x_stride=heads * head_dim + gap, heads=heads, head_dim=head_dim, layer=layer,
               value=value, sync=False)
            for value in (0, 1)
        ]  # fmt: skip
        given = {where: caches(*held), "rows" if where == "cache" else "memory_rows": rows}
        if where == "cache":  # which begins with the place behind a prefix
            given |= {"prefix_keys": before, "places": places + before}
        assert run(ops, isa, threads, starts=starts, **{"places": places, **given}) == 0
        for got, wanted in zip(held, expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


EXACT = {
    "relu": F.relu,
    "gelu": lambda x: x * torch.special.ndtr(x),
    "gelu_tanh": lambda x: x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu2": lambda x: F.relu(x).square(),
}
PYTORCH = {**EXACT, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}


def activated(values, activation, isa):
    """The activations of numbers, by a product with the number 1."""
    x, out = guarded(values), guarded(np.empty((len(values), 1)))
    one = op("linear", activation=native.ACTIVATIONS[activation], inputs=1, outputs=1, ld=1, x=x, out=out, x_stride=1,
             out_stride=1, weight=guarded([[1.0]]), scale=1.0)  # fmt: skip
    assert run([one], isa, tokens=len(values)) == 0
    return out[:, 0]


@each_isa
@pytest.mark.parametrize("activation", EXACT)
def test_activations(isa, activation):
    """Within 1e-6 of the exact function, in the tails too, and of PyTorch's fp32; limits at infinity; NaN stays."""
    x = np.concatenate([np.linspace(-12, 12, 20001), np.geomspace(1e-30, 80, 4001), -np.geomspace(1e-30, 80, 4001)])
    x = x.astype(np.float32)
    got = activated(x, activation, isa)
    exact = EXACT[activation](torch.tensor(x).double()).numpy()
    # Far out, a rounding of the exponent is a hundred times one of the result.
    np.testing.assert_allclose(got, exact, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(got, PYTORCH[activation](torch.tensor(x)).numpy(), rtol=1e-6, atol=1e-6)
    extremes = np.array([np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 1e-45, -1e-45, 0.0, -0.0, 88.0, -88.0], np.float32)
    limits = EXACT[activation](torch.tensor(extremes).double()).numpy()
    limits[1] = {"tanh": -1.0}.get(activation, 0.0)  # at minus infinity, where the formulas say infinity times zero
    with np.errstate(over="ignore"):
        limits = limits.astype(np.float32)
    if activation == "gelu_tanh":
        limits[4] = 0.0
    np.testing.assert_allclose(activated(extremes, activation, isa), limits, rtol=1e-6, atol=1e-9)
