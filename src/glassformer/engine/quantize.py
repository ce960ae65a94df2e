"""Quantising a model: which of its matrices are held in 8 or 4 bits, how they become so, and what config.json says.

The Linears of the layers, the token table, and what scores the vocabulary are quantised, whatever the class, so that a
folder fits every class of its family. Poolers, heads of a task, norms, biases, positions and token types stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.load import BACKBONE
from ..config import Config
from ..errors import ConfigError
from ..kernels import native
from ..structure.embedding import Table
from ..structure.quantized import QuantizedLinear, QuantizedTable, packed_shape
from .pack import panels

METHOD, VERSION, GROUP = "glassformer", 2, 32
KEY = "quantization_config"
BITS = {"int8": 8, "int4": 4}
# What loses most by 4 bits for what it weighs, as measured in docs/quantization.md: what tokens are read and scored
# with, and keys and values, which all queries meet.
WIDER = {"embedding.tokens": 8, "lm_head.linear": 8, "k_proj": 8, "v_proj": 8}
_LINEARS = re.compile(r"(encoder|decoder)\.layers\.|lm_head\.linear$")
_TABLE = "embedding.tokens"


@dataclass(frozen=True)
class Scheme:
    """How a model is quantised.

    Attributes:
        bits: of a number.
        wider: bits of the parts that have more, by the end of their names.
    """

    bits: int
    wider: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def named(cls, name: Any) -> Scheme:
        """The scheme that `quantization=name` asks for.

        Raises:
            ConfigError: if there is none of that name.
        """
        if not isinstance(name, str) or name not in BITS:
            raise ConfigError(f"quantization {name!r} is unknown; it is 'int8', 'int4' or None.")
        return cls(BITS[name], WIDER if BITS[name] < 8 else {})

    @classmethod
    def of(cls, config: Config) -> Scheme | None:
        """The scheme that a configuration says its checkpoint has, or None.

        Raises:
            ConfigError: if the checkpoint is quantised in a way that is not read here.
        """
        said = getattr(config, KEY, None)
        if said is None:
            return None
        method = said.get("quant_method") if isinstance(said, dict) else said
        if method != METHOD:
            raise ConfigError(
                f"{config.name_or_path or 'The checkpoint'} is quantised by {method!r}, which is not read here; load "
                "the unquantised checkpoint, with quantization='int8' or 'int4'."
            )
        wider = said.get("wider", {})
        known = said.get("version") == VERSION and said.get("group_size") == GROUP and isinstance(wider, dict)
        if not known or not all(bits in BITS.values() for bits in (said.get("bits"), *wider.values())):
            raise ConfigError(
                f"{KEY} of {config.name_or_path or 'the configuration'} is {said}, which this version does not know; "
                "install the version that wrote it, or quantise the original again."
            )
        return cls(said["bits"], wider)

    def to_dict(self) -> dict[str, Any]:
        """What config.json says."""
        said = {"quant_method": METHOD, "version": VERSION, "bits": self.bits, "group_size": GROUP}
        return {**said, "wider": dict(self.wider)} if self.wider else said

    def bits_of(self, name: str, part: nn.Module | None) -> int | None:
        """Bits of a part of that name; None if it stays as it is."""
        name = name.removeprefix(BACKBONE)
        linear = type(part) is nn.Linear and _LINEARS.match(name)
        if not linear and not (type(part) is Table and name.endswith(_TABLE)):
            return None
        return next((bits for end, bits in self.wider.items() if name.endswith(end)), self.bits)


def quantize(model: nn.Module, scheme: Scheme, dtype: torch.dtype) -> None:
    """Put quantised parts in the place of a model's matrices, and freeze it.

    Args:
        model: changed in place; on the meta device the parts have shapes only, to be filled from a checkpoint.
        scheme: how.
        dtype: of the activations.

    Raises:
        ConfigError: if there is no native code, which quantises.
    """
    parts: dict[int, nn.Module] = {}  # new parts by the identity of the old: stacks may share a table
    weights: dict[int, nn.Parameter] = {}  # alike, as a head may share its weight with a table
    part: Any
    places = [(path, module, leaf) for path, module in model.named_modules() for leaf in module._modules]
    for path, module, leaf in places:
        part = module._modules[leaf]
        bits = scheme.bits_of(f"{path}.{leaf}" if path else leaf, part)
        if bits is None:
            continue
        if id(part) not in parts:
            if id(part.weight) not in weights:
                weights[id(part.weight)] = nn.Parameter(packed(part.weight.detach(), bits), requires_grad=False)
            weight = weights[id(part.weight)]
            parts[id(part)] = (
                QuantizedLinear(part.in_features, part.out_features, weight, part.bias)
                if isinstance(part, nn.Linear)
                else QuantizedTable(part, weight, dtype)
            )
        module._modules[leaf] = parts[id(part)]
    model.requires_grad_(False)


def packed(weight: Tensor, bits: int) -> Tensor:
    """A weight (outputs, inputs) as packed bytes, (panels, pairs, bytes of a pair).

    Raises:
        ConfigError: if there is no native code.
    """
    outputs, inputs = weight.shape
    shape = packed_shape(outputs, inputs, bits)
    if weight.is_meta:
        return torch.empty(shape, dtype=torch.uint8, device="meta")
    if native.load() is None:
        raise ConfigError(
            f"Quantising needs the native code, but {native.reason()}; a folder that was saved quantised runs without."
        )
    weight = weight.float() if weight.dtype == torch.float16 else weight
    return panels(f"q{bits}_panel", weight).view(shape)
