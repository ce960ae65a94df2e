"""DoLa (arXiv:2309.03883): what the last layer says, against what an earlier layer would have said.

Of some earlier layers, in every step and for every row, the one is taken whose next-token distribution differs most
from the last layer's (Jensen-Shannon divergence). The scores are the difference of their log-probabilities, among the
tokens that the last layer finds likely.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from glassformer.errors import GenerationError
from glassformer.generation.search import Feed

_LIKELY = 0.1  # of the probability of the likeliest token; what is below stays out


def chosen_layers(wanted: str | list[int], layers: int, tied: bool) -> list[int]:
    """The earlier layers to compare with: 0 is the embedding, `layers` the last.

    Args:
        wanted: "low" or "high", every second layer of the lower or upper half, of at most 20 layers; or the layers.
        layers: how many the model has.
        tied: whether the readout is the embedding's table; then the embedding only says its own token again, and "low"
            begins at layer 2.

    Raises:
        GenerationError: it is neither, or no layer remains.
    """
    if isinstance(wanted, (list, tuple)) and all(isinstance(one, int) and 0 <= one < layers for one in wanted):
        found = list(dict.fromkeys(wanted))
    elif wanted == "low":
        start = 2 if tied else 0
        found = list(range(start, min(layers // 2, 20), 2)) or [min(start, layers - 1)]
    elif wanted == "high":
        found = list(range(max(layers // 2, layers - 20), layers, 2))
    else:
        raise GenerationError(f"dola_layers is {wanted!r}: give 'low', 'high' or layers from 0 to {layers - 1}.")
    if not found:
        raise GenerationError(f"dola_layers is {wanted!r}, which leaves no layer: name at least one below {layers}.")
    return found


class Dola:
    """Reads the scores of the next token off a model's output, by contrast; the readout of a feed.

    Args:
        feed: whose model is asked for its hidden states from now on.
        wanted: the earlier layers, as in `chosen_layers`.

    Raises:
        GenerationError: the model has no readout `lm_head` for its layers.
    """

    def __init__(self, feed: Feed, wanted: str | list[int]) -> None:
        self._model, self._wanted = feed.model, wanted
        self._states = feed.decoder + "hidden_states"
        if not callable(getattr(feed.model, "lm_head", None)):
            raise GenerationError(f"{type(feed.model).__name__} has no lm_head to read layers with: unset dola_layers.")
        feed.fixed["output_hidden_states"] = True
        table = feed.model.get_input_embeddings().weight
        self._tied = feed.model.get_output_embeddings().weight is table

    def __call__(self, output: Any) -> Tensor:
        """The contrasted scores (B, V) after the last position of an output with hidden states."""
        states = output[self._states]
        layers = chosen_layers(self._wanted, len(states) - 1, self._tied)
        earlier = torch.stack([self._model.lm_head(states[layer][:, -1]).float() for layer in layers])
        return contrasted(output.logits[:, -1].float(), earlier)


def contrasted(final: Tensor, earlier: Tensor) -> Tensor:
    """The last layer's scores less those of the earlier layer that differs most.

    Args:
        final: (B, V), the last layer's logits.
        earlier: (layers, B, V), those of the earlier ones.

    Returns:
        (B, V): differences of log-probabilities; -inf for what the last layer finds unlikely.
    """
    final, earlier = final.log_softmax(dim=-1), earlier.log_softmax(dim=-1)
    if len(earlier) == 1:
        base = earlier[0]
    else:
        mean = ((final.exp() + earlier.exp()) / 2).clamp(min=torch.finfo(final.dtype).tiny).log()
        divergence = (final.exp() * (final - mean) + earlier.exp() * (earlier - mean)).sum(dim=-1)  # (layers, B)
        most = divergence.argmax(dim=0)
        base = earlier[most, torch.arange(len(most), device=most.device)]
    unlikely = final < final.amax(dim=-1, keepdim=True) + math.log(_LIKELY)
    return (final - base).masked_fill(unlikely, -torch.inf)
