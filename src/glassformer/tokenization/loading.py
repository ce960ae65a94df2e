"""From the files of a checkpoint to a tokenizer: which files there are, what they say, and who overrides whom."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken

from glassformer.checkpoints.hub import Repository, read_json
from glassformer.errors import BrokenFileError, InputError, MissingFileError, TokenizerError, WrongClassError
from glassformer.tokenization.reading import merges_of, read_lines, read_tokenizer_json
from glassformer.tokenization.sentencepiece import read_model

if TYPE_CHECKING:
    from glassformer.tokenization.tokenizer import TokenizersBackend

TEMPLATE_FILE, TEMPLATE_FOLDER = "chat_template.jinja", "additional_chat_templates"

# Arguments of a constructor that a checkpoint's configuration may not give: paths, which could lead anywhere, and
# what is made of files here.
CALLERS_ONLY = (
    "vocab_file", "merges_file", "tokenizer_file", "tokenizer_object", "_backend", "decoder", "vocab", "merges",
    "post_processor", "tokenizer_padding", "tokenizer_truncation", "init_inputs", "tokenizer_class", "auto_map",
    "added_tokens_file", "special_tokens_map_file", "gguf_file", "_spm_precompiled_charsmap",
)  # fmt: skip
ADDED_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
SPECIAL_ROLES = (
    "pad_token", "unk_token", "bos_token", "eos_token", "sep_token", "cls_token", "mask_token",
    "additional_special_tokens", "extra_special_tokens",
)  # fmt: skip


def load(
    cls: type[TokenizersBackend],
    name: str | os.PathLike[str],
    inputs: tuple[Any, ...],
    kwargs: dict[str, Any],
    repository: Repository | None = None,
) -> TokenizersBackend:
    """What `cls.from_pretrained(name, *inputs, **kwargs)` returns; the repository too if it is open already."""
    kwargs = dict(kwargs)
    repository = repository or Repository.take(name, kwargs)
    if kwargs.get("gguf_file"):
        raise InputError("A tokenizer inside a GGUF file is not read: pass a folder with tokenizer.json.")
    for ignored in ("trust_remote_code", "use_fast", "code_revision", "mistral_format", "_from_auto", "_commit_hash"):
        kwargs.pop(ignored, None)
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    settings: dict[str, Any]
    if os.path.isfile(name):
        settings = kwargs
        files: dict[str, str | None] = {_role_of_file(cls, name): os.fspath(name)}
    else:
        found = repository.find("tokenizer_config.json")
        config = read_json(found) if found else {}
        files = _vocabulary_files(cls, repository, config)
        settings = {key: value for key, value in config.items() if key not in CALLERS_ONLY}
        if files["tokenizer_file"]:  # which says by itself what is put around a text
            settings.pop("add_bos_token", None)
            settings.pop("add_eos_token", None)
        settings.update(_chat_templates(repository))
        settings.update(kwargs)
    _sort_special_tokens(cls, settings)
    settings.update({role: path for role, path in files.items() if kwargs.get(role) is None})
    settings["name_or_path"] = os.fspath(name)
    settings["is_local"] = repository.is_local
    settings["local_files_only"] = repository.local_files_only or offline
    added = _added_tokens(cls, repository, settings, kwargs, single=os.path.isfile(name))
    settings["added_tokens_decoder"] = added
    settings = {key: _restored(value) for key, value in settings.items()}
    by_content = {token.content: token for token in added.values()}
    for role in cls.SPECIAL_TOKENS_ATTRIBUTES:
        if settings.get(role) is not None:
            settings[role] = by_content.get(str(settings[role]), settings[role])
    settings = _native(cls, settings, repository)
    try:
        return cls(*inputs, **settings)
    except TypeError as error:
        raise TokenizerError(f"{name}: a setting of the tokenizer is of the wrong type ({error}).") from error


def _role_of_file(cls: type[TokenizersBackend], path: str | os.PathLike[str]) -> str:
    if os.fspath(path).endswith("tokenizer.json"):
        return "tokenizer_file"
    if len(cls.vocab_files_names) > 1 and "tokenizer_file" not in cls.vocab_files_names:
        raise InputError(f"{path}: a {cls.__name__} takes several files, so pass their folder.")
    return "vocab_file"


def _vocabulary_files(
    cls: type[TokenizersBackend], repository: Repository, config: dict[str, Any]
) -> dict[str, str | None]:
    """The path of each of the class's files, `None` for those that are not there."""
    names = {**cls.vocab_files_names, "tokenizer_file": _newest(config.get("fast_tokenizer_files"))}
    paths = {role: repository.find(name) for role, name in names.items()}
    if paths["tokenizer_file"] is None and names["vocab_file"] != "tokenizer.model":
        paths["vocab_file"] = repository.find("tokenizer.model") or paths["vocab_file"]
    return {role: os.fspath(path) if path else None for role, path in paths.items()}


def _newest(files: Any) -> str:
    """The last of several versions of tokenizer.json, `tokenizer.4.0.0.json`; all are older than this library."""
    versions = {}
    for name in files if isinstance(files, list) else []:
        if isinstance(name, str) and (match := re.fullmatch(r"tokenizer\.(\d+(?:\.\d+)*)\.json", name)):
            versions[tuple(map(int, match[1].split(".")))] = name
    return versions[max(versions)] if versions else "tokenizer.json"


def _chat_templates(repository: Repository) -> dict[str, Any]:
    """The template files; they win over templates in tokenizer_config.json."""
    found = {"default": repository.find(TEMPLATE_FILE)}
    folder = repository.folder / TEMPLATE_FOLDER if repository.folder else None
    for path in sorted(folder.glob("*.jinja")) if folder and folder.is_dir() else []:
        found[path.stem] = repository.find(f"{TEMPLATE_FOLDER}/{path.name}")
    texts = {name: _text(path) for name, path in found.items() if path}
    if not texts:
        return {}
    return {"chat_template": texts["default"] if list(texts) == ["default"] else texts}


def _text(path: Path) -> str:
    read_lines(path)  # checks size and encoding
    return path.read_text(encoding="utf-8")


def _sort_special_tokens(cls: type[TokenizersBackend], settings: dict[str, Any]) -> None:
    """Bring older spellings of special tokens into the present one."""
    if "additional_special_tokens" in settings and not settings.get("extra_special_tokens"):
        settings["extra_special_tokens"] = settings.pop("additional_special_tokens")
    named = {
        key: settings.pop(key)
        for key in list(settings)
        if key.endswith("_token")
        and key not in cls.SPECIAL_TOKENS_ATTRIBUTES
        and isinstance(settings[key], (str, AddedToken))
    }
    if isinstance(settings.get("extra_special_tokens"), dict):
        named.update(settings.pop("extra_special_tokens"))
    if named:
        settings["model_specific_special_tokens"] = named


def _added_tokens(
    cls: type[TokenizersBackend],
    repository: Repository,
    settings: dict[str, Any],
    kwargs: dict[str, Any],
    single: bool,
) -> dict[int, AddedToken]:
    """The tokens added to the vocabulary, by id; `settings` gain the special tokens of special_tokens_map.json."""
    if "added_tokens_decoder" in settings:
        tokens = settings["added_tokens_decoder"]
        if not isinstance(tokens, dict):
            raise BrokenFileError(f"added_tokens_decoder is a {type(tokens).__name__}: fix tokenizer_config.json.")
        return {_id(index): _added_token(token) for index, token in tokens.items()}
    added: dict[int, AddedToken] = {}
    roles = None if single else repository.find("special_tokens_map.json")
    for role, value in read_json(roles).items() if roles else ():
        if kwargs.get(role) or not role.endswith(("_token", "special_tokens")):
            continue
        if role == "extra_special_tokens" and isinstance(value, list):
            present = _listed(settings.get(role))
            value = present + [token for token in map(_special_token, value) if token not in present]
        elif role != "extra_special_tokens":
            value = _special_token(value)
        settings[role] = value
    if isinstance(settings.get("extra_special_tokens"), dict):
        named = settings.get("model_specific_special_tokens")  # null and what is no dictionary name nothing
        extra = settings.pop("extra_special_tokens")
        settings["model_specific_special_tokens"] = {**(named if isinstance(named, dict) else {}), **extra}
    ids = None if single else repository.find("added_tokens.json")
    if ids:
        special = {str(settings[role]) for role in cls.SPECIAL_TOKENS_ATTRIBUTES if settings.get(role)}
        special.update(map(str, _listed(settings.get("extra_special_tokens"))))
        for text, index in read_json(ids).items():
            added[_id(index)] = AddedToken(text, normalized=text not in special, special=text in special)
    if settings.get("tokenizer_file"):
        entries = read_json(settings["tokenizer_file"]).get("added_tokens")
        for entry in entries if isinstance(entries, list) else []:
            token = _added_token(entry)
            added[_id(entry.get("id"))] = token
    return added


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _id(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise BrokenFileError(
            f"An added token has the id {value!r}, which is no number: fix the tokenizer's files."
        ) from error


def _added_token(value: Any) -> AddedToken:
    if isinstance(value, AddedToken):
        return value
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        flags = {key: value[key] for key in ADDED_TOKEN_FLAGS if isinstance(value.get(key), bool)}
        return AddedToken(value["content"], **flags)
    raise BrokenFileError(f"{value!r} is no added token: fix the tokenizer's files.")


def _special_token(value: Any) -> Any:
    return _added_token({**value, "special": True}) if isinstance(value, dict) else value


def _restored(value: Any) -> Any:
    """Added tokens, which JSON holds as dictionaries, at any depth."""
    if isinstance(value, dict):
        if value.get("__type") == "AddedToken":
            return _added_token(value)
        return {key: _restored(item) for key, item in value.items()}
    return [_restored(item) for item in value] if isinstance(value, (list, tuple)) else value


def _native(cls: type[TokenizersBackend], settings: dict[str, Any], repository: Repository) -> dict[str, Any]:
    """The constructor's arguments, with the vocabulary out of the file that holds it."""
    path, vocab_file = settings.pop("tokenizer_file", None), settings.get("vocab_file")
    if cls.model is None and path:
        return {**settings, "tokenizer_file": path}
    if path:
        content = read_tokenizer_json(path)
        kind = cls.model.__name__ if cls.model else content["kind"]
        if content["kind"] != kind and not (kind == "WordPiece" and content["kind"] == "WordLevel"):
            raise WrongClassError(
                f"{path} holds a {content['kind']} model, but {cls.__name__} runs {kind}: "
                "load it by PreTrainedTokenizerFast."
            )
        settings["vocab"] = content["vocab"]
        if kind == "BPE":
            settings["merges"] = content["merges"]
        if content["charsmap"] and kind == "Unigram":
            settings["_spm_precompiled_charsmap"] = content["charsmap"]
        return {
            **settings,
            "post_processor": content["post_processor"],
            "tokenizer_truncation": content["truncation"],
            "tokenizer_padding": content["padding"],
        }
    if vocab_file and os.fspath(vocab_file).endswith(".model"):
        if os.path.basename(vocab_file) == "tiktoken.model":
            raise TokenizerError(
                f"{vocab_file} is a tiktoken vocabulary, which is not read: convert it to tokenizer.json."
            )
        return cls._from_sentencepiece(read_model(vocab_file), settings)
    vocab, merges = settings.get("vocab"), settings.get("merges")
    if isinstance(vocab, dict) and merges is None and cls.model is not None and cls.model.__name__ == "BPE":
        skipped = [settings.get(role) or [] for role in SPECIAL_ROLES]
        tokens = [token for entry in skipped for token in (entry if isinstance(entry, (list, tuple)) else [entry])]
        settings["merges"] = merges_of(vocab, frozenset(map(str, tokens)))
    if vocab is None and vocab_file:
        settings["vocab"] = vocab_file
    if merges is None and settings.get("merges_file"):
        settings["merges"] = settings["merges_file"]
    if vocab is None and not vocab_file and settings.get("tokenizer_object") is None:
        raise _nothing_found(cls, repository)
    return settings


def _nothing_found(cls: type[TokenizersBackend], repository: Repository) -> MissingFileError:
    """Which files were looked for, and what is there instead."""
    names = " or ".join(dict.fromkeys(["tokenizer.json", *cls.vocab_files_names.values()]))
    there = repository.list()
    if there is None:
        repository.require("tokenizer.json", "the tokenizer")  # says whether the hub was reached
    for old, family in (("vocab.txt", "Bert"), ("spiece.model", "T5"), ("merges.txt", "GPT2")):
        if there and old in there and old not in cls.vocab_files_names.values():
            return MissingFileError(
                f"{repository.name} has {old}, but {cls.__name__} reads {names}: "
                f"load it by {family}Tokenizer, or name the class in tokenizer_config.json."
            )
    return MissingFileError(
        f"{repository.name} has no tokenizer: {names} is not among its files ({', '.join(there or []) or 'none'})."
    )
