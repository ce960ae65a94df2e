"""Tokenizers: text to ids and back, over the `tokenizers` library. The names are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import AddedToken as AddedToken

    from glassformer.tokenization.auto import AutoTokenizer as AutoTokenizer
    from glassformer.tokenization.encoding import BatchEncoding as BatchEncoding
    from glassformer.tokenization.encoding import CharSpan as CharSpan
    from glassformer.tokenization.encoding import TokenSpan as TokenSpan
    from glassformer.tokenization.families import BartTokenizer as BartTokenizer
    from glassformer.tokenization.families import BartTokenizerFast as BartTokenizerFast
    from glassformer.tokenization.families import BertTokenizer as BertTokenizer
    from glassformer.tokenization.families import BertTokenizerFast as BertTokenizerFast
    from glassformer.tokenization.families import GPT2Tokenizer as GPT2Tokenizer
    from glassformer.tokenization.families import GPT2TokenizerFast as GPT2TokenizerFast
    from glassformer.tokenization.families import LlamaTokenizer as LlamaTokenizer
    from glassformer.tokenization.families import LlamaTokenizerFast as LlamaTokenizerFast
    from glassformer.tokenization.families import PreTrainedTokenizer as PreTrainedTokenizer
    from glassformer.tokenization.families import PreTrainedTokenizerBase as PreTrainedTokenizerBase
    from glassformer.tokenization.families import PreTrainedTokenizerFast as PreTrainedTokenizerFast
    from glassformer.tokenization.families import RobertaTokenizer as RobertaTokenizer
    from glassformer.tokenization.families import RobertaTokenizerFast as RobertaTokenizerFast
    from glassformer.tokenization.families import T5Tokenizer as T5Tokenizer
    from glassformer.tokenization.families import T5TokenizerFast as T5TokenizerFast
    from glassformer.tokenization.options import PaddingStrategy as PaddingStrategy
    from glassformer.tokenization.options import TensorType as TensorType
    from glassformer.tokenization.options import TruncationStrategy as TruncationStrategy
    from glassformer.tokenization.tokenizer import TokenizersBackend as TokenizersBackend
    from glassformer.tokenization.toolschema import get_json_schema as get_json_schema

_HOME = {
    "tokenizers": ["AddedToken"],
    "glassformer.tokenization.auto": ["AutoTokenizer"],
    "glassformer.tokenization.encoding": ["BatchEncoding", "CharSpan", "TokenSpan"],
    "glassformer.tokenization.families": [
        f"{family}Tokenizer{fast}"
        for family in ("Bart", "Bert", "GPT2", "Llama", "Roberta", "T5")
        for fast in ("", "Fast")
    ]
    + ["PreTrainedTokenizer", "PreTrainedTokenizerBase", "PreTrainedTokenizerFast"],
    "glassformer.tokenization.options": ["PaddingStrategy", "TensorType", "TruncationStrategy"],
    "glassformer.tokenization.tokenizer": ["TokenizersBackend"],
    "glassformer.tokenization.toolschema": ["get_json_schema"],
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"glassformer.tokenization has no {name!r}: its names are {', '.join(__all__)}.")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
