"""Fresh weights: how parameters are drawn before training, and how a vocabulary grows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .checkpoints.load import BACKBONE, tensors_of


class Undrawn(TorchFunctionMode):
    """Within it torch's modules are made without drawing weights, which a checkpoint is going to fill.

    On the meta device there is nothing to draw into, and going through the motions takes a third of a small model's
    loading.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_):
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


@torch.no_grad()
def initialise(model: Any, names: Iterable[str]) -> None:
    """Draw the named parameters of a model anew, in place.

    Matrices are normal around zero with the deviation that the model's spec gives, norms begin as the identity, biases
    and the table row of padding at zero.

    Args:
        model: a model class of the peer's names.
        names: of parameters.
    """
    if not (wanted := set(names)):
        return
    modules = dict(model.named_modules())
    for name in filter(wanted.__contains__, tensors_of(model)):  # in the model's order, so that a seed means the same
        path, _, leaf = name.rpartition(".")
        module = modules[path]
        tensor = getattr(module, leaf)
        if leaf != "weight":
            tensor.zero_()
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            tensor.normal_(0.0, model.base_model.spec.std(path.removeprefix(BACKBONE)))
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                tensor[module.padding_idx].zero_()
        else:
            tensor.fill_(model.base_model.spec.norm)


@torch.no_grad()
def resized(parameter: Tensor, size: int, std: float, around_mean: bool) -> nn.Parameter:
    """A parameter with another number of rows: the first ones kept, new ones drawn.

    Args:
        parameter: (rows, ...).
        size: rows wanted.
        std: the standard deviation of new rows around zero.
        around_mean: draw them around the mean of the old ones instead, with 1e-9 of their covariance, so that the new
            tokens are about as likely as the average old one.
    """
    rows = parameter.shape[0]
    new = parameter.new_empty(size, *parameter.shape[1:])
    new[: min(rows, size)] = parameter[:size]
    if size > rows:
        added = new[rows:]
        added.normal_(0.0, std) if std else added.zero_()
        if around_mean:
            old = parameter.float()
            mean = old.mean(0)
            spread = (old - mean) / rows**0.5  # its product with itself is the covariance
            noise = torch.randn(size - rows, rows, device=old.device)
            added.copy_(mean + 1e-9**0.5 * noise @ spread)
    return nn.Parameter(new, requires_grad=parameter.requires_grad)
