"""The keywords of `from_pretrained` that say how a model is loaded: dtype, device, and what is only accepted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, InputError
from .weights import Weights

ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


def attention(kwargs: dict[str, Any]) -> None:
    """Take `attn_implementation` from the keywords: every way of the peer's gives what attention here gives."""
    name = kwargs.pop("attn_implementation", None)
    if name is not None and name not in ATTENTIONS:
        raise ConfigError(
            f"attn_implementation {name!r} is unknown; it is one of {', '.join(ATTENTIONS)}, or left out."
        )


def device_of(device_map: Any) -> torch.device | None:
    """The one device that a device map names."""
    if isinstance(device_map, dict):
        if len({str(device) for device in device_map.values()}) > 1:
            raise InputError(
                "device_map spreads the model over several devices, but here it goes on one; name that one."
            )
        device_map = next(iter(device_map.values()), None)
    if device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return None if device_map is None else torch.device(device_map)


def torch_dtype(dtype: Any) -> torch.dtype:
    """The dtype of that name, or the dtype itself."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise ConfigError(f"dtype {dtype!r} is no torch dtype; give 'auto', 'float32', 'bfloat16' or 'float16'.")
    return found


def own_dtype(weights: Weights | Mapping[str, Tensor]) -> torch.dtype:
    """The dtype of a checkpoint's first floating-point tensor."""
    for name in weights:
        dtype = weights.dtype(name) if isinstance(weights, Weights) else weights[name].dtype
        if dtype.is_floating_point:
            return dtype
    return torch.float32
