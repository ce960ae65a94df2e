"""Beam search and beam sampling: of every text the best continuations so far go on side by side.

A text's beams are `beams` rows next to each other in the feed. Every step scores all their continuations at once, takes
the best candidates (or draws them), and sorts them into those that are finished and those that go on. What was chosen
is kept as a trellis, in which each candidate points back at the one before it; only at the end are sequences read off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glassformer.generation.search import Criteria, Feed, Processors, Record

# What stands for "not among the beams": far below any real score, but finite, so that what is pushed down can still be
# compared. The peer's number; where there are fewer continuations than beams, it decides what fills the rest.
FAR = -1.0e9


@dataclass(frozen=True)
class Rules:
    """What decides between beams.

    Attributes:
        beams: how many go on.
        candidates: how many continuations of a text are looked at in a step; enough that `beams` of them are no ends.
        prompt: tokens before the first new one.
        longest: tokens of a sequence at most, the prompt included.
        length_penalty: the score of a finished sequence is its log-probability / length ** length_penalty.
        early_stopping: True ends a text with its `beams`-th finished sequence; False when the running ones could not
            win at their present length; "never" when they could not at any length.
        draw: draws candidates by weight, from weights (B, N) and their number; None takes the best.
    """

    beams: int
    candidates: int
    prompt: int
    longest: int
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    draw: Callable[[Tensor, int], Tensor] | None = None


class Trellis:
    """Every candidate of every step, each pointing back at the one that it continues; nodes are numbered from 0."""

    def __init__(self) -> None:
        self.size = 0
        self._steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def grow(self, tokens: Tensor, rows: Tensor, nodes: Tensor, parents: Tensor) -> int:
        """Add a step, and return the number of its first node.

        Args:
            tokens: (B, K).
            rows: the rows of the feed that they continue, (B, K).
            nodes: of the beams, (B, beams), -1 before the first step.
            parents: which beams the tokens continue, (B, K).
        """
        self._steps.append((tokens, rows, nodes, parents))
        first, self.size = self.size, self.size + tokens.shape[1]
        return first

    def read(self, nodes: Tensor, fill: int) -> tuple[Tensor, Tensor]:
        """The ways to nodes (B, R), -1 for none: tokens and rows (B, R, steps), `fill` and -1 after the end."""
        tokens, rows, beams, parents = (torch.cat(kind, dim=1) for kind in zip(*self._steps))
        widths = nodes.new_tensor([step[0].shape[1] for step in self._steps])
        starts = torch.arange(len(widths), device=nodes.device) * (beams.shape[1] // len(widths))
        before = beams.gather(1, parents + starts.repeat_interleave(widths))
        ways = []  # followed on the host, where a step back costs far less than an operation on tensors
        for own, ends in zip(before.tolist(), nodes.tolist()):
            for node in ends:
                way = []
                while node >= 0:
                    way.append(node)
                    node = own[node]
                ways.append(way[::-1])
        longest = max(map(len, ways))
        path = nodes.new_tensor([way + [-1] * (longest - len(way)) for way in ways])
        path = path.view(len(nodes), nodes.shape[1] * longest)
        past, path = path < 0, path.clamp(min=0)
        shape = (*nodes.shape, longest)
        found = tokens.gather(1, path).masked_fill(past, fill), rows.gather(1, path).masked_fill(past, -1)
        return found[0].view(shape), found[1].view(shape)


class Beams:
    """The beams of B texts, running and finished.

    Args:
        rules: what decides between them.
        first: (B, 1), the row of the feed in which each text's beams begin.
        trellis: where candidates are kept.

    Attributes:
        open: whether another step could change what is found.
    """

    def __init__(self, rules: Rules, first: Tensor, trellis: Trellis) -> None:
        self.rules = rules
        self.first = first
        self.trellis = trellis
        shape, device = (len(first), rules.beams), first.device
        # All beams begin alike, so that only one of them may be continued in the first step.
        self.running = torch.full(shape, FAR, device=device)
        self.running[:, 0] = 0.0
        self.nodes = torch.full(shape, -1, device=device)  # of the running beams
        self.scores = torch.full(shape, FAR, device=device)  # of the finished ones, the best first
        self.ended = torch.full(shape, -1, device=device)  # their nodes
        self.finished = torch.zeros(shape, dtype=torch.bool, device=device)
        self.improvable = torch.ones(len(first), 1, dtype=torch.bool, device=device)
        self.open = True
        self._untouched = True  # nothing was set aside so far

    def advance(
        self, ids: Tensor, scores: Tensor, criteria: Criteria, kept: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, Tensor]:
        """One step: choose what goes on, and set aside what is finished.

        Args:
            ids: (rows of the feed, T), the tokens so far.
            scores: (B * beams, V), log-probabilities of the next token after the processors.
            criteria: says which sequences are finished.
            kept: the scores so far, for the criteria.

        Returns:
            The rows that go on and the tokens that follow them, (B, beams) each.
        """
        values, parents, tokens = self._candidates(scores)
        rows = parents + self.first
        longer = torch.cat([ids.index_select(0, rows.flatten()), tokens.view(-1, 1)], dim=1)
        done = criteria(longer, kept).view(tokens.shape)
        first = self.trellis.grow(tokens, rows, self.nodes, parents)
        self.running, chosen = self._going_on(values, done, parents, tokens)
        self.nodes = chosen + first
        # Most steps finish nothing; a beam that is pushed down may still fill a place, where there are too few others.
        if _any(done) or not self._untouched or min(map(min, self.running.tolist())) < FAR / 2:
            length = longer.shape[1] - self.rules.prompt
            self._set_aside(values, done, first, length)
            self.open = self._open(done, length)
        return rows.gather(1, chosen), tokens.gather(1, chosen)

    def _candidates(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The continuations looked at, (B, K) each: scores summed over the tokens, beams continued, tokens."""
        batch, size = len(self.first), scores.shape[1]
        total = (scores + self.running.view(-1, 1)).view(batch, -1)
        count = min(self.rules.candidates, total.shape[1])
        if self.rules.draw is not None:
            index = self.rules.draw(total.softmax(dim=-1), count)
            values = total.gather(1, index)
        else:
            values, index = total.topk(count)
        parents = index // size
        return values, parents, index % size

    def _going_on(self, values: Tensor, done: Tensor, parents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The scores of the candidates that go on, and which they are, (B, beams) each."""
        going = values.add(done, alpha=FAR) if _any(done) else values
        best: Any = going.topk(self.rules.beams)
        return best.values, best.indices

    def _set_aside(self, values: Tensor, done: Tensor, first: int, length: int) -> None:
        """Keep the best of the finished sequences, old and new; only the first `beams` candidates may be new ones."""
        beams = self.rules.beams
        self._untouched = False
        new = done.clone()
        new[:, beams:] = False
        allowed = new & self.wanting()
        values = (values / length**self.rules.length_penalty).add(~allowed, alpha=FAR)
        nodes = torch.arange(first, self.trellis.size, device=done.device).expand_as(done)
        self.scores, best = torch.cat([self.scores, values], dim=1).topk(beams)
        self.ended = torch.cat([self.ended, nodes], dim=1).gather(1, best)
        self.finished = torch.cat([self.finished, new], dim=1).gather(1, best)

    def wanting(self) -> Tensor:
        """The texts (B, 1) that still take finished sequences."""
        if self.rules.early_stopping is True:
            return self.improvable & ~self.finished.all(dim=1, keepdim=True)
        return self.improvable

    def _open(self, done: Tensor, length: int) -> bool:
        """Whether another step could change what is found."""
        rules = self.rules
        if rules.early_stopping == "never" and rules.length_penalty > 0.0:
            length = rules.longest - rules.prompt
        best_running = self.running[:, :1] / length**rules.length_penalty
        worst = self.scores.amin(dim=1, keepdim=True).where(self.finished, FAR).amin(dim=1, keepdim=True)
        self.improvable = self.improvable & (best_running > worst)
        if rules.early_stopping is True and bool(self.finished.all()):
            return False
        return bool(self.improvable.any() & ~done.all())


def _any(done: Tensor) -> bool:
    """Whether any of (B, K) is true; one copy to the host, and no operation on the device."""
    return any(True in row for row in done.tolist())


def beam_search(
    feed: Feed, beams: Beams, processors: Processors, criteria: Criteria, fill: int, returned: int, record: Record
) -> Iterator[Tensor]:
    """Search for the best continuations of every text, among its beams.

    Args:
        feed: the model and its prompts, each once for every beam; in the end its `ids` are the sequences found,
            (B * returned, T), those of a text next to each other, the best first.
        beams: at the beginning.
        processors: from ids (B * beams, T) and log-probabilities (B * beams, V) to scores.
        criteria: from ids (rows, T) and the scores kept to the finished rows.
        fill: what follows in sequences that are shorter than the longest.
        returned: sequences of each text, at most as many as beams.
        record: keeps what is wanted of the steps, and in the end `beams`.

    Yields:
        The new token of every beam, (B * beams,).
    """
    prompts = feed.ids[beams.first.flatten()]
    while beams.open:
        output, logits, scores = scored(feed, processors)
        record.add(output, logits, scores)
        del output
        rows, tokens = beams.advance(feed.ids, scores, criteria, record.scores)
        feed.select(rows.flatten())
        feed.append(tokens.flatten())
        feed.shed(~beams.wanting().expand_as(rows).flatten())
        yield tokens.flatten()
    finish(feed, record, prompts, beams.trellis, beams.ended[:, :returned], beams.scores[:, :returned], fill)


def scored(feed: Feed, processors: Processors) -> tuple[Any, Tensor, Tensor]:
    """One step of the model: its output, and of the next token the logits and the processed log-probabilities."""
    output = feed.step()
    logits = feed.logits(output)
    return output, logits, processors(feed.ids, logits.log_softmax(dim=-1))


def finish(
    feed: Feed, record: Record, prompts: Tensor, trellis: Trellis, nodes: Tensor, scores: Tensor, fill: int
) -> None:
    """Leave what was found in feed and record: prompts (B, T), the ends' nodes and scores (B, R)."""
    tokens, rows = trellis.read(nodes, fill)
    prompts = prompts[:, None].expand(-1, tokens.shape[1], -1)
    feed.ids = torch.cat([prompts, tokens], dim=2).flatten(0, 1)
    record.beams = scores.flatten(), rows.flatten(0, 1).to(torch.int32)
