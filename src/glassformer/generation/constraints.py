"""Constrained beam search (arXiv:1804.06609): beams that must say given words before they may end.

Beams are kept apart in banks by how much of the constraints they have met, and places go round the banks, so that a
beam that has begun a word need not win against one that says what it likes. What would meet more of the constraints is
always among the candidates, however unlikely it is; and what has no room left to meet them all comes last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from glassformer.errors import GenerationError
from glassformer.generation.beams import FAR, Beams, Rules, Trellis
from glassformer.generation.config import GenerationConfig


class Constraint:
    """Something that a sequence must contain, met token by token.

    A class of one's own gives all of these methods, and `seqlen`.

    Attributes:
        seqlen: the most tokens that it takes.
        completed: whether it is met.
    """

    seqlen: int
    completed: bool = False

    def advance(self) -> int | list[int] | None:
        """The tokens that would bring it one step on; None when it is met."""
        raise TypeError(f"{type(self).__name__} has no advance: give it one, to the tokens that bring it on.")

    def does_advance(self, token_id: int) -> bool:
        """Whether a token would bring it one step on."""
        wanted = self.advance()
        return token_id in (wanted if isinstance(wanted, list) else [wanted])

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        """Take a token: whether it brings it on, whether it is met now, and whether all progress is lost."""
        raise TypeError(f"{type(self).__name__} has no update: give it one, from a token to (on, met, lost).")

    def reset(self) -> None:
        """Forget all progress."""
        raise TypeError(f"{type(self).__name__} has no reset: give it one, which forgets all progress.")

    def remaining(self) -> int:
        """How many tokens are missing."""
        raise TypeError(f"{type(self).__name__} has no remaining: give it one, to the number of missing tokens.")

    def copy(self, stateful: bool = False) -> Constraint:
        """The same constraint, with its progress or without."""
        raise TypeError(f"{type(self).__name__} has no copy: give it one, with its progress or without.")

    def to_dict(self) -> dict[str, Any]:
        """What a GenerationConfig shows of it."""
        return {"constraint": type(self).__name__}


class DisjunctiveConstraint(Constraint):
    """One of several words, each a list of tokens.

    Args:
        nested_token_ids: the words.

    Raises:
        GenerationError: there is no word, or one is no list of token ids.

    Example:
        >>> model.generate(ids, num_beams=4, constraints=[DisjunctiveConstraint([[262, 3], [7]])])
    """

    def __init__(self, nested_token_ids: Sequence[Sequence[int]]) -> None:
        self.token_ids: Any = nested_token_ids
        self._words = _words(nested_token_ids)
        self.seqlen = max(map(len, self._words))
        self.current_seq: list[int] = []

    def advance(self) -> list[int] | None:
        """The tokens that go on with a word; None when one is said."""
        return None if self.completed else [word[len(self.current_seq)] for word in self._open()]

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        """Take a token: whether it brings it on, whether it is met now, and whether all progress is lost."""
        if self.completed or not self.does_advance(token_id):
            lost = not self.completed
            self.reset()
            return False, False, lost
        self.current_seq.append(token_id)
        self.completed = self.current_seq in self._words
        return True, self.completed, False

    def reset(self) -> None:
        """Forget all progress."""
        self.current_seq, self.completed = [], False

    def remaining(self) -> int:
        """How many tokens the shortest way to a word still takes."""
        return 0 if self.completed else min(map(len, self._open())) - len(self.current_seq)

    def copy(self, stateful: bool = False) -> DisjunctiveConstraint:
        """The same words, with their progress or without."""
        other = object.__new__(type(self))
        other.token_ids, other._words, other.seqlen = self.token_ids, self._words, self.seqlen
        other.current_seq, other.completed = [], False
        if stateful:
            other.current_seq, other.completed = [*self.current_seq], self.completed
        return other

    def to_dict(self) -> dict[str, Any]:
        """What a GenerationConfig shows of it."""
        return {**super().to_dict(), "token_ids": self.token_ids}

    def _open(self) -> list[list[int]]:
        """The words that begin with what was said."""
        said = len(self.current_seq)
        return [word for word in self._words if word[:said] == self.current_seq]


class PhrasalConstraint(DisjunctiveConstraint):
    """One word or phrase, a list of tokens.

    Args:
        token_ids: the phrase.

    Raises:
        GenerationError: it is empty or no list of token ids.

    Example:
        >>> model.generate(ids, num_beams=4, constraints=[PhrasalConstraint([262, 3])])
    """

    def __init__(self, token_ids: Sequence[int]) -> None:
        super().__init__([token_ids])
        self.token_ids = token_ids

    def advance(self) -> Any:
        """The phrase's next token; None when it is said."""
        wanted = super().advance()
        return None if wanted is None else wanted[0]


class ConstraintListState:
    """How far one sequence has met several constraints, in whatever order.

    Args:
        constraints: all of them, without progress.
    """

    def __init__(self, constraints: Sequence[Constraint]) -> None:
        self.constraints = constraints
        self.max_seqlen = max((constraint.seqlen for constraint in constraints), default=1)
        self.init_state()

    def init_state(self) -> None:
        """Begin with nothing met."""
        self.complete_constraints: list[Constraint] = []
        self.inprogress_constraint: Constraint | None = None
        self.pending_constraints = [constraint.copy() for constraint in self.constraints]

    @property
    def completed(self) -> bool:
        """Whether all constraints are met."""
        return not self.pending_constraints and self.inprogress_constraint is None

    def get_bank(self) -> int:
        """How much is met; more with every token that brings a constraint on."""
        begun = self.inprogress_constraint
        met = len(self.complete_constraints) * self.max_seqlen
        return met if begun is None else met + self.max_seqlen - begun.remaining()

    def remaining(self) -> int:
        """How many tokens are missing, at the least, if no word lies in another."""
        begun = [] if self.inprogress_constraint is None else [self.inprogress_constraint]
        return sum(constraint.remaining() for constraint in [*begun, *self.pending_constraints])

    def advance(self) -> list[int] | None:
        """The tokens that would meet more; None when all is met."""
        begun = self.inprogress_constraint
        found: list[int] = []
        for constraint in self.pending_constraints if begun is None else [begun]:
            wanted = constraint.advance()
            found += wanted if isinstance(wanted, list) else [] if wanted is None else [wanted]
        return list(dict.fromkeys(found)) or None

    def reset(self, token_ids: Iterable[int] | None) -> None:
        """Begin again, and take these tokens."""
        self.init_state()
        for token in token_ids or ():
            self.add(int(token))

    def add(self, token_id: int) -> tuple[bool, bool]:
        """Take a token: whether it meets a constraint, and whether it brings one on."""
        if (begun := self.inprogress_constraint) is not None:
            on, met, lost = begun.update(token_id)
            if lost:
                self.pending_constraints.append(begun.copy())
            if lost or met:
                self.inprogress_constraint = None
            if met:
                self.complete_constraints.append(begun)
            if not lost:
                return met, on
        # A token that breaks off one constraint may begin another.
        for place, constraint in enumerate(self.pending_constraints):
            if constraint.does_advance(token_id):
                constraint = self.pending_constraints.pop(place).copy()
                _, met, _ = constraint.update(token_id)
                if met:
                    self.complete_constraints.append(constraint)
                else:
                    self.inprogress_constraint = constraint
                return met, True
        return False, False

    def copy(self, stateful: bool = True) -> ConstraintListState:
        """The same constraints, with the progress or without."""
        other = object.__new__(type(self))
        other.constraints, other.max_seqlen = self.constraints, self.max_seqlen
        if not stateful:
            other.init_state()
            return other
        begun = self.inprogress_constraint
        # What is pending has no progress, and what is complete changes no more, so that they can be shared.
        other.complete_constraints = [*self.complete_constraints]
        other.pending_constraints = [*self.pending_constraints]
        other.inprogress_constraint = begun.copy(stateful=True) if begun is not None else None
        return other


class ConstrainedBeams(Beams):
    """Beams of B texts that end only when every constraint is met, or at the greatest length.

    Args:
        rules: what decides between them.
        first: (B, 1), the row of the feed in which each text's beams begin.
        trellis: where candidates are kept.
        constraints: what each new text, without the prompt, must contain.
        ends: the end tokens.
    """

    def __init__(
        self, rules: Rules, first: Tensor, trellis: Trellis, constraints: Sequence[Constraint], ends: list[int]
    ) -> None:
        super().__init__(rules, first, trellis)
        self._ends = ends
        self._states = [[ConstraintListState(constraints) for _ in range(rules.beams)] for _ in first]
        self._best = rules.candidates
        self._left = rules.longest - rules.prompt  # tokens that may still come
        self._candidate_met = self._met = torch.zeros_like(self.finished)  # by the newest candidates, by the finished

    def _candidates(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Beside the best continuations, those that meet more, and the best of each beam that has met everything."""
        values, parents, tokens = super()._candidates(scores)
        batch, size = len(self.first), scores.shape[1]
        self._best = values.shape[1]  # what is added comes after these
        total = scores.view(batch, -1, size) + self.running[:, :, None]
        going = total.clone()
        going[:, :, self._ends] = -torch.inf
        likely = going.argmax(dim=2).tolist()
        more = [
            [(beam, token) for beam, state in enumerate(states) for token in state.advance() or [likely[text][beam]]]
            for text, states in enumerate(self._states)
        ]
        if unknown := [token for found in more for _, token in found if not 0 <= token < size]:
            raise GenerationError(
                f"A constraint wants token {unknown[0]}, but the vocabulary has {size}: leave it out."
            )
        width = max(map(len, more))
        real = torch.tensor([[place < len(found) for place in range(width)] for found in more], device=scores.device)
        pairs = torch.tensor([found + [(0, 0)] * (width - len(found)) for found in more], device=scores.device)
        codes = pairs[..., 0] * size + pairs[..., 1]
        known = codes[:, :, None].eq((parents * size + tokens)[:, None]).any(dim=2)
        forced = total.flatten(1).gather(1, codes).masked_fill(known | ~real, -torch.inf)
        added = (forced, pairs[..., 0], pairs[..., 1])
        return tuple(torch.cat(pair, dim=1) for pair in zip((values, parents, tokens), added))  # type: ignore[return-value]

    def _going_on(self, values: Tensor, done: Tensor, parents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Beams from all banks in turn, those that have met most first, and in a bank the best first."""
        states = [
            [self._after(own[parent], token) for parent, token in zip(*pairs)]
            for own, *pairs in zip(self._states, parents.tolist(), tokens.tolist())
        ]
        self._left -= 1
        banks = torch.tensor([[self._bank(state) for state in row] for row in states], device=values.device)
        self._candidate_met = torch.tensor([[state.completed for state in row] for row in states], device=values.device)
        live = ~done & (values > FAR / 2)
        banks = banks.masked_fill(~live, -1)
        order = values.argsort(dim=1, descending=True, stable=True)
        order = order.gather(1, banks.gather(1, order).argsort(dim=1, descending=True, stable=True))
        ranked = banks.gather(1, order)
        place = torch.arange(order.shape[1], device=order.device).expand_as(order)
        begins = torch.cat([torch.ones_like(ranked[:, :1], dtype=torch.bool), ranked[:, 1:] != ranked[:, :-1]], dim=1)
        turn = place - place.where(begins, 0).cummax(dim=1).values
        turn = turn.masked_fill(ranked < 0, order.shape[1])
        chosen = order.gather(1, turn.argsort(dim=1, stable=True)[:, : self.rules.beams])
        running = values.add(done, alpha=FAR).gather(1, chosen)
        running, order = running.sort(dim=1, descending=True, stable=True)
        chosen = chosen.gather(1, order)
        self._states = [[row[place] for place in places] for row, places in zip(states, chosen.tolist())]
        return running, chosen

    def _bank(self, state: ConstraintListState) -> int:
        """How much is met, above all banks of those that cannot meet the rest any more."""
        fits = state.remaining() <= self._left
        return state.get_bank() + fits * (len(state.constraints) + 1) * state.max_seqlen

    def _after(self, state: ConstraintListState, token: int) -> ConstraintListState:
        if state.completed:
            return state
        state = state.copy()
        state.add(token)
        return state

    def _set_aside(self, values: Tensor, done: Tensor, first: int, length: int) -> None:
        """Keep the best of the finished sequences that met everything; at the greatest length, others fill the rest."""
        beams = self.rules.beams
        self._untouched = False
        met = self._candidate_met
        may_end = met.clone()
        may_end[:, beams : self._best] = False
        if length >= self.rules.longest - self.rules.prompt:
            may_end = torch.ones_like(met)
        new = done & (may_end | done.all(dim=1, keepdim=True)) & (values > FAR / 2) & self.wanting()
        values = (values / length**self.rules.length_penalty).where(new, FAR)
        nodes = torch.arange(first, self.trellis.size, device=done.device).expand_as(done)
        scores = torch.cat([self.scores, values], dim=1)
        finished = torch.cat([self.finished, new], dim=1)
        met = torch.cat([self._met, met & new], dim=1)
        best = scores.argsort(dim=1, descending=True, stable=True)
        rank = (met.int() + finished.int()).gather(1, best)
        best = best.gather(1, rank.argsort(dim=1, descending=True, stable=True))[:, :beams]
        self.scores, self.finished, self._met = (one.gather(1, best) for one in (scores, finished, met))
        self.ended = torch.cat([self.ended, nodes], dim=1).gather(1, best)


def build_constraints(settings: GenerationConfig) -> list[Constraint]:
    """The constraints that settings ask for.

    Raises:
        GenerationError: they are none, or other settings do not go with them.
    """
    if (settings.num_beams or 1) == 1:
        raise GenerationError("Constraints are met by beams: set num_beams above 1.")
    if settings.do_sample:
        raise GenerationError("Constrained beams take the best and draw nothing: set do_sample=False.")
    given = settings.constraints or []
    if not isinstance(given, (list, tuple)) or not all(hasattr(one, "advance") for one in given):
        raise GenerationError(f"constraints is {given!r}: give a list of Constraint objects.")
    found = [constraint.copy() for constraint in given]
    words = settings.force_words_ids
    if words is not None and (not isinstance(words, (list, tuple)) or not words):
        raise GenerationError(f"force_words_ids is {words!r}: give a list of words, each a list of token ids.")
    for word in words or ():
        several = isinstance(word, (list, tuple)) and bool(word) and isinstance(word[0], (list, tuple))
        found.append(DisjunctiveConstraint(word) if several else PhrasalConstraint(word))
    if not found:
        raise GenerationError("constraints is empty: give at least one, or leave it out.")
    return found


def _words(words: Any) -> list[list[int]]:
    def is_word(word: Any) -> bool:
        return (
            isinstance(word, (list, tuple))
            and bool(word)
            and all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in word)
        )

    if not isinstance(words, (list, tuple)) or not words or not all(map(is_word, words)):
        raise GenerationError(f"{words!r} are no words to force: give lists of token ids, none of them empty.")
    return [list(word) for word in words]
