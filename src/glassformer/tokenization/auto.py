"""AutoTokenizer: from the files of a checkpoint to the class of its family."""

from __future__ import annotations

import os
from typing import Any

from glassformer.checkpoints.hub import Repository, read_json
from glassformer.errors import TokenizerError
from glassformer.tokenization import families
from glassformer.tokenization.loading import load
from glassformer.tokenization.tokenizer import TokenizersBackend

CLASSES: dict[str, type[TokenizersBackend]] = {
    "BartTokenizer": families.BartTokenizer,
    "BertTokenizer": families.BertTokenizer,
    "GPT2Tokenizer": families.GPT2Tokenizer,
    "LlamaTokenizer": families.LlamaTokenizer,
    "RobertaTokenizer": families.RobertaTokenizer,
    "T5Tokenizer": families.T5Tokenizer,
}

# Which class the checkpoints of a model type are for; those of the last row say all in their tokenizer.json, whatever
# class their configuration names.
MODEL_TYPES: dict[type[TokenizersBackend], str] = {
    families.BertTokenizer: (
        "align bark bert blip bros chinese_clip convbert distilbert electra ernie flava git grounding-dino layoutlm "
        "megatron-bert mm-grounding-dino nezha nomic_bert qdqbert realm retribert squeezebert tvp vilt visual_bert"
    ),
    families.GPT2Tokenizer: (
        "blip-2 codegen dbrx emu3 gpt2 gpt_neo gptj instructblip instructblipvideo jais2 opt phi starcoder2"
    ),
    families.T5Tokenizer: "mt5 musicgen musicgen_melody switch_transformers t5",
    families.RobertaTokenizer: (
        "bart bridgetower clap data2vec-text florence2 ibert lilt longformer mega mra roberta roberta-prelayernorm"
    ),
    families.LlamaTokenizer: "idefics idefics2",
    TokenizersBackend: (
        "arctic aria bigbird_pegasus chatlm ernie4_5 ernie4_5_moe flex_olmo fuyu glm glm4 glm4_moe gpt_bigcode granite "
        "granitemoe granitemoehybrid granitemoeshared h2ovl_chat internlm2 internlm3 iquestcoder jamba kimi_linear "
        "llava llava_next minicpm3 minimax_m2 ministral ministral3 mistral mistral3 mixtral modernbert "
        "modernbert-decoder molmo nemotron nystromformer olmo2 olmo3 olmo_hybrid pegasus_x persimmon phi3 phimoe "
        "pixtral smolvlm stablelm umt5 vipllava voxtral xlm-roberta-xl"
    ),
}
BY_MODEL_TYPE = {model_type: cls for cls, names in MODEL_TYPES.items() for model_type in names.split()}


class AutoTokenizer:
    """Loads a tokenizer of whatever family; `from_pretrained` is the way in."""

    def __init__(self) -> None:
        raise TokenizerError("AutoTokenizer is not made by itself: call AutoTokenizer.from_pretrained(name).")

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *inputs: Any, **kwargs: Any
    ) -> TokenizersBackend:
        """Load the tokenizer of a checkpoint.

        The class is the one that tokenizer_config.json or config.json name, else that of the model type. A class that
        is not built here, or one that the checkpoint brings as code, gives way to tokenizer.json: no code is run.

        Args:
            pretrained_model_name_or_path: A folder, a vocabulary file, a bundled model, or a name on the hub.
            inputs: Arguments of the tokenizer by position.
            kwargs: `tokenizer_type` (a model type), `config`, `revision`, `token`, `cache_dir`, `local_files_only`,
                `force_download`, `subfolder`; everything else overrides what the files say.

        Raises:
            MissingFileError: The files are not there.
            BrokenFileError: A file is malformed.
            TokenizerError: The tokenizer exists as code only, or `tokenizer_type` is unknown.

        Example:
            >>> AutoTokenizer.from_pretrained("bert-base-uncased")("Glass box")["input_ids"]
            [101, 3221, 3482, 102]
        """
        config, tokenizer_type = kwargs.pop("config", None), kwargs.pop("tokenizer_type", None)
        if tokenizer_type is not None:
            if tokenizer_type not in BY_MODEL_TYPE:
                raise TokenizerError(
                    f"tokenizer_type {tokenizer_type!r} is unknown: choose one of {sorted(BY_MODEL_TYPE)}."
                )
            return BY_MODEL_TYPE[tokenizer_type].from_pretrained(pretrained_model_name_or_path, *inputs, **kwargs)
        if os.path.isfile(pretrained_model_name_or_path):
            return TokenizersBackend.from_pretrained(pretrained_model_name_or_path, *inputs, **kwargs)
        repository = Repository.take(pretrained_model_name_or_path, kwargs)
        settings = _json(repository, "tokenizer_config.json")
        model = _json(repository, "config.json") if config is None else _attributes(config)
        declared = settings.get("tokenizer_class") or model.get("tokenizer_class")
        chosen = _choose(declared, model.get("model_type"), repository)
        unknown = chosen is TokenizersBackend and declared and _plain(declared) not in CLASSES
        if unknown and _brings_code(settings) and repository.find("tokenizer.json") is None:
            raise TokenizerError(
                f"{pretrained_model_name_or_path} has its tokenizer {declared} as Python code only, and code of a "
                "checkpoint is never run here: convert it to tokenizer.json, or choose another checkpoint."
            )
        return load(chosen, pretrained_model_name_or_path, inputs, kwargs, repository)


def _choose(declared: Any, model_type: Any, repository: Repository) -> type[TokenizersBackend]:
    registered = BY_MODEL_TYPE.get(model_type) if isinstance(model_type, str) else None
    if not isinstance(declared, str):
        return registered or TokenizersBackend
    if registered is TokenizersBackend or (_plain(declared) == "LlamaTokenizer" and _byte_level(repository)):
        return TokenizersBackend
    return CLASSES.get(_plain(declared), TokenizersBackend)


def _plain(name: Any) -> str:
    return str(name).removesuffix("Fast")


def _byte_level(repository: Repository) -> bool:
    """Llama 3 calls itself a LlamaTokenizer, but its tokenizer.json is of the byte-level kind."""
    path = repository.find("tokenizer.json")
    return path is not None and b'"ByteLevel"' in path.read_bytes()


def _brings_code(settings: dict[str, Any]) -> bool:
    code = settings.get("auto_map")
    return bool(code.get("AutoTokenizer") if isinstance(code, dict) else code)


def _json(repository: Repository, name: str) -> dict[str, Any]:
    path = repository.find(name)
    return read_json(path) if path else {}


def _attributes(config: Any) -> dict[str, Any]:
    return {key: getattr(config, key, None) for key in ("model_type", "tokenizer_class")}
