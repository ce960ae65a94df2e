"""The matrix kernels alone, format by format and shape by shape, beside `torch.nn.functional.linear` in fp32.

Few rows are bound by memory: GB/s of weights read, and that rate beside one sum over as much memory ("of sum"). Many
are bound by arithmetic: GFLOP/s. Every round runs all in turn, on weights that are rotated so that the working set is
`--mib` large; what is printed are medians, and medians of the ratio to the round's own torch. The relative error is the
root of the mean square, against float64.

    python benchmarks/kernels.py [--threads 2] [--rounds 7] [--mib 400] [--isa avx512] [--rows 1,8,128,1024]
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from glassformer.kernels import native

SHAPES = [(2304, 768), (768, 768), (3072, 768), (768, 3072), (4096, 4096)]
library = native.load()


class Matrix:
    """A weight in a format, and copies of it to rotate among."""

    def __init__(self, weight: torch.Tensor, form: str, copies: int, threads: int):
        self.format = native.FORMATS[form]
        outputs, inputs = weight.shape
        self.ld = outputs if form.endswith("_t") else inputs
        if not form.endswith("panel"):
            made = (weight.T if form.endswith("_t") else weight).contiguous()
            made = made.bfloat16() if form.startswith("bf16") else made
            self.bytes = made.nbytes
        else:
            self.bytes = library.gf_packed_bytes(self.format, outputs, inputs)
            made = torch.empty(self.bytes, dtype=torch.uint8)
            start = time.perf_counter()
            library.gf_pack(self.format, outputs, inputs, weight.data_ptr(), 0, inputs, 1, made.data_ptr(), threads)
            self.pack_seconds = time.perf_counter() - start
        self.copies = made.repeat(copies, *[1] * made.ndim).unbind()


def program(matrix: Matrix, x: torch.Tensor, out: torch.Tensor) -> tuple[ctypes.Array[native.Op], native.Call]:
    """One operation a copy."""
    ops = (native.Op * len(matrix.copies))()
    for made, copy in zip(ops, matrix.copies):
        made.kind, made.sync, made.format, made.scale = native.KINDS["linear"], 1, matrix.format, 1.0
        made.inputs, made.outputs, made.ld = x.shape[1], out.shape[1], matrix.ld
        made.x, made.x_stride, made.out, made.out_stride = x.data_ptr(), x.shape[1], out.data_ptr(), out.shape[1]
        made.weight = copy.data_ptr()
    starts = torch.tensor([0, len(x)])
    call = native.Call(tokens=len(x), texts=1, starts=starts.data_ptr())
    return ops, call


def seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mib", type=int, default=400)
    parser.add_argument("--isa", default=None)
    parser.add_argument("--rows", default="1,8,128,1024")
    parser.add_argument("--shapes", default=None, help="outputs x inputs, as 768x3072,4096x4096")
    parser.add_argument("--formats", default=",".join(native.FORMATS))
    options = parser.parse_args()
    if options.isa and library.gf_force_isa(options.isa.encode()):
        parser.error(f"this processor does not run {options.isa}")
    torch.set_num_threads(options.threads)
    shapes = [tuple(map(int, s.split("x"))) for s in options.shapes.split(",")] if options.shapes else SHAPES
    print(f"{library.gf_isa().decode()}, {options.threads} threads, medians of {options.rounds} rounds")
    heads = f"{'outputs x inputs':>18} {'rows':>5} {'format':>11} {'GB/s':>7} {'of sum':>7} {'GFLOP/s':>8}"
    print(f"{heads} {'x torch':>8} {'error':>9}")
    for outputs, inputs in shapes:
        weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0)) / inputs**0.5
        for rows in map(int, options.rows.split(",")):
            copies = max(1, options.mib * 2**20 // weight.nbytes) if rows <= 16 else 2
            x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(1))
            out = torch.empty(rows, outputs)
            wanted = x.double() @ weight.double().T
            pool = weight.repeat(copies, 1, 1)
            weights = pool.unbind()
            flops = 2 * rows * outputs * inputs * copies
            repeats = max(1, int(2e9 / flops)) if rows > 16 else 1
            cases: dict[str, Callable[[], object]] = {
                "torch": lambda x=x, weights=weights: [torch.nn.functional.linear(x, w) for w in weights]
            }
            sizes = {"torch": weight.nbytes * copies}
            errors = {"torch": 0.0}
            if rows <= 16:
                cases["(reading)"] = lambda pool=pool: pool.sum()
                sizes["(reading)"] = weight.nbytes * copies
            for form in options.formats.split(","):
                matrix = Matrix(weight, form, copies, options.threads)
                ops, call = program(matrix, x, out)
                cases[form] = lambda ops=ops, call=call, kept=matrix: library.gf_run(
                    ctypes.addressof(ops), len(ops), ctypes.addressof(call), options.threads
                )
                sizes[form] = matrix.bytes * copies
                cases[form]()
                errors[form] = float(((out - wanted).square().mean() / wanted.square().mean()).sqrt())
            errors["torch"] = float(
                ((torch.nn.functional.linear(x, weight) - wanted).square().mean() / wanted.square().mean()).sqrt()
            )
            for call_once in cases.values():
                call_once()
            rounds = [{name: seconds(case, repeats) for name, case in cases.items()} for _ in range(options.rounds)]
            for name in cases:
                median = statistics.median(r[name] for r in rounds)
                ratio = statistics.median(r["torch"] / r[name] for r in rounds)
                share = ""
                if "(reading)" in cases:
                    plain = sizes[name] / sizes["(reading)"]
                    share = f"{plain * statistics.median(r['(reading)'] / r[name] for r in rounds):.2f}"
                print(
                    f"{f'{outputs} x {inputs}':>18} {rows:>5} {name:>11} {sizes[name] / median / 1e9:>7.1f} {share:>7} "
                    f"{'' if name == '(reading)' else f'{flops / median / 1e9:.0f}':>8} {ratio:>8.2f} "
                    f"{'' if name == '(reading)' else f'{errors[name]:.1e}':>9}",
                    flush=True,
                )


if __name__ == "__main__":
    np.seterr(all="raise")
    main()
