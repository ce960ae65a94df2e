"""Writing a tokenizer's folder: all files are complete before the first of them takes its place."""

from __future__ import annotations

import copy
import json
import os
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken

from glassformer.checkpoints.save import write_files
from glassformer.errors import TokenizerError
from glassformer.tokenization.loading import TEMPLATE_FILE, TEMPLATE_FOLDER

if TYPE_CHECKING:
    from glassformer.tokenization.tokenizer import TokenizersBackend

# Settings that say where the files came from, and those that are written elsewhere.
NOT_SAVED = (
    "add_bos_token", "add_eos_token", "added_tokens_decoder", "additional_special_tokens", "files_loaded",
    "name_or_path", "special_tokens_map_file", "tokenizer_file", "device_map", "slow_tokenizer_class",
)  # fmt: skip


def save(
    tokenizer: TokenizersBackend,
    directory: str | os.PathLike[str],
    prefix: str | None,
    push_to_hub: bool,
    jinja_files: bool,
) -> tuple[str, ...]:
    """What `tokenizer.save_pretrained` does."""
    if push_to_hub:
        raise TokenizerError("A tokenizer is not uploaded from here: save it, then run `hf upload <name> <folder>`.")
    if os.path.isfile(directory):
        raise TokenizerError(f"{directory} is a file: pass a folder.")
    config = _config(tokenizer)
    files: dict[str, str] = {}
    template = tokenizer.chat_template
    if template is not None:
        config.pop("chat_template", None)
    if jinja_files:
        templates = {"default": template} if isinstance(template, str) else template or {}
        for name, text in templates.items():
            files[TEMPLATE_FILE if name == "default" else f"{TEMPLATE_FOLDER}/{_plain_name(name)}.jinja"] = text
    elif isinstance(template, dict):
        config["chat_template"] = [{"name": name, "template": text} for name, text in template.items()]
    elif template is not None:
        config["chat_template"] = template
    first = {"tokenizer_config.json": json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"}
    files = {**first, **files, "tokenizer.json": tokenizer.backend_tokenizer.to_str(pretty=True)}
    return write_files(directory, {f"{prefix}-{name}" if prefix else name: text for name, text in files.items()})


def _config(tokenizer: TokenizersBackend) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    config: dict[str, Any] = copy.deepcopy(tokenizer.init_kwargs)
    for key in {*config, "model_max_length"}:
        if hasattr(tokenizer, key):
            config[key] = getattr(tokenizer, key)
    config.update(tokenizer.special_tokens_map)
    if tokenizer.extra_special_tokens:
        config["extra_special_tokens"] = tokenizer.extra_special_tokens
    if tokenizer.response_template is not None:
        config["response_template"] = tokenizer.response_template
    if tokenizer.chat_control_tokens is not None:
        config["chat_control_tokens"] = list(tokenizer.chat_control_tokens)
    if tokenizer.init_inputs:
        config["init_inputs"] = copy.deepcopy(tokenizer.init_inputs)
    for key in (*NOT_SAVED, *tokenizer.vocab_files_names):
        config.pop(key, None)
    config["tokenizer_class"] = type(tokenizer).__name__
    if tokenizer._processor_class is not None:
        config["processor_class"] = tokenizer._processor_class
    return {key: _jsonable(value) for key, value in config.items()}


def _jsonable(value: Any) -> Any:
    """Added tokens as dictionaries that say what they are, at any depth."""
    if isinstance(value, AddedToken):
        return {**value.__getstate__(), "__type": "AddedToken"}
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    return [_jsonable(item) for item in value] if isinstance(value, (list, tuple)) else value


def _plain_name(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise TokenizerError(f"A chat template cannot be named {name!r}, which is no name of a file: rename it.")
    return name
