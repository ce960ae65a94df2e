"""Norms: LayerNorm (https://arxiv.org/abs/1607.06450) and RMSNorm (https://arxiv.org/abs/1910.07467)."""

import torch
from torch import Tensor, nn

LayerNorm = nn.LayerNorm


class RMSNorm(nn.Module):
    """Divides by the root of the mean square, in fp32, then scales: `x / sqrt(mean(x²) + eps) · weight`.

    Args:
        dim: D, the size of the last dimension.
        eps: added to the mean square.

    Example:
        >>> RMSNorm(8, eps=1e-6)(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of x, (..., D)."""
        full = x.float()
        full = full * torch.rsqrt(full.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * full.to(self.weight.dtype)

    def extra_repr(self) -> str:
        """The sizes shown by print(model)."""
        return f"{self.weight.shape[0]}, eps={self.eps}"
