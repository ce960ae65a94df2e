"""What glassformer and Transformers share: they are called in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import inputs
import numpy as np
import torch


class Runner:
    """A loaded model of either library.

    Args:
        folder: the model's folder.
        model: the model.
        options: further arguments of `generate`.
    """

    def __init__(self, folder: Path, model: Any, **options: Any) -> None:
        self.folder, self.model, self.options = folder, model.eval(), options

    def _ids(self, batch: int, length: int) -> torch.Tensor:
        return torch.from_numpy(np.stack(inputs.ids(self.folder, [length] * batch)))

    def decode(self, batch: int, prompt: int, new: int) -> list[list[int]]:
        """The new ids."""
        ids = self._ids(batch, prompt)
        output = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=new,
            pad_token_id=0,
            **self.options,
        )
        written: list[list[int]] = output[:, -new:].tolist()
        return written

    @torch.no_grad()
    def prefill(self, tokens: int) -> Any:
        """The last logits."""
        ids = self._ids(1, tokens)
        if self.model.config.is_encoder_decoder:
            start = torch.tensor([[self.model.config.decoder_start_token_id]])
            logits = self.model(input_ids=ids, decoder_input_ids=start).logits
        else:
            logits = self.model(input_ids=ids, use_cache=True, logits_to_keep=1).logits
        return logits[0, -1].float().numpy()

    @torch.no_grad()
    def encode(self, lengths: list[int]) -> Any:
        """The states of real tokens."""
        ids, mask = map(torch.from_numpy, inputs.padded(inputs.ids(self.folder, lengths)))
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states[mask.bool()].float().numpy()
