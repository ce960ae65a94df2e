"""The native code: where it is, how its structures look from Python, and why there is none if there is none."""

from __future__ import annotations

import ctypes
import os
from ctypes import Structure, c_char_p, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

VERSION = 6
FORMATS = {
    name: code
    for code, name in enumerate(("f32", "f32_t", "f32_panel", "bf16_panel", "q8_panel", "q4_panel", "bf16", "bf16_t"))
}
ACTIVATIONS = {
    name: code
    for code, name in enumerate(("none", "relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid", "quick_gelu", "relu2"))
}
KINDS = {
    name: code
    for code, name in enumerate(
        ("embed", "layer_norm", "rms_norm", "linear", "rotary", "store", "attention", "add", "scale", "choose")
    )
}


class Op(Structure):
    """`gf_op` of program.h."""

    _fields_ = [
        *((name, c_int32) for name in ("kind", "sync", "activation", "accumulate", "format")),
        *((name, c_int32) for name in ("heads", "kv_heads", "head_dim", "causal", "layer", "value")),
        *((name, c_int64) for name in ("inputs", "outputs", "ld", "x_stride", "out_stride", "gate_stride", "offset")),
        *((name, c_float) for name in ("eps", "scale")),
        *((name, c_void_p) for name in ("x", "out", "weight", "bias", "gate", "types", "positions", "cos", "sin")),
        ("rotary", c_int64),
        ("relative", c_void_p),
        ("relative_span", c_int64),
    ]


class KV(Structure):
    """`gf_kv` of program.h."""

    _fields_ = [("keys", c_void_p), ("values", c_void_p), ("row_stride", c_int64), ("head_stride", c_int64)]


class Call(Structure):
    """`gf_call` of program.h."""

    _fields_ = [
        *((name, c_int64) for name in ("tokens", "texts")),
        *((name, c_void_p) for name in ("starts", "ids", "type_ids", "position_ids", "places", "first_key", "keys")),
        *((name, c_void_p) for name in ("memory_first", "memory_keys", "cache", "memory")),
        *((name, c_void_p) for name in ("rows", "memory_rows", "prefix", "prefix_rows")),
        *((name, c_int64) for name in ("prefix_keys", "turned")),
        ("chosen", c_void_p),
    ]


class Burst(Structure):
    """`gf_burst_call` of program.h."""

    _fields_ = [
        *((name, c_int64) for name in ("steps", "milliseconds")),
        *((name, c_void_p) for name in ("ids", "chosen", "moving")),
        ("moved", c_int64),
        ("ends", c_void_p),
        ("end_count", c_int64),
    ]


def _borrow_threads(library: Any) -> bool:
    """Let the library run on the threads that torch has, where they are OpenMP's, and say whether it does."""
    import torch

    try:
        openmp = ctypes.CDLL(None)
        threads = torch.get_num_threads()  # the first question sets OpenMP's number, so that it comes first
        before = openmp.omp_get_max_threads()
        openmp.omp_set_num_threads(threads + 1)
        is_torchs = torch.get_num_threads() == threads + 1  # a process may hold several
        openmp.omp_set_num_threads(before)
        names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
        functions = [ctypes.cast(getattr(openmp, name), c_void_p) for name in names]
    except (AttributeError, OSError, TypeError):
        return False  # another kind of build, or of system
    if is_torchs:
        library.gf_borrow_threads(*functions)
    return is_torchs


@cache
def _found() -> tuple[Any, str]:
    """The library, or None, and what is to be said of it."""
    files = sorted(Path(__file__).parent.glob("_native*.so")) + sorted(Path(__file__).parent.glob("_native*.pyd"))
    if not files:
        return None, "no compiler was found when the package was installed: install one, and the package again"
    try:
        library = ctypes.CDLL(str(files[0]))
    except OSError as error:
        return None, f"{files[0].name} cannot be loaded: {error}"
    if library.gf_version() != VERSION:
        return None, f"{files[0].name} is of another version: install the package again"
    library.gf_borrow_threads.argtypes = [c_void_p] * 3
    library.gf_borrow_threads.restype = None
    library.gf_run.argtypes = [c_void_p, c_int64, c_void_p, c_int]
    library.gf_burst.argtypes = [c_void_p, c_int64, c_void_p, c_void_p, c_int]
    library.gf_burst.restype = c_int64
    library.gf_packed_bytes.argtypes = [c_int, c_int64, c_int64]
    library.gf_packed_bytes.restype = c_int64
    library.gf_pack.argtypes = [c_int, c_int64, c_int64, c_void_p, c_int, c_int64, c_int64, c_void_p, c_int]
    library.gf_unpack.argtypes = [c_int, c_int64, c_int64, c_void_p, c_void_p]
    library.gf_narrow.argtypes = library.gf_widen.argtypes = [c_void_p, c_void_p, c_int64]
    library.gf_narrow.restype = library.gf_widen.restype = None
    library.gf_isa.restype = c_char_p
    library.gf_force_isa.argtypes = [c_char_p]
    if (wanted := os.environ.get("GLASSFORMER_ISA")) and library.gf_force_isa(wanted.encode()):
        return None, f"GLASSFORMER_ISA={wanted} asks for instructions that this processor does not have"
    whose = "torch's" if _borrow_threads(library) else "its own"
    return library, f"{files[0].name} on {whose} threads"


def load() -> Any:
    """The library, or None; see `reason`."""
    return _found()[0]


def reason() -> str:
    """Which library is used and with which instructions, or why there is none."""
    library, said = _found()
    return said if library is None else f"{said}, {library.gf_isa().decode()}"
