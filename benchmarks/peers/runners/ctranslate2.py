"""CTranslate2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import convert
import ctranslate2
import inputs
import numpy as np

VERSION = ctranslate2.__version__
COMPUTE = {"fp32": "float32", "int8": "int8_float32"}


class Runner:
    """A loaded model of one of the three structures."""

    def __init__(self, folder: Path, path: Path, settings: dict[str, Any]) -> None:
        self.folder, self.seq2seq = folder, inputs.config(folder).get("is_encoder_decoder", False)
        kind = ctranslate2.Translator if self.seq2seq else ctranslate2.Generator
        self.model = (ctranslate2.Encoder if convert.encoder_only(folder) else kind)(str(path), **settings)

    def _texts(self, batch: int, length: int) -> list[list[str]]:
        return [[str(token) for token in text] for text in inputs.ids(self.folder, [length] * batch)]

    def _run(self, texts: list[list[str]], new: int, least: int, **options: Any) -> Any:
        if self.seq2seq:
            limits = {"max_decoding_length": new, "min_decoding_length": least}
            return self.model.translate_batch(texts, beam_size=1, **limits, **options)
        limits = {"max_length": new, "min_length": least}
        return self.model.generate_batch(texts, include_prompt_in_result=False, **limits, **options)

    def decode(self, batch: int, prompt: int, new: int) -> list[list[int]]:
        """The new ids."""
        results = self._run(self._texts(batch, prompt), new, new)
        if self.seq2seq:
            return [[int(token) for token in result.hypotheses[0]] for result in results]
        return [result.sequences_ids[0] for result in results]

    def prefill(self, tokens: int) -> Any:
        """The last logits."""
        result = self._run(self._texts(1, tokens), 1, 0, return_logits_vocab=True)[0]
        return np.array(result.logits[0][0], dtype=np.float32).reshape(-1)

    def encode(self, lengths: list[int]) -> Any:
        """The states of real tokens."""
        texts = [text.tolist() for text in inputs.ids(self.folder, lengths)]
        states = np.array(self.model.forward_batch(texts).last_hidden_state)
        return np.concatenate([row[:length] for row, length in zip(states, lengths)])


def load(folder: Path, precision: str, threads: int) -> Runner:
    """The converted model."""
    path = convert.form(folder, "ctranslate2", precision)
    settings = {"compute_type": COMPUTE[precision], "intra_threads": threads, "inter_threads": 1}
    return Runner(folder, path, {"device": "cpu", **settings})
