"""Direct logit attribution: which parts wrote a logit into the residual stream (Elhage et al. 2021).

Where norms stand only before the steps, the last state is a sum: the embedding, what each attention head and each
feed-forward adds, and biases. With the final norm's scale frozen at what it was, the logit is a linear function of that
state, and so the same sum of what each part brings to it (https://transformer-circuits.pub/2021/framework).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...structure.layer import Residual
from ...structure.norms import LayerNorm, RMSNorm
from ...structure.quantized import weight_of
from ...structure.readout import Linear, Offset, Scaled
from ..inputs import Inputs, position_of, prepared, real_tokens, token_id
from ..tables import Drawn, Table, bars, titled
from ..tokens import names_of, readable, tokens_of
from .hearing import evaluating, heard

Target = int | str | tuple[int | str, int | str] | None


@dataclass(frozen=True, eq=False, repr=False)
class LogitAttribution(Drawn):
    """What each part brings to a logit, or to the difference of two.

    Attributes:
        parts: their names: "decoder.embedding.tokens", "decoder.layers.0.attention.heads.2",
            "decoder.layers.0.attention.bias", "decoder.layers.0.feedforward", "final_norm.bias", "lm_head.bias", ...
        contributions: of these, (B, parts); they sum to the logits.
        logits: what the model itself gave, (B,).
        target: the token of each text whose logit it is, B of them, or "a - b".
        read: the tokens of each text, B lists of T.
        positions: the place in each text whose next token is scored, (B,).
    """

    parts: tuple[str, ...]
    contributions: Tensor
    logits: Tensor
    target: list[str]
    read: list[list[str]]
    positions: Tensor

    @property
    def gap(self) -> Tensor:
        """What rounding leaves between the logits and the sum of the contributions, (B,)."""
        return self.logits - self.contributions.sum(1)

    def of(self, pattern: str) -> Tensor:
        """What the parts that a pattern selects bring together, (B,).

        Args:
            pattern: a name or a pattern, as "decoder.layers.3.*".

        Raises:
            InputError: if it selects nothing.
        """
        chosen = [index for index, part in enumerate(self.parts) if fnmatchcase(part, pattern)]
        if not chosen:
            raise InputError(f"No part is named {pattern!r}; .parts lists them, as {self.parts[0]!r}.")
        return self.contributions[:, chosen].sum(1)

    def heads(self, part: str = "attention") -> Tensor:
        """What each head brings, (B, layers, H).

        Args:
            part: "attention" or "cross_attention".
        """
        names = [name.split(".") for name in self.parts]
        layers = 1 + max(int(name[2]) for name in names if name[1] == "layers")
        chosen = [index for index, name in enumerate(names) if name[3:5] == [part, "heads"]]
        if not chosen:
            raise InputError(f"There are no heads of {part!r} among the parts; .parts lists them.")
        return self.contributions[:, chosen].view(len(self.contributions), layers, -1)

    def tables(self) -> list[Table]:
        """A table a text: the embedding, a row a layer with its heads beside each other, the biases and the sum."""
        found = []
        for row, tokens in enumerate(self.read):
            values = dict(zip(self.parts, self.contributions[row].tolist()))
            lines: dict[str, dict[str, float]] = {}
            for name, value in values.items():
                of_layer, _, inner = name.partition(".layers.")
                line, column = (f"layer {inner.split('.')[0]}", _column(inner)) if inner else (_line(of_layer), "")
                lines.setdefault(line, {})[column] = value
            header = list(dict.fromkeys(column for line in lines.values() for column in line if column))
            sums = {line: sum(cells.values()) for line, cells in lines.items()}
            strips, shares = bars(list(sums.values()))
            most = max((abs(value) for value in values.values()), default=0.0) or 1.0
            cells = [
                [
                    line,
                    f"{sums[line]:+.3f}",
                    strip,
                    *(f"{lines[line][c]:+.3f}" if c in lines[line] else "" for c in header),
                ]
                for line, strip in zip(lines, strips)
            ]
            shades = [
                [share, 0.0, *(lines[line].get(column, 0.0) / most for column in header)]
                for line, share in zip(lines, shares)
            ]
            after = readable(tokens)[int(self.positions[row])]
            total = float(self.logits[row])
            title = f"logit of {self.target[row]!r} after {after!r} = {total:.3f}, the sum of"
            found.append(Table(titled(title, row, len(self.read)), ["", "in all", "", *header], cells, shades))
        return found


def direct_logit_attribution(
    model: Any, inputs: Inputs, target: Target = None, position: int = -1, tokenizer: Any = None
) -> LogitAttribution:
    """Split a logit into what each head, each feed-forward and the embedding bring to it.

    Args:
        model: a causal or sequence-to-sequence LM with norms before its steps alone.
        inputs: a text, several, or what the tokenizer made of them.
        target: a token by its id or its text; or two, for the first's logit less the second's; the likeliest token of
            each text if not given.
        position: whose next token is scored, among the tokens that are no padding; -1 is the last.
        tokenizer: of the model; the one beside it if not given.

    Raises:
        InputError: if the model's logits are not such a sum, or the target or position is not there.

    Example:
        >>> found = direct_logit_attribution(model, "To be or not to", target=(" be", " die"))
        >>> found.heads()[0].argmax()
    """
    stack, head = _splittable(model)
    call, _, tokenizer = prepared(model, inputs, tokenizer)
    call.pop("logits_to_keep", None)
    added = _places(stack)
    with torch.no_grad(), evaluating(model):
        names = [*added, *(f"decoder.layers.{len(stack.layers) - 1}.output", "decoder.input_ids", "logits")]
        kept = heard(model, call, names)
        last = kept[f"decoder.layers.{len(stack.layers) - 1}.output"]
        rows, length = last.shape[:2]
        positions = position_of(real_tokens(model, call, "decoder", rows, length), position)
        every = torch.arange(rows, device=last.device)
        scores = kept["logits"].flatten(0, -3)[every, positions].float()
        size = scores.shape[-1]
        pair = target if isinstance(target, tuple) else (target,)
        if len(pair) > 2:
            raise InputError(f"target names {len(pair)} tokens; give one, or two whose difference is split.")
        signs = torch.zeros_like(scores)
        chosen = []
        for token, sign in zip(pair, (1.0, -1.0)):
            ids = scores.argmax(-1) if token is None else torch.full_like(every, token_id(token, tokenizer, size))
            signs[every, ids] += sign
            chosen.append(readable(names_of(ids.tolist(), tokenizer)))
        # The logit is bias + signs · weight · scale · state: the direction, (B, D), in which the state is read.
        direction = signs @ weight_of(head.linear).float() * head.scale
        state = last[every, positions].float()
        direction, norm_bias = frozen(stack.final_norm, state, direction)
        parts: dict[str, Tensor] = {}
        for name in added:
            if name in kept:
                parts.update(_contributions(model, name, kept[name], positions, direction))
        parts["final_norm.bias"] = norm_bias
        parts["lm_head.bias"] = signs @ _bias(head).float()
    parts = {name: value for name, value in parts.items() if not name.endswith("bias") or bool(value.any())}
    labels = [" - ".join(one) for one in zip(*chosen)]
    texts = tokens_of(kept.get("decoder.input_ids"), tokenizer, rows, length)
    return LogitAttribution(
        *(tuple(parts), torch.stack(list(parts.values()), 1).cpu(), (signs * scores).sum(-1).cpu(), labels, texts),
        positions=positions.cpu(),
    )


def frozen(norm: nn.Module, x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """A norm as the linear function that it is once the scale of x is taken as given.

    Args:
        norm: LayerNorm, RMSNorm or the identity.
        x: the states, (B, D).
        direction: what the normed states are multiplied with, (B, D).

    Returns:
        The direction g, (B, D), and the constants c, (B,), with `norm(x) · direction = x · g + c`.
    """
    none = direction.new_zeros(len(direction))
    if isinstance(norm, LayerNorm):
        scaled = direction if norm.weight is None else direction * norm.weight.float()
        scaled = scaled * torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + norm.eps)
        # To take the mean off the states is to take it off what they are multiplied with.
        return scaled - scaled.mean(-1, keepdim=True), none if norm.bias is None else direction @ norm.bias.float()
    if isinstance(norm, RMSNorm):
        return direction * norm.weight.float() * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.eps), none
    return direction, none


def _splittable(model: Any) -> tuple[Any, Any]:
    """The decoder and the head of a model whose logits are sums.

    Raises:
        InputError: if they are not, and why.
    """
    name, head = type(model).__name__, getattr(model, "lm_head", None)
    stack = model.base_model.decoder
    if head is None or stack is None:
        raise InputError(
            f"{name} is no causal or sequence-to-sequence LM, whose logits are what is split; load the checkpoint with "
            "AutoModelForCausalLM or AutoModelForSeq2SeqLM."
        )
    steps = [part for part in stack.modules() if isinstance(part, Residual)]
    inside = any(not isinstance(norm, nn.Identity) for step in steps for norm in (step.out, step.after))
    ends = (LayerNorm, RMSNorm, nn.Identity)
    if inside or type(head) not in (Linear, Offset, Scaled) or type(stack.final_norm) not in ends:
        raise InputError(
            f"The logits of {name} are not a sum over its parts: its residual stream has norms inside it, or its head "
            "is not linear, so what a part adds is rescaled by all that follow; integrated_gradients works here."
        )
    return stack, head


def _places(stack: Any) -> list[str]:
    """The names of what is added to the decoder's residual stream, in the order in which it is."""
    one = isinstance(stack.embedding.norm, nn.Identity)
    inner = ("tokens", "types", "positions") if one else ("output",)
    places = [f"decoder.embedding.{place}" for place in inner]
    for index, layer in enumerate(stack.layers):
        places.append(f"decoder.layers.{index}.attention.mixed")
        if layer.cross_attention is not None:
            places.append(f"decoder.layers.{index}.cross_attention.mixed")
        places.append(f"decoder.layers.{index}.feedforward.output")
    return places


def _contributions(model: Any, name: str, tensor: Tensor, positions: Tensor, direction: Tensor) -> dict[str, Tensor]:
    """What a tensor that is added brings, (B,), by part; of attention by head, and what its bias brings."""
    every = torch.arange(len(positions), device=direction.device)
    path, _, place = name.rpartition(".")
    if place == "mixed":
        projection = model.base_model.get_submodule(path).o_proj
        mixed = tensor[every, :, positions].float()  # (B, H, head_dim)
        read: Tensor = direction @ weight_of(projection).float()
        read = read.view(mixed.shape)
        shares = {f"{path}.heads.{head}": value for head, value in enumerate((mixed * read).sum(-1).unbind(1))}
        if projection.bias is not None:
            shares[f"{path}.bias"] = direction @ projection.bias.float()
        return shares
    if tensor.dim() == 3:
        tensor = tensor.expand(len(positions), -1, -1)[every, positions]
    part = name if "embedding" in path else path
    return {part: (tensor.float() * direction).sum(-1)}


def _bias(head: Any) -> Tensor:
    """What the head adds to each token's score, (V,)."""
    bias: Tensor | None = head.get_buffer("offset")[0] if isinstance(head, Offset) else head.linear.bias
    return torch.zeros(head.linear.out_features, device=head.linear.weight.device) if bias is None else bias


def _column(inner: str) -> str:
    """The heading of a part of a layer, as "head 2" of "0.attention.heads.2"."""
    names = inner.split(".")[1:]
    cross = "cross " if names[0] == "cross_attention" else ""
    if names[0] == "feedforward":
        return "feed-forward"
    return f"{cross}head {names[2]}" if names[1] == "heads" else f"{cross or 'attention '}bias"


def _line(name: str) -> str:
    names: Sequence[str] = name.split(".")
    return " ".join(names[-2:]).replace("_", " ")
