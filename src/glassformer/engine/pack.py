"""Packing: the weights of a part as the kernels read them; those of fp32 and bf16 stay where they are."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checkpoints.weights import LINE
from ..kernels import native
from .lower import ROWS, Unknown
from .program import Matrix

HUGE_PAGE = 2 << 20  # bytes


def packed(name: str, weight: Tensor) -> Matrix:
    """The matrix of a weight (outputs, inputs): fp32 or bf16, as it lies.

    Args:
        name: of the parameter.
        weight: its tensor, on a CPU.

    Raises:
        Unknown: if it lies in memory in a way that the kernels do not read.
    """
    weight = weight.detach()
    outputs, inputs = weight.shape
    if weight.dtype in ROWS and weight.stride(1) == 1:
        return Matrix(name, ROWS[weight.dtype], outputs, inputs, weight.stride(0), weight)
    if weight.dtype in ROWS and weight.stride(0) == 1:
        return Matrix(name, f"{ROWS[weight.dtype]}_t", outputs, inputs, weight.stride(1), weight)
    raise Unknown(f"{name} is {weight.dtype} with strides {weight.stride()}")


def panels(format: str, weight: Tensor) -> Tensor:
    """The bytes of a weight (outputs, inputs), fp32 or bf16, in a format of panels.

    Args:
        format: "f32_panel", "bf16_panel", "q8_panel" or "q4_panel".
        weight: on a CPU, with any strides.
    """
    library = native.load()
    assert library is not None
    code, (outputs, inputs) = native.FORMATS[format], weight.shape
    size = library.gf_packed_bytes(code, outputs, inputs)
    # Panels begin where a line of the processor's cache does, large ones where a huge page may, for which gf_pack asks.
    align = LINE if size < HUGE_PAGE else HUGE_PAGE
    room = torch.empty(size + align, dtype=torch.uint8)
    out = room[(-room.data_ptr()) % align :][:size]
    source = 1 if weight.dtype == torch.bfloat16 else 0
    library.gf_pack(
        *(code, outputs, inputs, weight.data_ptr(), source, weight.stride(0), weight.stride(1), out.data_ptr()),
        torch.get_num_threads(),
    )
    return out
