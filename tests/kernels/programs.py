"""What the tests of the kernels share: programs written by name, and memory that ends where a guard page begins."""

import ctypes
import mmap

import numpy as np
import pytest

from glassformer.kernels import native

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None)
LIBRARY = native.load()


def has(isa):
    """Whether the machine has an instruction set; what is in use stays."""
    used = LIBRARY and LIBRARY.gf_isa()
    found = bool(LIBRARY) and LIBRARY.gf_force_isa(isa.encode()) == 0
    if found:
        LIBRARY.gf_force_isa(used)
    return found


ISAS = [
    isa for isa in ("portable", "neon", "avx2", "avx512") if has(isa)
]  # the tiles of "amx" round otherwise: test_amx
needs_library = pytest.mark.skipif(LIBRARY is None, reason=native.reason())
each_isa = pytest.mark.parametrize("isa", ISAS)


def guarded(values, dtype=np.float32):
    """A copy of an array whose last byte is the last that may be touched: the page behind it is forbidden."""
    values = np.ascontiguousarray(values, dtype)
    room = -(-max(values.nbytes, 1) // PAGE) * PAGE
    memory = mmap.mmap(-1, room + PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(ctypes.c_void_p(start + room), ctypes.c_size_t(PAGE), 0) == 0
    array = np.frombuffer(memory, dtype, values.size, room - values.nbytes).reshape(values.shape)
    array[...] = values
    return array


def pointer(array):
    return None if array is None else array.ctypes.data


def op(kind, sync=True, **fields):
    """One operation; arrays become pointers and are kept as long as it."""
    made = native.Op(kind=native.KINDS[kind], sync=sync)
    made.kept = fields
    for name, value in fields.items():
        setattr(made, name, pointer(value) if isinstance(value, np.ndarray) else value)
    return made


def caches(*layers):
    """Keys and values of layers, (rows, heads, room, head_dim) each, as the kernels take them."""
    made = (native.KV * len(layers))()
    for kv, (keys, values) in zip(made, layers, strict=True):
        assert keys.strides == values.strides
        assert keys.flags.c_contiguous
        kv.keys, kv.values = pointer(keys), pointer(values)
        kv.row_stride, kv.head_stride = keys[0].size, keys[0, 0].size
    return made


def run(ops, isa, threads=1, starts=None, prefix_keys=0, tokens=None, burst=None, **arrays):
    """Run a program; `starts` are the texts' first tokens and the end, the arrays become int64; `caches` stay.

    What is written is given by its address. With `burst`, a `native.Burst`, its steps are run.
    """
    assert LIBRARY.gf_force_isa(isa.encode()) == 0
    starts = [0, tokens] if starts is None else starts
    layers = {name: arrays.pop(name, None) for name in ("cache", "memory", "prefix")}
    places = {name: arrays.pop(name) for name, values in list(arrays.items()) if isinstance(values, int)}
    arrays = {name: guarded(values, np.int64) for name, values in {"starts": starts, **arrays}.items()}
    call = native.Call(tokens=starts[-1], texts=len(starts) - 1)
    call.prefix_keys = prefix_keys
    for name, address in {**places, **{name: pointer(values) for name, values in arrays.items()}}.items():
        setattr(call, name, address)
    for name, table in layers.items():
        if table is not None:
            setattr(call, name, ctypes.addressof(table))
    program = (native.Op * len(ops))(*ops)
    if burst is not None:
        told = ctypes.addressof(burst)
        return LIBRARY.gf_burst(ctypes.addressof(program), len(ops), ctypes.addressof(call), told, threads)
    return LIBRARY.gf_run(ctypes.addressof(program), len(ops), ctypes.addressof(call), threads)


def spaced(rng, rows, width, stride, dtype=np.float32):
    """Random rows of some width in a guarded buffer of a longer stride: the buffer, and the rows as a view."""
    buffer = guarded(rng.standard_normal(max(rows * stride - (stride - width), 0)), dtype)
    view = np.lib.stride_tricks.as_strided(buffer, (rows, width), (stride * buffer.itemsize, buffer.itemsize))
    return buffer, view
