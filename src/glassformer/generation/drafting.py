"""What guesses the next tokens in assisted decoding: a lookup in the text so far, or a smaller model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from glassformer.errors import GenerationError
from glassformer.generation.assemble import Situation, build_processors
from glassformer.generation.config import GenerationConfig
from glassformer.generation.prompt import prepare
from glassformer.generation.search import Feed, Processors
from glassformer.generation.seeds import Generators, Noise, draw_with

_SCHEDULES = ("constant", "heuristic", "heuristic_transient")


@dataclass
class Guess:
    """Guesses at the next tokens.

    Attributes:
        tokens: (B, n); n may be 0.
        weights: (B, V) a token, the probabilities by which it was drawn; None where it was not drawn.
    """

    tokens: Tensor
    weights: list[Tensor] | None = None


class Drafter(Protocol):
    """What guesses."""

    def guess(self, ids: Tensor, most: int) -> Guess:
        """At most `most` tokens that may follow ids, (B, T)."""

    def learn(self, guessed: int, kept: int) -> None:
        """Hear how many of the guessed tokens were kept."""


@dataclass
class Lookup:
    """Guesses that what followed the last tokens earlier in the text follows them again.

    Attributes:
        count: how many tokens are guessed at most.
        longest: how many of the last tokens are looked for at most; fewer if they are found nowhere.
        ends: tokens before which a guess stops.
    """

    count: int
    longest: int
    ends: list[int]

    def guess(self, ids: Tensor, most: int) -> Guess:
        """See `Drafter`."""
        rows = [self._follows(row, min(self.count, most)) for row in ids]
        length = max(map(len, rows))
        # A row that finds less than another takes part with a guess of no reason.
        filled = [row + [0] * (length - len(row)) for row in rows]
        return Guess(torch.tensor(filled, dtype=ids.dtype, device=ids.device).reshape(len(rows), length))

    def learn(self, guessed: int, kept: int) -> None:
        """Nothing to learn: the text is all there is."""

    def _follows(self, row: Tensor, most: int) -> list[int]:
        for size in range(min(self.longest, len(row) - 1), 0, -1):
            earlier = row.unfold(0, size, 1)[:-1]
            if found := (earlier == row[-size:]).all(dim=1).nonzero()[:1].flatten().tolist():
                start = found[0] + size
                guess = row[start : start + most].tolist()
                return guess[: next((at for at, token in enumerate(guess) if token in self.ends), len(guess))]
        return []


@dataclass
class DraftModel:
    """Guesses what a smaller model would write.

    Attributes:
        feed: the smaller model and what it has read.
        choose: as the model's tokens are chosen: the likeliest, or drawn; from the probabilities (B, V) and how many
            tokens ahead the guess is.
        processors: for its scores.
        weighed: whether a guess stands by its probability, for `speculative`, or is right where the model chooses it.
        count: how many tokens are guessed at most.
        schedule: "constant"; or "heuristic" or "heuristic_transient": two more after a guess that was right
            throughout, else one less.
        confidence: a token less probable than this is the last of its guess; 0 for no such limit.
        ends: tokens after which a guess stops.
        room: positions that the smaller model has, or None for no limit.
        kept_in: where "heuristic" keeps its count from call to call.
    """

    feed: Feed
    choose: Callable[[Tensor, int], Tensor]
    processors: Processors
    weighed: bool
    count: int
    schedule: str
    confidence: float
    ends: Tensor
    room: int | None = None
    kept_in: GenerationConfig | None = None

    def guess(self, ids: Tensor, most: int) -> Guess:
        """See `Drafter`."""
        if self.room is not None:
            most = min(most, self.room - ids.shape[1])
        if most <= 0:
            return Guess(ids[:, :0])
        self._catch_up(ids.to(self.feed.ids.device))
        tokens: list[Tensor] = []
        weights: list[Tensor] = []
        while len(tokens) < min(self.count, most):
            logits = self.feed.step().logits[:, -1].to(torch.float32, copy=True)
            self.feed.fresh = 0
            scores = self.processors(self.feed.ids, logits)
            probabilities = scores.softmax(dim=-1)
            token = self.choose(probabilities, len(tokens))
            extend(self.feed, token[:, None])
            tokens.append(token)
            weights.append(probabilities.to(ids.device))
            sure = probabilities.gather(1, token[:, None]).squeeze(1) >= self.confidence
            if not bool((sure & ~torch.isin(token, self.ends)).all()):
                break
        return Guess(torch.stack(tokens, dim=1).to(ids.device), weights if self.weighed else None)

    def learn(self, guessed: int, kept: int) -> None:
        """Guess more after success, less after failure, if the schedule says so."""
        if self.schedule != "constant":
            self.count = self.count + 2 if kept == guessed else max(1, self.count - 1)
        if self.schedule == "heuristic" and self.kept_in is not None:
            self.kept_in.num_assistant_tokens = self.count

    def _catch_up(self, ids: Tensor) -> None:
        """Forget the guesses that were wrong, and take the tokens in their place."""
        length = min(ids.shape[1], self.feed.ids.shape[1])
        same = (ids[:, :length] == self.feed.ids[:, :length]).all(dim=0)
        agreed = length if bool(same.all()) else int(same.int().argmin())
        shorten(self.feed, self.feed.ids.shape[1] - agreed)
        extend(self.feed, ids[:, agreed:])


def build_drafter(
    assistant: Any,
    settings: GenerationConfig,
    called: set[str],
    now: Situation,
    feed: Feed,
    inputs: Tensor | None,
    given: dict[str, Any],
    prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None,
    chance: Generators | Noise,
) -> Drafter:
    """What guesses in a call: its smaller model, or else the lookup that its settings ask for.

    Args:
        assistant: the smaller model, of the same vocabulary, or None.
        settings: of the call.
        called: names of the settings that the call itself gives; those about assistants otherwise come from the
            smaller model's generation_config.
        now: of the call.
        feed: the larger model and its prompt.
        inputs: token ids (B, T), as given to the call.
        given: the other arguments of the call.
        prefix_allowed_tokens_fn: as given to the call.
        chance: where samples are drawn from.

    Raises:
        GenerationError: the models do not fit each other, a setting has a value that is not known, or the call has no
            cache or begins with embeddings.
    """
    if not feed.use_cache:
        raise GenerationError("Assisted decoding takes wrong guesses out of the cache: leave out use_cache=False.")
    if feed.embeds is not None:
        raise GenerationError("Assisted decoding guesses from tokens: pass input_ids, not inputs_embeds.")
    share = settings.assistant_ensemble_weight
    if share is not None and not 0 < share < 1:
        raise GenerationError(f"assistant_ensemble_weight is {share}: it must lie between 0 and 1, or be None.")
    if settings.assistant_early_exit is not None:
        if assistant is not None:
            raise GenerationError("assistant_model and assistant_early_exit both say who guesses: leave out one.")
        assistant = early_exit(now.model, settings.assistant_early_exit)
    if assistant is None:
        if share is not None:
            raise GenerationError("assistant_ensemble_weight weighs a draft model's guesses: a lookup has no weights.")
        return _lookup(settings, now)
    if share is not None and len(feed.ids) > 1:
        raise GenerationError(
            "With assistant_ensemble_weight guesses change the text, and the rows of a batch would depend on each "
            "other: pass one row."
        )
    _check_pair(assistant, now.model)

    def setting(name: str) -> Any:
        own = getattr(assistant.generation_config, name)
        return getattr(settings, name) if name in called or own is None else own

    count, schedule = setting("num_assistant_tokens"), setting("num_assistant_tokens_schedule")
    if count < 1:
        raise GenerationError(f"num_assistant_tokens is {count}: it must be at least 1.")
    if schedule not in _SCHEDULES:
        raise GenerationError(f"num_assistant_tokens_schedule is {schedule!r}: choose one of {', '.join(_SCHEDULES)}.")
    plain = copy.copy(settings)
    plain.guidance_scale, plain.return_dict_in_generate = None, False
    own_feed, _ = prepare(assistant, plain, None, _read_by(assistant, inputs, given))
    return DraftModel(
        feed=own_feed,
        choose=_chooser(chance) if settings.do_sample else lambda probabilities, step: probabilities.argmax(dim=-1),
        # Guidance, and processors of one's own, may remember what they have seen: they see no guesses.
        processors=build_processors(plain, now, [], prefix_allowed_tokens_fn),
        weighed=settings.assistant_ensemble_weight is not None
        or (bool(settings.do_sample) and not isinstance(chance, Noise)),
        count=count,
        schedule=schedule,
        confidence=setting("assistant_confidence_threshold") or 0.0,
        ends=torch.tensor(now.ends, dtype=torch.long, device=assistant.device),
        room=getattr(assistant.config, "max_position_embeddings", None),
        kept_in=assistant.generation_config,
    )


def early_exit(model: Any, layers: int) -> Any:
    """The model without its later layers, on the same weights: it guesses from the states between.

    Args:
        model: whose decoder has more layers.
        layers: how many are kept.

    Raises:
        GenerationError: the decoder has no more than that, or none would be left.
    """
    path = "transformer.decoder"
    own = model.get_submodule(path).layers
    if not 0 < layers < len(own):
        raise GenerationError(f"assistant_early_exit is {layers}: the decoder has {len(own)} layers, keep fewer.")
    twin = _shallow(model)
    part = twin
    for name in path.split("."):
        part._modules[name] = _shallow(part._modules[name])
        part = part._modules[name]
    part.layers = own[:layers]
    twin.generation_config = copy.copy(model.generation_config)
    return twin


def _shallow(module: Any) -> Any:
    """A module with the same parts, of which others can be put in without touching the first."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    for name in ("executor", "burst"):
        if hasattr(module, name):
            setattr(twin, name, copy.copy(getattr(module, name)))  # it belongs to one module
    return twin


def _chooser(chance: Generators | Noise) -> Callable[[Tensor, int], Tensor]:
    if isinstance(chance, Noise):
        return chance.guess
    draw = draw_with(chance)
    return lambda probabilities, step: draw(probabilities)


def _lookup(settings: GenerationConfig, now: Situation) -> Lookup:
    count, longest = settings.prompt_lookup_num_tokens, settings.max_matching_ngram_size or 2
    for name, size in (("prompt_lookup_num_tokens", count), ("max_matching_ngram_size", longest)):
        if size < 1:
            raise GenerationError(f"{name} is {size}: it must be at least 1.")
    return Lookup(count, longest, now.ends)


def _check_pair(assistant: Any, model: Any) -> None:
    if not hasattr(assistant, "arguments") or not hasattr(assistant, "generation_config"):
        raise GenerationError(f"assistant_model is a {type(assistant).__name__}: pass a model of this library.")
    if assistant.config.is_encoder_decoder != model.config.is_encoder_decoder:
        raise GenerationError(
            f"{type(assistant).__name__} cannot assist {type(model).__name__}: both must be decoder-only, or both "
            "encoder-decoders."
        )
    if assistant.config.vocab_size != model.config.vocab_size:
        raise GenerationError(
            f"The assistant_model has {assistant.config.vocab_size} tokens, the model {model.config.vocab_size}: pass "
            "one with the same tokenizer."
        )


def _read_by(assistant: Any, inputs: Tensor | None, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the call that the smaller model takes; what belongs to the larger is left out."""
    own = ("past_key_values", "encoder_outputs", "inputs_embeds", "output_attentions", "output_hidden_states")
    read = {name: value for name, value in given.items() if name in assistant.arguments and name not in own}
    if inputs is not None:
        read["input_ids"] = inputs
    ids = read.get("input_ids")
    if ids is None and ("encoder_outputs" in given or "inputs_embeds" in given):
        raise GenerationError("The assistant_model has an encoder of its own, which reads tokens: pass input_ids.")
    if ids is not None and read.get("attention_mask") is not None:
        read["attention_mask"] = read["attention_mask"][:, -ids.shape[1] :]  # it may cover a cache, too
    return read


def extend(feed: Feed, tokens: Tensor) -> None:
    """Add tokens (B, n) that the model has not read yet."""
    count = tokens.shape[1]
    feed.ids = torch.cat([feed.ids, tokens], dim=1)
    feed.fresh += count
    if feed.mask is not None:
        feed.mask = torch.cat([feed.mask, feed.mask.new_ones(len(feed.mask), count)], dim=1)
    if feed.positions is not None:
        following = feed.positions[:, -1:] + torch.arange(1, count + 1, device=feed.ids.device)
        feed.positions = torch.cat([feed.positions, following], dim=1)
    if feed.token_types is not None:
        feed.token_types = torch.cat([feed.token_types, feed.token_types[:, -1:].expand(-1, count)], dim=1)


def shorten(feed: Feed, count: int) -> None:
    """Take the last `count` tokens away, from the cache too where they have been read."""
    read = count - feed.fresh
    feed.fresh = max(0, feed.fresh - count)
    if read > 0:
        feed.cache.crop(-read)
    end = feed.ids.shape[1] - count
    feed.ids = feed.ids[:, :end]
    for name in ("mask", "positions", "token_types"):
        value = getattr(feed, name)
        if value is not None:
            setattr(feed, name, value[:, : value.shape[1] - count])
