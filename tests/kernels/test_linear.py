"""LINEAR in every format and instruction set, against float64, in memory that ends where it says."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassformer.kernels import native

from .programs import ISAS, LIBRARY, each_isa, guarded, needs_library, op, pointer, run, spaced
from .test_pack import of_bf16, to_bf16

pytestmark = needs_library
FORMATS = list(native.FORMATS)
BYTES = ("q8_panel", "q4_panel")
erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x):
    return np.where(x >= 0, 1, np.exp(-np.abs(x))) / (1 + np.exp(-np.abs(x)))


REFERENCE = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * 0.5 * (1 + erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * sigmoid(x),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
}


def packed(weight, format, threads=1):
    """A matrix (outputs, inputs) as the kernels take it, the row length, and the numbers that it stands for."""
    outputs, inputs = weight.shape
    if not format.endswith("panel"):
        meant = of_bf16(to_bf16(weight)) if format.startswith("bf16") else weight
        matrix = meant.T if format.endswith("_t") else meant
        gap = 5 if format.endswith("_t") else 3
        buffer = np.full((len(matrix), matrix.shape[1] + gap), np.nan, np.float32)
        buffer[:, :-gap] = matrix
        numbers = buffer.ravel()[: buffer.size - gap]
        halves = (numbers.view(np.uint32) >> 16).astype(np.uint16)
        return guarded(halves, np.uint16) if format.startswith("bf16") else guarded(numbers), buffer.shape[1], meant
    code = native.FORMATS[format]
    memory = guarded(np.zeros(LIBRARY.gf_packed_bytes(code, outputs, inputs), np.uint8), np.uint8)
    assert memory.size
    source = guarded(weight)
    assert LIBRARY.gf_pack(code, outputs, inputs, pointer(source), 0, inputs, 1, pointer(memory), threads) == 0
    meant = np.empty((outputs, inputs), np.float32)
    assert LIBRARY.gf_unpack(code, outputs, inputs, pointer(memory), pointer(meant)) == 0
    return memory, 0, meant


def rounded(groups, isa, format):
    """Groups of 32 to whole numbers of their scale, the largest to 127.

    With AVX2 some share what 16 bits hold: of weights of 8 bits neighbours of one sign the 127 steps, of 4 bits a
    group's even pairs, or its odd ones, what 32 of a weight leaves them.
    """
    half = groups * np.float32(0.5)
    if isa == "avx2" and format == "q8_panel":
        half = np.concatenate([half, half[..., 0::2] + half[..., 1::2]], -1)
    elif isa == "avx2":
        size = np.abs(half)
        lanes = (size[..., :8] + size[..., 8:16] + size[..., 16:24] + size[..., 24:]) * np.float32(127 / 1015)
        pairs = lanes[..., 0::2] + lanes[..., 1::2]
        half = np.concatenate([half, pairs[..., :2] + pairs[..., 2:]], -1)
    scale = np.abs(half).max(-1, keepdims=True) * np.float32(2 / 127)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inverse = np.where(scale >= 1.1754944e-38, np.float32(1) / scale, np.float32(0))
        return np.rint(groups * inverse) * scale.astype(np.float64), 127 * scale[..., 0]


def quantised(x, isa, format):
    """Activations as the kernels quantise them: where one great number leaves the others no digits, in two layers."""
    wide = np.zeros((len(x), -(-x.shape[1] // 32) * 32), np.float32)
    wide[:, : x.shape[1]] = x
    groups = wide.reshape(len(x), -1, 32)
    first, size = rounded(groups, isa, format)
    left = groups - first
    coarse = np.abs(left).sum(-1) > 0.0625 * (np.abs(groups).sum(-1) - size)
    second = np.where(coarse[..., None], rounded(left.astype(np.float32), isa, format)[0], 0)
    return (first + second).reshape(wide.shape)[:, : x.shape[1]]


def product(x, meant, format, isa):
    x = quantised(x, isa, format) if format in BYTES else x
    return x.astype(np.float64) @ meant.T.astype(np.float64)


def linear(isa, x, weight, format="f32", threads=1, bias=None, gate=None, out=None, stride=0, **fields):
    """The kernel's result (rows, outputs), and the numbers that its weights stand for."""
    rows, inputs = x.shape
    outputs = len(weight)
    matrix, ld, meant = packed(weight, format, threads)
    stride = stride or outputs
    result = guarded(np.full(max(rows * stride - (stride - outputs), 0), 7.0))
    view = np.lib.stride_tricks.as_strided(result, (rows, outputs), (stride * 4, 4))
    if out is not None:
        view[...] = out
    fields.setdefault("scale", 1.0)
    made = op(
        "linear", format=native.FORMATS[format], inputs=inputs, outputs=outputs, ld=ld, x=x,
        x_stride=x.strides[0] // 4, out=result, out_stride=stride, weight=matrix, bias=bias, gate=gate,
        gate_stride=0 if gate is None else gate.strides[0] // 4, **fields,
    )  # fmt: skip
    assert run([made], isa, threads, tokens=rows) == 0
    gaps = np.ones(result.shape, bool)
    np.lib.stride_tricks.as_strided(gaps, (rows, outputs), (stride, 1))[...] = False
    assert (result[gaps] == 7.0).all(), "wrote between rows"
    return view, meant


def close(found, wanted, size, tolerance=2e-6):
    """Within a few roundings of the sum of the sizes of what was added."""
    np.testing.assert_array_less(np.abs(found - wanted), tolerance * size + 1e-30)


def check_plain(isa, format, rows, inputs, outputs, threads):
    """A product of normal numbers, with nothing done to it, is that of float64."""
    rng = np.random.default_rng(rows)
    x = guarded(rng.standard_normal((rows, inputs)))
    weight = rng.standard_normal((outputs, inputs)).astype(np.float32)
    found, meant = linear(isa, x, weight, format, threads=threads)
    close(found, product(x, meant, format, isa), np.abs(x) @ np.abs(meant).T)


def check_any(draw, isa, format, rows, inputs, outputs, multiply):
    """A product with whatever strides, threads, activation, gate and sum are drawn is that of float64."""
    activation = draw(st.sampled_from(list(REFERENCE)))
    scale = draw(st.sampled_from([1.0, 0.125, -3.0]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    _, x = spaced(rng, rows, inputs, inputs + draw(st.integers(0, 5)))
    weight = rng.standard_normal((outputs, inputs)).astype(np.float32) / np.float32(np.sqrt(inputs))
    bias = guarded(rng.standard_normal(outputs)) if draw(st.booleans()) else None
    gate = spaced(rng, rows, outputs, outputs + draw(st.integers(0, 3)))[1] if draw(st.booleans()) else None
    out = rng.standard_normal((rows, outputs)).astype(np.float32) if draw(st.booleans()) else None
    found, meant = linear(
        isa, x, weight, format, threads=draw(st.integers(1, 5)), bias=bias, gate=gate, out=out,
        stride=outputs + draw(st.integers(0, 4)), scale=scale, activation=native.ACTIVATIONS[activation],
        accumulate=out is not None,
    )  # fmt: skip
    before = multiply(x, meant, format) * scale + (0 if bias is None else bias.astype(np.float64))
    wanted = REFERENCE[activation](before) * (1 if gate is None else gate.astype(np.float64))
    wanted = wanted + (0 if out is None else out.astype(np.float64))
    slope = np.maximum(2 * np.abs(before), 2) if activation == "relu2" else 2
    size = 1 + (np.abs(x).astype(np.float64) @ np.abs(meant).T + 1) * abs(scale) * slope * (
        1 if gate is None else np.abs(gate)
    )
    close(found, wanted, size + np.abs(wanted))


@each_isa
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_size(isa, data):
    """Odd sizes, strides, threads, activations, gates and sums in every format; no byte beyond an end is touched."""
    draw = data.draw
    format = draw(st.sampled_from(FORMATS))
    rows = draw(st.integers(1, 70))
    inputs = draw(st.one_of(st.integers(1, 70), st.sampled_from([96, 511, 512, 530, 1100, 4100])))
    outputs = draw(st.one_of(st.integers(1, 90), st.just(150)))
    check_any(draw, isa, format, rows, inputs, outputs, partial(product, isa=isa))


@each_isa
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 25, 35, 49, 64, 150])
def test_rows(isa, format, rows):
    """Every number of rows takes the way that it is meant to take, with two blocks of inputs and several threads."""
    check_plain(isa, format, rows, 600, 70, threads=3)


@each_isa
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows", [1, 2, 7, 30])
def test_inputs_beyond_a_cache(isa, format, rows):
    """Rows so long that they are taken in pieces, of which the last is odd, add up to the whole."""
    check_plain(isa, format, rows, 70_003, 53, threads=2)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows", [1, 8, 40])
def test_instruction_sets_agree(format, rows):
    """Within rounding of each other, beside what activations lose in as many bits as each has for them."""
    rng = np.random.default_rng(3)
    x = guarded(rng.standard_normal((rows, 230)))
    weight = rng.standard_normal((50, 230)).astype(np.float32)
    memory = None
    for isa in ISAS:
        found, meant = linear(isa, x, weight, format)
        if format in BYTES:  # a scale of 4 bits may differ in its last place, too: each is compared with its own
            found = found - product(x, meant, format, isa)
        memory = found if memory is None else memory
        close(found, memory, np.abs(x) @ np.abs(weight).T + 1)


@each_isa
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows", [1, 3, 20, 33])
def test_extreme_numbers(isa, format, rows):
    """Great and tiny numbers keep their range, and what is no number stays in its own row or output."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((rows, 75)).astype(np.float32)
    weight = rng.standard_normal((35, 75)).astype(np.float32)
    weight[1] *= np.float32(1e30)
    weight[2] *= np.float32(1e-30)
    weight[3] = 0
    weight[4] = 1e-42
    weight[5, 3] = np.nan
    x[0] *= np.float32(1e-3)
    if rows > 3:
        x[4] = 0
        x[5, 3] = np.inf
        x[6, 70] = np.nan
        x[7] = 1e-30 if format in BYTES else 1e-42  # smaller than any scale of bytes would be nothing
    x = guarded(x)
    with np.errstate(all="ignore"):
        found, meant = linear(isa, x, weight, format)
        plain = x.astype(np.float64) @ meant.T.astype(np.float64)
    broken = [5, 6] if rows > 3 else []
    assert np.isnan(found[:, 5]).all()
    for row in broken:
        assert not np.isfinite(found[row][[0, 1, 6, 34]]).any()
    rest = np.ix_([r for r in range(rows) if r not in broken], [o for o in range(35) if o != 5])
    assert np.isfinite(found[rest]).all()
    rounding = 0.012 if format in BYTES else 2e-6
    x, plain = np.nan_to_num(x, posinf=0), np.nan_to_num(plain)
    meant = np.nan_to_num(meant)
    size = np.linalg.norm(x.astype(np.float64), axis=1)[:, None] * np.linalg.norm(meant.astype(np.float64), axis=1)
    close(found[rest], plain[rest], size[rest], rounding)


@each_isa
@pytest.mark.parametrize("format", BYTES)
@pytest.mark.parametrize("rows", [1, 24])
@pytest.mark.parametrize(("at_x", "at_weight"), [(1, 1), (1000, 1), (1, 1000), (1000, 0.001)])
def test_outlier_channel(isa, format, rows, at_x, at_weight):
    """One input a thousand times larger than the others in the activations, in the weights, or the first against the
    second, where all others count as much: the error stays what it is without it, or that of the weights alone."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((rows, 256)).astype(np.float32)
    weight = rng.standard_normal((64, 256)).astype(np.float32)
    x[:, 7] *= at_x
    weight[:, 7] *= at_weight
    x = guarded(x)
    found, meant = linear(isa, x, weight, format)
    exact = x.astype(np.float64) @ meant.T.astype(np.float64)
    assert np.sqrt(np.square(found - exact).mean() / np.square(exact).mean()) < 0.012
    if at_weight >= 1:
        wanted = x.astype(np.float64) @ weight.T.astype(np.float64)
        limit = 0.011 if format == "q8_panel" else 0.085
        assert np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()) < limit


@each_isa
@pytest.mark.parametrize("format", BYTES)
def test_great_numbers_cost_others_no_digits(isa, format):
    """The same weights with and without the outlier's own column: what the others add is as exact as ever."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((9, 320)).astype(np.float32)
    x[:4, 7], x[2, 300], x[3, 301] = 1000, -500, 300
    weight = rng.standard_normal((32, 320)).astype(np.float32)
    weight[:, [7, 300, 301]] = 0
    found, meant = linear(isa, guarded(x), weight, format)
    exact = x.astype(np.float64) @ meant.T.astype(np.float64)
    error = np.sqrt(np.square(found - exact).mean(1) / np.square(exact).mean(1))
    assert (error < 0.012).all()


@each_isa
@pytest.mark.parametrize("format", FORMATS)
def test_a_row_is_the_same_in_any_batch(isa, format):
    """A batch's rows are each what they are alone, within rounding; for bytes too, as a row has its own scales."""
    rng = np.random.default_rng(6)
    x = guarded(rng.standard_normal((37, 200)) * 10.0 ** rng.integers(-3, 4, (37, 1)))
    weight = rng.standard_normal((40, 200)).astype(np.float32)
    together, meant = linear(isa, x, weight, format, threads=2)
    for row in (0, 17, 36):
        alone, _ = linear(isa, guarded(x[row : row + 1]), weight, format)
        close(together[row], alone[0], np.abs(x[row]) @ np.abs(meant).T)


@each_isa
@pytest.mark.parametrize("format", BYTES)
@pytest.mark.parametrize("rows", [1, 9])
def test_sums_that_fill_their_bits(isa, format, rows):
    """Activations of one size, and weights of the greatest, of one sign, of the other, and alike or unlike in pairs."""
    signs = np.stack([np.ones(128), np.tile([1, -1], 64), np.tile([1, 1, -1, -1], 32), np.tile([1, -1, -1, 1], 32)])
    x = guarded(np.repeat(signs * 0.7, rows, 0))
    weight = np.concatenate([signs, -signs]).astype(np.float32)
    found, meant = linear(isa, x, weight, format)
    close(found, product(x, meant, format, isa), np.abs(x) @ np.abs(meant).T)
    np.testing.assert_allclose(found, x @ meant.T, atol=0.008 * 0.7 * 128)


@each_isa
@pytest.mark.parametrize("format", BYTES)
@pytest.mark.parametrize(("rows", "threads"), [(1, 1), (5, 2), (40, 2)])
def test_products_of_one_x(isa, format, rows, threads):
    """Products in a row of the same activations, which are quantised once, and after these changed."""
    rng = np.random.default_rng(11)
    x = guarded(rng.standard_normal((rows, 96)))
    weights = [rng.standard_normal((48, 96)).astype(np.float32) for _ in range(3)]
    alone = [linear(isa, guarded(x * size), w, format)[0] for size, w in zip((1, 1, 2), weights, strict=True)]
    outs = [guarded(np.zeros((rows, 48))) for _ in weights]
    shape = {"inputs": 96, "outputs": 48, "x_stride": 96, "out_stride": 48, "format": native.FORMATS[format]}
    products = [
        op("linear", x=x, out=out, weight=packed(w, format, 1)[0], **shape)
        for out, w in zip(outs, weights, strict=True)
    ]
    doubled = op("scale", x=x, out=x, inputs=96, outputs=96, x_stride=96, out_stride=96, scale=2.0)
    assert run([*products[:2], doubled, products[2]], isa, threads, tokens=rows) == 0
    np.testing.assert_array_equal(outs, alone)


def test_a_scale_of_zero_means_none():
    """What an operation does not use is zero."""
    x = guarded(np.ones((2, 8)))
    found, _ = linear(ISAS[-1], x, np.ones((3, 8), np.float32), scale=0.0)
    np.testing.assert_array_equal(found, 8)
