"""Packing: what is packed, from whichever strides and type, comes back as what the kernels compute with."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassformer.kernels import native

from .programs import ISAS, LIBRARY, each_isa, guarded, needs_library, pointer

pytestmark = needs_library
PANELS = ("f32_panel", "bf16_panel", "q8_panel", "q4_panel")


def to_bf16(x):
    """The nearest bf16, ties to even, as uint16."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def of_bf16(x):
    return (x.astype(np.uint32) << 16).view(np.float32)


def size(format, outputs, inputs):
    return LIBRARY.gf_packed_bytes(native.FORMATS[format], outputs, inputs)


def pack(format, source, isa="portable", threads=1):
    """The packed bytes of an array (outputs, inputs) of float32, or of uint16 standing for bf16, strided as it is."""
    assert LIBRARY.gf_force_isa(isa.encode()) == 0
    outputs, inputs = source.shape
    memory = guarded(np.full(size(format, outputs, inputs), 0xAA), np.uint8)
    rows, columns = (stride // source.itemsize for stride in source.strides)
    kind = int(source.dtype == np.uint16)
    code = native.FORMATS[format]
    assert LIBRARY.gf_pack(code, outputs, inputs, pointer(source), kind, rows, columns, pointer(memory), threads) == 0
    return memory


def unpack(format, memory, outputs, inputs):
    out = guarded(np.full((outputs, inputs), np.nan))
    assert LIBRARY.gf_unpack(native.FORMATS[format], outputs, inputs, pointer(memory), pointer(out)) == 0
    return out


def error(found, wanted):
    return np.sqrt(np.square(found - wanted, dtype=np.float64).sum() / np.square(wanted, dtype=np.float64).sum())


@each_isa
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_matrix(isa, data):
    """Odd sizes, strides, fp32 or bf16, threads: what comes back is near, within each format's step."""
    draw = data.draw
    format = draw(st.sampled_from(PANELS))
    outputs, inputs = draw(st.integers(1, 70)), draw(st.integers(1, 140))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    weight = rng.standard_normal((outputs, inputs)).astype(np.float32)
    weight *= np.float32(10.0) ** rng.integers(-20, 20)
    half = draw(st.booleans())
    if half:
        weight = of_bf16(to_bf16(weight))
    typed = to_bf16(weight) if half else weight
    layout = draw(st.sampled_from(["rows", "columns", "strided"]))
    if layout == "rows":
        source = guarded(typed, typed.dtype)
    elif layout == "columns":
        source = guarded(typed.T, typed.dtype).T
    else:
        wide = np.zeros((outputs, inputs, 3), typed.dtype)
        wide[:, :, 0] = typed
        source = wide[:, :, 0]
    found = unpack(format, pack(format, source, isa, draw(st.integers(1, 3))), outputs, inputs)
    if format == "f32_panel":
        np.testing.assert_array_equal(found, weight)
    elif format == "bf16_panel":
        np.testing.assert_array_equal(found, of_bf16(to_bf16(weight)))
    else:
        groups = np.zeros((outputs, -(-inputs // 32) * 32), np.float64)
        groups[:, :inputs] = np.abs(weight)
        top = np.repeat(groups.reshape(outputs, -1, 32).max(-1), 32, -1)[:, :inputs]
        # Half a step of 1 / 127 and what rounding the scale up adds; codes are at most 31 of 127 apart, ends clip.
        assert (np.abs(found - weight) <= top * (0.0041 if format == "q8_panel" else 0.20)).all()


@pytest.mark.parametrize("format", PANELS)
def test_instruction_sets_pack_alike(format):
    """The same bytes, but for a scale of 4 bits whose last place may differ where sums are rounded differently."""
    weight = np.random.default_rng(0).standard_normal((83, 417)).astype(np.float32)
    packed = {isa: pack(format, weight, isa, 2) for isa in ISAS}
    for memory in packed.values():
        if format == "q4_panel":
            assert (memory != packed["portable"]).mean() < 0.01
        else:
            np.testing.assert_array_equal(memory, packed["portable"])


@each_isa
@pytest.mark.parametrize(("format", "most"), [("f32_panel", 0.0), ("bf16_panel", 1.7e-3), ("q8_panel", 5.6e-3)])
def test_error(isa, format, most):
    """The relative error of normal weights (root of the mean square)."""
    weight = np.random.default_rng(1).standard_normal((256, 512)).astype(np.float32)
    assert error(unpack(format, pack(format, weight, isa), 256, 512), weight) <= most


@each_isa
def test_error_of_4_bits(isa):
    """Below what evenly spaced codes leave, even with their best scales (0.081), and within a grid search's best."""
    weight = np.random.default_rng(1).standard_normal((256, 512)).astype(np.float32)
    found = unpack("q4_panel", pack("q4_panel", weight, isa), 256, 512)
    assert error(found, weight) < 0.0745
    codes = np.array([-127, -99, -79, -63, -48, -36, -24, -12, 0, 11, 23, 36, 50, 67, 88, 119], np.float64)
    groups = weight.reshape(-1, 32).astype(np.float64)
    best = np.full(len(groups), np.inf)
    for end in np.concatenate([np.linspace(-1.25, -0.75, 30), np.linspace(0.75, 1.25, 30)]):
        scale = end * np.abs(groups).max(1, keepdims=True) / 127
        nearest = codes[np.abs(groups[:, :, None] / scale[:, :, None] - codes).argmin(-1)]
        best = np.minimum(best, np.square(groups - nearest * scale).sum(-1))
    assert error(found, weight) < 1.01 * np.sqrt(best.sum() / np.square(groups).sum())


@each_isa
@pytest.mark.parametrize("format", ["q8_panel", "q4_panel"])
def test_extreme_groups(isa, format):
    """Zeros stay zeros; the range of fp32 is kept; a number that is none breaks its own group only."""
    weight = np.zeros((17, 96), np.float32)
    weight[1] = 3e38
    weight[2] = -1e30
    weight[3] = 1e-30
    weight[4] = 1e-42  # smaller than any scale: nothing is left of it
    weight[5, 40] = np.nan
    weight[6, 40] = np.inf
    weight[7, 70] = 5.0
    found = unpack(format, pack(format, weight, isa), 17, 96)
    for row in (0, 4, *range(8, 17)):
        np.testing.assert_array_equal(found[row], 0)
    np.testing.assert_allclose(found[1:4], weight[1:4], rtol=0.005)
    for row in (5, 6):
        assert np.isnan(found[row, 32:64]).all()
        np.testing.assert_array_equal(found[row, :32], 0)
    np.testing.assert_allclose(found[7], weight[7], rtol=0.005)


def test_bf16_keeps_what_is_no_number():
    weight = np.array([[np.nan, np.inf, -np.inf, -0.0, 3.4e38]], np.float32)
    found = unpack("bf16_panel", pack("bf16_panel", weight), 1, 5)
    np.testing.assert_array_equal(found, [[np.nan, np.inf, -np.inf, 0.0, np.inf]])
    assert np.signbit(found[0, 3])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1) | st.sampled_from([0x7F7F8000, 0x3F808000, 0x7F800001]), max_size=70))
def test_bf16_and_back(bits):
    """Any fp32 number to the nearest bf16 and back, ties to even, and no byte beyond an end is touched."""
    x = guarded(np.array(bits, np.uint32).view(np.float32))
    narrow, wide = guarded(np.zeros(len(bits)), np.uint16), guarded(np.zeros(len(bits)))
    LIBRARY.gf_narrow(pointer(x), pointer(narrow), len(bits))
    LIBRARY.gf_widen(pointer(narrow), pointer(wide), len(bits))
    real = ~np.isnan(x)
    np.testing.assert_array_equal(narrow[real], to_bf16(x[real]))
    np.testing.assert_array_equal(wide.view(np.uint32), narrow.astype(np.uint32) << 16)
    assert np.isnan(wide[~real]).all()


def test_sizes():
    """Whole panels of 16; pairs of groups of 32; nothing for what is no packed format or no matrix."""
    assert size("f32_panel", 17, 5) == 2 * 5 * 64
    assert size("bf16_panel", 16, 5) == 3 * 64
    assert size("q8_panel", 16, 65) == 2 * (64 * 16 + 64)
    assert size("q4_panel", 1, 64) == 64 * 8 + 64
    assert size("f32", 16, 16) == size("f32_t", 16, 16) == size("q8_panel", 0, 32) == size("q8_panel", 4, -1) == 0
    source, memory = np.zeros(64, np.float32), np.zeros(4096, np.uint8)
    assert LIBRARY.gf_pack(0, 8, 8, pointer(source), 0, 8, 1, pointer(memory), 1) == -1
    assert LIBRARY.gf_pack(2, 8, 8, pointer(source), 2, 8, 1, pointer(memory), 1) == -1
    assert LIBRARY.gf_unpack(99, 8, 8, pointer(memory), pointer(source)) == -1
