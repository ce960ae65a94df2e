"""Many rows on AMX against float64: fp32 keeps its digits, bf16 and bytes are products of numbers rounded to bf16."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassformer.kernels import native

from .programs import guarded, has
from .test_linear import check_any, close, linear

pytestmark = pytest.mark.skipif(not has("amx"), reason="this processor, system or compiler has no AMX")
FP32 = [name for name in native.FORMATS if name.startswith("f32")]
FORMATS = list(native.FORMATS)
MANY = 96  # from so many rows on, every format goes this way


def to_bf16(numbers):
    return torch.tensor(np.asarray(numbers, np.float32)).bfloat16().double().numpy()


def product(x, meant, format):
    x, meant = (x, meant) if format in FP32 else (to_bf16(x), to_bf16(meant))
    return x.astype(np.float64) @ meant.T.astype(np.float64)


def error(found, wanted):
    return np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean())


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_size(data):
    """Odd sizes, strides, threads, activations, gates and sums in every format; no byte beyond an end is touched."""
    draw = data.draw
    format = draw(st.sampled_from(FORMATS))
    rows = draw(st.integers(MANY, 170))
    inputs = draw(st.one_of(st.integers(1, 70), st.sampled_from([383, 384, 385, 530, 1153, 1200])))
    outputs = draw(st.one_of(st.integers(1, 90), st.sampled_from([511, 530])))
    check_any(draw, "amx", format, rows, inputs, outputs, product)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows", [MANY, 97, 127, 128, 129, 150])
@pytest.mark.parametrize("threads", [1, 4])
def test_rows(format, rows, threads):
    """Whole tiles of rows and parts of one, several blocks of inputs and outputs, any threads."""
    rng = np.random.default_rng(rows)
    x = guarded(rng.standard_normal((rows, 1500)))
    weight = rng.standard_normal((1000, 1500)).astype(np.float32)
    found, meant = linear("amx", x, weight, format, threads=threads)
    close(found, product(x, meant, format), np.abs(x) @ np.abs(meant).T)


@pytest.mark.parametrize("format", FP32)
@pytest.mark.parametrize("inputs", [64, 768, 3072])
@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_fp32_keeps_its_digits(format, inputs, mean):
    """No further from float64 than fp32's own instructions are, and PyTorch; also where all numbers have one sign."""
    rng = np.random.default_rng(inputs)
    x = guarded(rng.standard_normal((MANY, inputs)) + mean)
    weight = (rng.standard_normal((160, inputs)) + mean).astype(np.float32)
    wanted = x.astype(np.float64) @ weight.T.astype(np.float64)
    found, _ = linear("amx", x, weight, format)
    fused, _ = linear("avx512", x, weight, format)
    torchs = torch.nn.functional.linear(torch.tensor(x), torch.tensor(weight)).numpy()
    assert 0 < error(found, wanted) < 1.5 * max(error(fused, wanted), error(torchs, wanted))
    assert np.abs(found - wanted).max() < 1.5 * max(np.abs(fused - wanted).max(), np.abs(torchs - wanted).max())


@pytest.mark.parametrize("format", ["bf16_panel", "q8_panel", "q4_panel"])
def test_narrow_formats_lose_no_more_than_before(format):
    """Against the weights that were packed, activations being rounded to bf16 costs less than to bytes."""
    rng = np.random.default_rng(2)
    x = guarded(rng.standard_normal((MANY, 768)) * 10.0 ** rng.integers(-2, 3, (MANY, 1)))
    weight = rng.standard_normal((96, 768)).astype(np.float32)
    found, meant = linear("amx", x, weight, format)
    exact = x.astype(np.float64) @ meant.T.astype(np.float64)
    assert error(found, exact) < 0.004
    if format != "bf16_panel":
        assert error(found, exact) < error(linear("avx512", x, weight, format)[0], exact)


@pytest.mark.parametrize("format", FP32)
@pytest.mark.parametrize("side", ["x", "weight"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3.4e38, 1e30, 1e-30, 1e-36, 1e-42])
@pytest.mark.parametrize("spread", ["one", "all"])
def test_numbers_that_do_not_split(format, side, value, spread):
    """What three bf16 numbers cannot hold is left to fp32's own instructions, and nothing else changes."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal((102, 1200)).astype(np.float32)
    weight = rng.standard_normal((600, 1200)).astype(np.float32)
    odd = x if side == "x" else weight
    if spread == "one":
        odd[33, 1190] = value
    else:
        odd[:, :] = np.sign(odd) * np.float32(value)
    x = guarded(x)
    out = rng.standard_normal((102, 600)).astype(np.float32)
    with np.errstate(all="ignore"):
        found, _ = linear("amx", x, weight, format, threads=2, out=out, accumulate=True)
        wanted, _ = linear("avx512", x, weight, format, threads=2, out=out, accumulate=True)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    np.testing.assert_array_equal(np.isposinf(found), np.isposinf(wanted))
    finite = np.isfinite(wanted)
    size = np.abs(x).astype(np.float64) @ np.abs(weight.astype(np.float64)).T + np.abs(out)
    close(found[finite], wanted[finite], size[finite])
    if spread == "all" and 1e-38 < value < 1:  # alone, as what was there would hide them
        found, _ = linear("amx", x, weight, format)
        exact = x.astype(np.float64) @ weight.T.astype(np.float64)
        assert error(found, exact) < 2e-6


def test_a_child_may_use_tiles():
    """What the system grants to a process holds for its children, whose threads are new."""
    rng = np.random.default_rng(9)
    x, weight = guarded(rng.standard_normal((MANY, 80))), rng.standard_normal((130, 80)).astype(np.float32)
    before, _ = linear("amx", x, weight, threads=2)
    child = os.fork()
    if child == 0:
        after, _ = linear("amx", x, weight, threads=2)
        os._exit(0 if np.array_equal(before, after) else 1)
    assert os.waitpid(child, 0)[1] == 0
