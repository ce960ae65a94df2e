"""Activations by the names that configurations use."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError

Activation = Callable[[Tensor], Tensor]


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh form of GELU, `x/2 · (1 + tanh(√(2/π)(x + 0.044715x³)))` (https://arxiv.org/abs/1606.08415)."""
    return F.gelu(x, approximate="tanh")


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid form of GELU, `x · σ(1.702x)`."""
    return x * torch.sigmoid(1.702 * x)


def laplace(x: Tensor) -> Tensor:
    """`(1 + erf((x − μ) / (σ√2))) / 2` with μ = √½ and σ = √(1/4π) (https://arxiv.org/abs/2209.10655)."""
    return 0.5 * (1.0 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0))))


def gelu_clipped(x: Tensor) -> Tensor:
    """GELU kept within -10 and 10, for quantisation (https://arxiv.org/abs/2004.09602)."""
    return F.gelu(x).clamp(-10, 10)


def relu_squared(x: Tensor) -> Tensor:
    """`max(x, 0)²` (https://arxiv.org/abs/2109.08668)."""
    return F.relu(x).square()


def sqrt_softplus(x: Tensor) -> Tensor:
    """`√log(1 + eˣ)`."""
    return F.softplus(x).sqrt()


def linear(x: Tensor) -> Tensor:
    """X itself."""
    return x


ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_10": gelu_clipped,
    "gelu_accurate": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_python": F.gelu,
    "gelu_python_tanh": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "hardswish": F.hardswish,
    "laplace": laplace,
    "leaky_relu": F.leaky_relu,
    "linear": linear,
    "mish": F.mish,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "relu2": relu_squared,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "sqrtsoftplus": sqrt_softplus,
    "swish": F.silu,
    "tanh": torch.tanh,
}


def activation(name: str) -> Activation:
    """The activation of that name.

    Raises:
        ConfigError: if there is none.

    Example:
        >>> activation("relu")(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"There is no activation {name!r}; it is one of {', '.join(sorted(ACTIVATIONS))}.")
    return ACTIVATIONS[name]
