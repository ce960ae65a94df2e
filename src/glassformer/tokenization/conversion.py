"""From a SentencePiece model to the arguments of a tokenizer."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from glassformer.errors import WrongClassError
from glassformer.tokenization.reading import backend_errors, merges_of
from glassformer.tokenization.sentencepiece import (
    BPE,
    CONTROL,
    SPACE,
    UNIGRAM,
    USER_DEFINED,
    SentencePieceModel,
)

ALGORITHMS: dict[int, type[models.Model]] = {UNIGRAM: models.Unigram, BPE: models.BPE}


def settings(spm: SentencePieceModel, given: dict[str, Any], model: type[models.Model]) -> dict[str, Any]:
    """`given`, and the vocabulary, special tokens and normalizer of the SentencePiece model.

    Raises:
        WrongClassError: The family runs another algorithm than the one the vocabulary was made for.
    """
    if ALGORITHMS[spm.algorithm] is not model:
        raise WrongClassError(
            f"The SentencePiece model is for {ALGORITHMS[spm.algorithm].__name__}, but this class runs "
            f"{model.__name__}: load it by PreTrainedTokenizerFast."
        )
    added = [piece for piece in spm.pieces if piece.kind in (CONTROL, USER_DEFINED)]
    result = {
        **given,
        "additional_special_tokens": [
            AddedToken(piece.text, normalized=False, special=piece.kind == CONTROL) for piece in added
        ],
        "_spm_precompiled_charsmap": spm.charsmap or None,
    }
    if spm.algorithm == BPE:
        result["vocab"] = {piece.text: index for index, piece in enumerate(spm.pieces)}
        result["merges"] = merges_of(result["vocab"])
    else:
        result["vocab"] = [(piece.text, piece.score) for piece in spm.pieces]
        result["unk_id"] = spm.unk_id
    return result


def generic_settings(spm: SentencePieceModel, given: dict[str, Any]) -> dict[str, Any]:
    """Like `settings`, for a checkpoint of no known family: the tokenizer follows the SentencePiece model alone."""
    result = settings(spm, given, ALGORITHMS[spm.algorithm])
    vocab, merges = result.pop("vocab"), result.pop("merges", None)
    if isinstance(vocab, dict):
        vocab = _renamed(vocab, given.get("added_tokens_decoder") or {})
    with backend_errors("The SentencePiece model"):
        if isinstance(vocab, dict):
            model: models.Model = models.BPE(
                vocab=vocab,
                merges=merges,
                unk_token=spm.unk_piece,
                fuse_unk=True,
                byte_fallback=spm.byte_fallback,
            )
        else:
            model = models.Unigram(vocab, unk_id=spm.unk_id, byte_fallback=spm.byte_fallback)
        backend = Tokenizer(model)
        charsmap: list[Any] = [normalizers.Precompiled(spm.charsmap)] if spm.charsmap else []
    backend.normalizer = normalizers.Sequence([*charsmap, normalizers.Replace(" ", SPACE)])
    steps: list[Any] = [decoders.Replace(SPACE, " ")]
    if spm.byte_fallback:
        steps += [decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps)
    result["tokenizer_object"] = backend
    for role, index, piece in (
        ("bos_token", spm.bos_id, spm.bos_piece),
        ("eos_token", spm.eos_id, spm.eos_piece),
        ("unk_token", spm.unk_id, spm.unk_piece),
    ):
        if index >= 0:
            result.setdefault(role, piece)
    return result


def _renamed(vocab: dict[str, int], added: dict[int, AddedToken]) -> dict[str, int]:
    """The vocabulary with placeholders replaced by the tokens that tokenizer_config.json puts at their ids."""
    names = {index: token for token, index in vocab.items()}
    for index, token in added.items():
        old, new = names.get(int(index)), str(token)
        if old and old != new and new not in vocab:
            vocab[new] = vocab.pop(old)
            names[int(index)] = new
    return vocab
