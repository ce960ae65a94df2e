"""bf16 to fp32 and back on this thread alone.

After a conversion by several threads, torch's own go on spinning for milliseconds, beside those of the native code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import native


def narrowed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """fp32 numbers in another type, of the same shape."""
    library = native.load()
    if library is None or dtype != torch.bfloat16 or x.requires_grad or not _plain(x, torch.float32):
        return x.to(dtype)
    out = torch.empty(x.shape, dtype=dtype)
    library.gf_narrow(x.data_ptr(), out.data_ptr(), x.numel())
    return out


def widened(x: Tensor) -> Tensor:
    """Numbers of any type in fp32, of the same shape; the tensor itself if it is."""
    library = native.load()
    if library is None or x.requires_grad or not _plain(x, torch.bfloat16):
        return x.float()
    out = torch.empty(x.shape)
    library.gf_widen(x.data_ptr(), out.data_ptr(), x.numel())
    return out


def _plain(x: Tensor, dtype: torch.dtype) -> bool:
    return x.dtype == dtype and x.device.type == "cpu" and x.is_contiguous()
