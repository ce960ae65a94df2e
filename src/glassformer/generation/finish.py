"""Why a sequence ended: the stopping criteria of a call, which remember what finished each row first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from glassformer.generation import stopping as s

# Where several finish a row in the same step, the first of these is the reason.
_REASONS = (
    (s.EosTokenCriteria, "eos"),
    (s.StopStringCriteria, "stop_string"),
    (s.MaxTimeCriteria, "time"),
    (s.MaxLengthCriteria, "length"),
)
_OTHER = "criterion"
_ORDER = ["eos", "stop_string", _OTHER, "time", "length"]


class Finish:
    """Stopping criteria that keep the reason of every row.

    Args:
        criteria: of the call.
        rows: of the batch, B.

    Attributes:
        reasons: of every row "eos", "stop_string", "time", "length", or "criterion" for a criterion of one's own; None
            while it goes on.
    """

    def __init__(self, criteria: list[Any], rows: int) -> None:
        self.reasons: list[str | None] = [None] * rows
        ranked = [(_ORDER.index(_reason(criterion)), criterion) for criterion in criteria]
        self._criteria = [(_ORDER[rank], criterion) for rank, criterion in sorted(ranked, key=lambda pair: pair[0])]
        self._open = rows
        self._none: Tensor | None = None  # (B,), of the many steps that finish nothing

    def __call__(self, input_ids: Tensor, scores: s.Scores) -> Tensor:
        """The rows (B,) that some criterion finishes now."""
        found = [
            criterion.reached(input_ids) if type(criterion) in s.AT_ONCE else criterion(input_ids, scores)
            for _, criterion in self._criteria
        ]
        if self._none is None or self._none.shape[0] != input_ids.shape[0]:
            self._none = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        done = self._none
        for one in found:
            if one is not False:
                done = done | one
        if self._open and done is not self._none and True in done.tolist():
            self._remember(found, len(input_ids))
        return done

    def look_back(self, sequences: Tensor, lengths: Tensor) -> None:
        """Find the reasons of whole sequences (R, T), of which `lengths` (R,) count; of beams they are known no sooner.

        Time, and criteria of one's own, are the reason where no other is.
        """
        by_name: dict[str, list[Any]] = {name: [] for name in _ORDER}
        for name, criterion in self._criteria:
            by_name[name].append(criterion)

        def reason(ids: Tensor) -> str:
            for name in ("eos", "stop_string", "length"):
                if any(bool(criterion(ids, None)) for criterion in by_name[name]):
                    return name
            return "time" if any(bool(criterion(ids, None)) for criterion in by_name["time"]) else _OTHER

        self.reasons = [reason(ids[None, :length]) for ids, length in zip(sequences, lengths.tolist())]

    def _remember(self, found: list[Any], rows: int) -> None:
        for (reason, _), hits in zip(self._criteria, found):
            hits = hits.tolist() if isinstance(hits, Tensor) and hits.dim() else [bool(hits)] * rows
            for row in range(rows):
                if hits[row] and self.reasons[row] is None:
                    self.reasons[row] = reason
                    self._open -= 1


def _reason(criterion: Any) -> str:
    return next((name for kind, name in _REASONS if isinstance(criterion, kind)), _OTHER)
