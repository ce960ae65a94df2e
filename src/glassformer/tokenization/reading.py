"""The files a vocabulary is kept in: vocab.txt, vocab.json with merges.txt, tokenizer.json."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from glassformer.checkpoints.hub import read_json
from glassformer.errors import BrokenFileError, MissingFileError

SIZE_LIMIT = 128 * 2**20  # bytes

# What Unicode calls white space; Python's own notion has four control characters more.
WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"  # fmt: skip  # noqa: E501

Merges = list[tuple[str, str]]


@contextmanager
def backend_errors(what: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of the `tokenizers` library about what a file holds, its panics included, as one sentence."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())
        raise BrokenFileError(f"{what} makes no tokenizer ({reason}): fetch or write it again.") from error


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a text file.

    Raises:
        MissingFileError: The file cannot be read.
        BrokenFileError: It is larger than 128 MiB or no UTF-8.
    """
    try:
        if (size := os.path.getsize(path)) > SIZE_LIMIT:
            raise BrokenFileError(f"{path} has {size} bytes, more than the {SIZE_LIMIT} allowed for a vocabulary.")
        text = Path(path).read_bytes().decode("utf-8")
    except BrokenFileError:
        raise
    except OSError as error:
        raise MissingFileError(f"{path} cannot be read ({error.strerror}): check path and permissions.") from error
    except UnicodeDecodeError as error:
        raise BrokenFileError(f"{path} is no text in UTF-8 ({error}): fetch it again.") from error
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def read_vocab_txt(path: str | os.PathLike[str]) -> dict[str, int]:
    """The vocabulary of vocab.txt: a token a line, its id the number of the line."""
    return {line.rstrip(WHITE_SPACE): index for index, line in enumerate(read_lines(path))}


def read_vocab_json(path: str | os.PathLike[str]) -> dict[str, int]:
    """The vocabulary of vocab.json: from token to id."""
    vocab = read_json(path)
    for token, index in vocab.items():
        if type(index) is not int or not 0 <= index < 2**32:
            raise BrokenFileError(f"{path}: the id of {token!r} is {index!r}, not a number: fetch or write it again.")
    return vocab


def read_merges(path: str | os.PathLike[str]) -> Merges:
    """The merges of merges.txt: two pieces a line, the most important first."""
    merges = []
    for number, line in enumerate(read_lines(path), start=1):
        line = line.removesuffix("\r")
        if line and not line.startswith("#version"):
            merges.append(_pair(line.split(" "), f"{path}, line {number}"))
    return merges


def read_tokenizer_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What tokenizer.json says, as far as a family takes it over.

    Returns:
        `kind` ("BPE", "WordPiece", "Unigram", "WordLevel"), `vocab`, `merges`, `post_processor`, `truncation`,
        `padding`, and `charsmap`, the bytes of a SentencePiece normalizer.

    Raises:
        BrokenFileError: The file is malformed.
    """
    content = read_json(path)
    model = content.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), (dict, list)):
        raise BrokenFileError(f"{path} holds no model with a vocabulary: fetch or write it again.")
    vocab = model["vocab"]
    kind = model.get("type") or ("BPE" if "merges" in model else "Unigram" if isinstance(vocab, list) else "WordPiece")
    # What belongs to the backend is read by it, around an empty vocabulary.
    shell = {
        "version": "1.0",
        "truncation": content.get("truncation"),
        "padding": content.get("padding"),
        "post_processor": content.get("post_processor"),
        "normalizer": content.get("normalizer"),
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    import json

    with backend_errors(path):
        backend = Tokenizer.from_str(json.dumps(shell))
    merges = model.get("merges") or []
    if not isinstance(merges, list):
        raise BrokenFileError(f"{path}: merges are no list: fetch or write it again.")
    return {
        "kind": kind,
        "vocab": [_scored(entry, path) for entry in vocab] if isinstance(vocab, list) else vocab,
        "merges": [_pair(pair.split(" ") if isinstance(pair, str) else pair, path) for pair in merges],
        "post_processor": backend.post_processor,
        "truncation": backend.truncation,
        "padding": backend.padding,
        "charsmap": _charsmap(content.get("normalizer"), path),
    }


def read_backend(path: str | os.PathLike[str]) -> Tokenizer:
    """The `tokenizers.Tokenizer` that a tokenizer.json describes."""
    if not os.path.isfile(path):
        raise MissingFileError(f"{path} is not there: pass the path of a tokenizer.json.")
    if (size := os.path.getsize(path)) > SIZE_LIMIT:
        raise BrokenFileError(f"{path} has {size} bytes, more than the {SIZE_LIMIT} allowed: is it JSON at all?")
    with backend_errors(path):
        return Tokenizer.from_file(os.fspath(path))


def merges_of(vocab: Mapping[str, int], skipped: frozenset[str] = frozenset()) -> Merges:
    """The merges that a BPE vocabulary implies: every way to make a token of two others, in the order of the tokens."""
    found = []
    for token, rank in vocab.items():
        if token in skipped:
            continue
        halves = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        halves = [(a, b) for a, b in halves if a in vocab and b in vocab and a not in skipped and b not in skipped]
        found += [(rank, a, b) for a, b in sorted(halves, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))]
    found.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])))
    return [(a, b) for _, a, b in found]


def _pair(pair: Any, where: str | os.PathLike[str]) -> tuple[str, str]:
    if isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(half, str) for half in pair):
        return pair[0], pair[1]
    raise BrokenFileError(f"{where}: {pair!r} is no pair of pieces to merge: fetch or write it again.")


def _scored(entry: Any, path: str | os.PathLike[str]) -> tuple[str, float]:
    if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], (int, float)):
        return entry[0], float(entry[1])
    raise BrokenFileError(f"{path}: {entry!r} is no token with a score: fetch or write it again.")


def _charsmap(normalizer: Any, path: str | os.PathLike[str]) -> bytes | None:
    import base64

    for part in normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []:
        if part.get("type") == "Precompiled" and part.get("precompiled_charsmap"):
            with backend_errors(path):
                return base64.b64decode(part["precompiled_charsmap"])
    return None
