"""A watermark in generated text (arXiv:2301.10226, 2306.04634): some tokens are made a little likelier, by a key.

Which ones depends on the tokens before, so that they are other ones at every place. Who has the key counts how many
tokens of a text are among them: about the share of the vocabulary without a watermark, clearly more with it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from glassformer.errors import GenerationError
from glassformer.generation.processors import LogitsProcessor
from glassformer.generation.watermark_config import WatermarkingConfig, watermark_of

if TYPE_CHECKING:
    import numpy as np

_TABLE = 1_000_003  # entries of the table that hashes tokens
_TRIED = 40  # the likeliest tokens, of which selfhash finds the green ones


class WatermarkLogitsProcessor(LogitsProcessor):
    """Adds `bias` to the scores of the green tokens, which a hash of the tokens before chooses.

    Args:
        vocab_size: V.
        device: where the scores are; another device's generator chooses other tokens.
        greenlist_ratio: see `WatermarkingConfig`, as the arguments after it.
        bias: what is added.
        hashing_key: the secret.
        seeding_scheme: "lefthash" or "selfhash".
        context_width: tokens.

    Raises:
        GenerationError: an argument has no sense.
    """

    def __init__(
        self,
        vocab_size: int,
        device: Any,
        greenlist_ratio: float = 0.25,
        bias: float = 2.0,
        hashing_key: int = 15485863,
        seeding_scheme: str = "lefthash",
        context_width: int = 1,
    ) -> None:
        WatermarkingConfig(greenlist_ratio, bias, hashing_key, seeding_scheme, context_width).validate()
        self.vocab_size = vocab_size
        self.greenlist_size = int(vocab_size * greenlist_ratio)
        self.bias = bias
        self.seeding_scheme = seeding_scheme
        self.hash_key = hashing_key
        self.context_width = context_width
        self.rng = torch.Generator(device)
        self.rng.manual_seed(hashing_key)
        self._table: Tensor | None = None
        if seeding_scheme == "selfhash":
            self._table = torch.randperm(_TABLE, generator=self.rng, device=device)

    def green_tokens(self, before: Tensor) -> Tensor:
        """The green tokens (n,) after ids (T,), or, with "selfhash", of the place of the last of them."""
        last = before[-self.context_width :]
        if self._table is not None:
            hashes = self._table[last % _TABLE] + 1
            seed = int((self.hash_key * hashes * hashes[-1]).min())
        else:
            seed = self.hash_key * int(last[-1])
        self.rng.manual_seed(seed % (2**64 - 1))
        return torch.randperm(self.vocab_size, generator=self.rng, device=before.device)[: self.greenlist_size]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores (B, V), those of the green tokens raised; unchanged after fewer than `context_width` tokens."""
        if input_ids.shape[1] < self.context_width:
            return scores
        raised = scores.clone()
        for row, ids in enumerate(input_ids):
            green = self.green_tokens(ids) if self._table is None else self._green_among_likeliest(ids, scores[row])
            raised[row, green] += self.bias
        return raised

    def _green_among_likeliest(self, ids: Tensor, scores: Tensor) -> Tensor:
        likeliest = scores.argsort(descending=True)[:_TRIED]
        green = [bool((self.green_tokens(torch.cat([ids, token[None]])) == token).any()) for token in likeliest]
        return likeliest[torch.tensor(green, device=likeliest.device)]


@dataclass
class WatermarkDetectorOutput:
    """What a detector finds, a number a row in each array (B,).

    Attributes:
        num_tokens_scored: how many tokens were looked at.
        num_green_tokens: how many of them are green.
        green_fraction: the share.
        z_score: how many standard deviations more than without a watermark.
        p_value: the probability of as many without a watermark.
        prediction: whether there is a watermark.
        confidence: 1 - p_value.
    """

    num_tokens_scored: np.ndarray | None = None
    num_green_tokens: np.ndarray | None = None
    green_fraction: np.ndarray | None = None
    z_score: np.ndarray | None = None
    p_value: np.ndarray | None = None
    prediction: np.ndarray | None = None
    confidence: np.ndarray | None = None


class WatermarkDetector:
    """Tells whether texts have a watermark, by the settings with which it was written.

    Args:
        model_config: of the model that wrote the texts: its vocabulary and begin token.
        device: where they were written.
        watermarking_config: the settings.
        ignore_repeated_ngrams: whether the same few tokens count once, however often they come.
        max_cache_size: how many places are remembered.

    Raises:
        GenerationError: the settings have no sense.

    Example:
        >>> detector = WatermarkDetector(model.config, "cpu", WatermarkingConfig(bias=2.5))
        >>> detector(model.generate(**inputs, watermarking_config=WatermarkingConfig(bias=2.5)))
        array([ True])
    """

    def __init__(
        self,
        model_config: Any,
        device: Any,
        watermarking_config: WatermarkingConfig | dict[str, Any],
        ignore_repeated_ngrams: bool = False,
        max_cache_size: int = 128,
    ) -> None:
        start = "decoder_start_token_id" if model_config.is_encoder_decoder else "bos_token_id"
        self.bos_token_id = getattr(model_config, start, None)
        config = watermark_of(watermarking_config)
        if not isinstance(config, WatermarkingConfig):
            raise GenerationError("WatermarkDetector finds the watermarks of WatermarkingConfig alone: pass one.")
        self.greenlist_ratio = config.greenlist_ratio
        self.ignore_repeated_ngrams = ignore_repeated_ngrams
        self.processor = config.construct_processor(model_config.vocab_size, device)
        self._is_green = lru_cache(maxsize=max_cache_size)(self._looked_up)

    def __call__(
        self, input_ids: Tensor, z_threshold: float = 3.0, return_dict: bool = False
    ) -> WatermarkDetectorOutput | np.ndarray:
        """Whether each text has a watermark.

        Args:
            input_ids: (B, T), best without the prompt.
            z_threshold: from how many standard deviations on a text is said to have one.
            return_dict: whether all that was found is returned.

        Returns:
            Booleans, (B,); or a WatermarkDetectorOutput.

        Raises:
            GenerationError: the texts are too short, or only some begin with the begin token.
        """
        import numpy as np

        begin = -1 if self.bos_token_id is None else self.bos_token_id
        begins = input_ids[:, 0].eq(begin)
        if bool(begins.any()) != bool(begins.all()):
            raise GenerationError("Only some of the texts begin with the begin token: give it to all, or to none.")
        if bool(begins.all()):
            input_ids = input_ids[:, 1:]
        width = self.processor.context_width
        if input_ids.shape[1] <= width:
            raise GenerationError(
                f"The texts have {input_ids.shape[1]} tokens, but the first {width} only decide what is green later: "
                "give longer ones."
            )
        counts = [self._count(row) for row in input_ids.tolist()]
        green, total = (np.array(column, dtype=np.float64) for column in zip(*counts))
        ratio = self.greenlist_ratio
        z_score = (green - ratio * total) / np.sqrt(total * ratio * (1 - ratio))
        prediction: np.ndarray = z_score > z_threshold
        if not return_dict:
            return prediction
        p_value = np.array([0.5 * math.erfc(z / math.sqrt(2)) for z in z_score])
        return WatermarkDetectorOutput(
            num_tokens_scored=total,
            num_green_tokens=green,
            green_fraction=green / total,
            z_score=z_score,
            p_value=p_value,
            prediction=prediction,
            confidence=1 - p_value,
        )

    def _count(self, row: list[int]) -> tuple[int, int]:
        """How many tokens of a row are green, and how many were looked at."""
        selfhash = self.processor.seeding_scheme == "selfhash"
        size = self.processor.context_width + (0 if selfhash else 1)
        grams = Counter(tuple(row[start : start + size]) for start in range(len(row) - size + 1))
        if self.ignore_repeated_ngrams:
            grams = Counter(grams.keys())
        return sum(count for gram, count in grams.items() if self._is_green(gram)), grams.total()

    def _looked_up(self, gram: tuple[int, ...]) -> bool:
        selfhash = self.processor.seeding_scheme == "selfhash"
        before = torch.tensor(gram if selfhash else gram[:-1], device=self.processor.rng.device)
        return bool((self.processor.green_tokens(before) == gram[-1]).any())
