"""The attention kernel alone, beside `torch.nn.functional.scaled_dot_product_attention` in fp32, shape by shape.

Encoders and prefill are bound by arithmetic: GFLOP/s, of those that causality leaves. Decoding is bound by memory: GB/s
of keys and values read. Every round runs both in turn; what is printed are medians, and the median of the ratio to the
round's own torch; the error is the largest difference to torch.

    python benchmarks/attention_kernel.py [--threads 2] [--rounds 9] [--isa avx512] [--only decode]
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from glassformer.kernels import native

library = native.load()


@dataclass
class Shape:
    """So many texts with new tokens and keys, and heads of which several share their keys."""

    name: str
    texts: int
    tokens: int
    keys: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def causal(self) -> bool:
        """Whether queries see no later keys."""
        return not self.name.startswith("encoder")

    @property
    def flops(self) -> int:
        """Multiplications and additions of the two products."""
        seen = self.tokens * self.keys - (self.tokens * (self.tokens - 1) // 2 if self.causal else 0)
        return 4 * self.texts * self.heads * self.head_dim * seen

    @property
    def bytes(self) -> int:
        """Of keys and values."""
        return 8 * self.texts * self.kv_heads * self.keys * self.head_dim


SHAPES = [
    *(Shape(f"encoder {length}", 4096 // length, length, length, 12, 12, 64) for length in (32, 128, 512, 1024)),
    *(Shape(f"prefill {length}", 1, length, length, 12, 12, 64) for length in (128, 512, 1024, 4096)),
    Shape("prefill 1024, grouped", 1, 1024, 1024, 32, 4, 64),
    *(Shape(f"decode at {keys}", 1, 1, keys, 12, 12, 64) for keys in (64, 512, 2048, 8192)),
    Shape("decode at 512, batch 8", 8, 1, 512, 12, 12, 64),
    Shape("decode at 4096, grouped by 4", 1, 1, 4096, 32, 8, 128),
    Shape("decode at 8192, grouped by 8", 1, 1, 8192, 32, 4, 64),
    Shape("decode at 1024, batch 8, grouped by 8", 8, 1, 1024, 32, 4, 64),
]


class Case:
    """A shape with its tensors, as both sides take them."""

    def __init__(self, shape: Shape, threads: int) -> None:
        self.shape, self.threads = shape, threads
        width = shape.heads * shape.head_dim
        self.x = torch.randn(shape.texts * shape.tokens, width)
        self.out = torch.empty_like(self.x)
        self.key, self.value = (torch.randn(shape.texts, shape.kv_heads, shape.keys, shape.head_dim) for _ in "kv")
        self.query = self.x.view(shape.texts, shape.tokens, shape.heads, shape.head_dim).transpose(1, 2)
        self.bounds = [
            torch.arange(shape.texts + 1) * shape.tokens,
            torch.zeros(shape.texts, dtype=torch.long),
            torch.full((shape.texts,), shape.keys),
        ]
        self.cache = native.KV(self.key.data_ptr(), self.value.data_ptr(), self.key.stride(0), self.key.stride(1))
        self.op = native.Op(
            kind=native.KINDS["attention"], heads=shape.heads, kv_heads=shape.kv_heads, head_dim=shape.head_dim,
            causal=shape.causal, x_stride=width, out_stride=width, scale=shape.head_dim**-0.5,
            x=self.x.data_ptr(), out=self.out.data_ptr(),
        )  # fmt: skip
        starts, first, keys = (bound.data_ptr() for bound in self.bounds)
        self.call = native.Call(
            tokens=len(self.x), texts=shape.texts, starts=starts, first_key=first, keys=keys,
            cache=ctypes.addressof(self.cache),
        )  # fmt: skip

    def native(self) -> None:
        """Run our kernel."""
        library.gf_run(ctypes.addressof(self.op), 1, ctypes.addressof(self.call), self.threads)

    def torch(self) -> Any:
        """Run PyTorch's."""
        shape = self.shape
        return F.scaled_dot_product_attention(
            self.query,
            self.key,
            self.value,
            is_causal=shape.causal and shape.tokens > 1,
            enable_gqa=shape.heads != shape.kv_heads,
        )

    def error(self) -> float:
        """The largest difference of the two outputs."""
        self.native()
        return float((self.torch().transpose(1, 2).reshape(self.out.shape) - self.out).abs().max())


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """How long a call takes, in the mean of some in a row."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def main() -> None:
    """Measure, and print a line a shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--isa")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    if library is None:
        parser.error(native.reason())
    if options.isa and library.gf_force_isa(options.isa.encode()):
        parser.error(f"this processor does not run {options.isa}")
    torch.set_num_threads(options.threads)
    print(f"{library.gf_isa().decode()}, {options.threads} threads, medians of {options.rounds} rounds")
    print(f"{'':<38} {'ms':>8} {'GFLOP/s':>8} {'GB/s':>6} {'x torch':>8} {'error':>8}")
    for shape in SHAPES:
        if options.only not in shape.name:
            continue
        case = Case(shape, options.threads)
        error = case.error()
        repeats = max(1, int(0.02 / seconds(case.native, 3)))
        rounds = [(seconds(case.native, repeats), seconds(case.torch, repeats)) for _ in range(options.rounds)]
        ours = statistics.median(own for own, _ in rounds)
        ratio = statistics.median(other / own for own, other in rounds)
        print(
            f"{shape.name:<38} {ours * 1e3:>8.3f} {shape.flops / ours / 1e9:>8.1f} {shape.bytes / ours / 1e9:>6.1f} "
            f"{ratio:>8.2f} {error:>8.0e}",
            flush=True,
        )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
