"""Tiny tokenizers of every family, trained here, as the folders that the peer or older tools would have left."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import sentencepiece
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from .corpus import CORPUS

transformers.utils.logging.set_verbosity_error()

BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write(folder: Path, **files: dict | str | bytes) -> Path:
    """A folder with these files; `_` in a keyword's last place stands for the dot: `vocab_txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, content in files.items():
        name, _, suffix = key.rpartition("_")
        path = folder / f"{name}.{suffix}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def train_spm(**options) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, hard_vocab_limit=False, minloglevel=2, **options
    )
    return model.getvalue()


def byte_level() -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Folders by name: `<family>-old...` have older files only, the others a tokenizer.json that the peer wrote."""
    root = tmp_path_factory.mktemp("tokenizers")
    found: dict[str, Path] = {}

    wordpiece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.BertNormalizer(lowercase=False)
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=BERT_TOKENS, show_progress=False)
    wordpiece.train_from_iterator([*CORPUS, *(line.lower() for line in CORPUS)], trainer)
    vocab = wordpiece.get_vocab()
    vocab_txt = "".join(f"{token}\n" for token in sorted(vocab, key=vocab.get))
    bert = {"tokenizer_class": "BertTokenizer", "model_max_length": 64}
    found["bert-old"] = write(root / "bert-old", vocab_txt=vocab_txt, tokenizer_config_json=bert)
    cased = {**bert, "do_lower_case": False, "tokenize_chinese_chars": False, "strip_accents": True}
    found["bert-old-cased"] = write(root / "bert-old-cased", vocab_txt=vocab_txt, tokenizer_config_json=cased)
    found["bert-old-bare"] = write(root / "bert-old-bare", vocab_txt=vocab_txt, config_json={"model_type": "bert"})

    backend = byte_level()
    model = json.loads(backend.to_str())["model"]
    merges = "#version: 0.2\n" + "".join(
        (pair if isinstance(pair, str) else " ".join(pair)) + "\n" for pair in model["merges"]
    )
    gpt2 = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 64}
    for name, config in {
        "gpt2-old": gpt2,
        "gpt2-old-prefix": {**gpt2, "add_prefix_space": True, "add_bos_token": True, "pad_token": "<pad>"},
        "bart-old": {"tokenizer_class": "BartTokenizer", "model_max_length": 64},
        "bart-old-offsets": {"tokenizer_class": "BartTokenizer", "trim_offsets": False, "add_prefix_space": True},
    }.items():
        found[name] = write(root / name, vocab_json=model["vocab"], merges_txt=merges, tokenizer_config_json=config)
    for name in ("gpt2", "bart"):
        found[f"{name}-old-bare"] = write(
            root / f"{name}-old-bare", vocab_json=model["vocab"], merges_txt=merges, config_json={"model_type": name}
        )

    unigram = train_spm(vocab_size=700, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    t5 = {"tokenizer_class": "T5Tokenizer", "model_max_length": 64}
    found["t5-old"] = write(root / "t5-old", spiece_model=unigram, tokenizer_config_json=t5)
    few = {**t5, "extra_ids": 7, "additional_special_tokens": [f"<extra_id_{i}>" for i in range(7)]}
    found["t5-old-few"] = write(root / "t5-old-few", spiece_model=unigram, tokenizer_config_json=few)
    found["t5-old-bare"] = write(root / "t5-old-bare", spiece_model=unigram, config_json={"model_type": "t5"})

    bpe = train_spm(
        vocab_size=900,
        model_type="bpe",
        byte_fallback=True,
        user_defined_symbols=["<|user|>", "<|end|>"],
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )
    llama = {"tokenizer_class": "LlamaTokenizer", "model_max_length": 64}
    for name, extra in {
        "llama-old": {"add_bos_token": True, "add_eos_token": False},
        "llama-old-legacy": {"legacy": True, "add_bos_token": True, "add_eos_token": True, "pad_token": "</s>"},
        "llama-old-noprefix": {"legacy": False, "add_prefix_space": False},
        "llama-old-defaults": {},
    }.items():
        found[name] = write(root / name, tokenizer_model=bpe, tokenizer_config_json={**llama, **extra})
    found["llama-old-bare"] = write(root / "llama-old-bare", tokenizer_model=bpe, config_json={"model_type": "llama"})
    found["generic-old-unigram"] = write(
        root / "generic-old-unigram",
        tokenizer_model=unigram,
        tokenizer_config_json={"tokenizer_class": "PreTrainedTokenizerFast"},
    )

    found["generic"] = generic(root / "generic")
    for name in ("bert-old", "bert-old-cased", "gpt2-old", "gpt2-old-prefix", "bart-old", "t5-old", "llama-old"):
        new = name.replace("-old", "")
        transformers.AutoTokenizer.from_pretrained(found[name]).save_pretrained(root / new)
        found[new] = root / new
    found["llama-legacy"] = root / "llama-legacy"
    transformers.AutoTokenizer.from_pretrained(found["llama-old-legacy"]).save_pretrained(found["llama-legacy"])
    found["bert-settings"] = saved_with_settings(root / "bert-settings", found["bert"])
    return found


def generic(folder: Path) -> Path:
    """A byte-level tokenizer.json under the name of Llama, as Llama 3 has, with padding and added tokens in it."""
    backend = byte_level()
    backend.add_special_tokens(["<|start|>", "<|stop|>"])
    start = backend.token_to_id("<|start|>")
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=["<|start|>", "$A"], pair=["<|start|>", "$A", "$B:1"], special_tokens=[("<|start|>", start)]
            ),
        ]
    )
    backend.enable_padding(pad_token="<pad>", pad_id=1, direction="left")
    backend.enable_truncation(max_length=40)
    config = {
        "tokenizer_class": "LlamaTokenizerFast",
        "bos_token": "<|start|>",
        "eos_token": {"__type": "AddedToken", "content": "<|stop|>", "lstrip": False, "rstrip": False,
                      "single_word": False, "normalized": False, "special": True},
        "image_token": "<|image|>",
        "additional_special_tokens": ["<|extra|>"],
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": True,
        "model_max_length": 1e30,
    }  # fmt: skip
    write(folder, tokenizer_config_json=config, config_json={"model_type": "llama"})
    backend.save(str(folder / "tokenizer.json"))
    return folder


def saved_with_settings(folder: Path, source: Path) -> Path:
    """What an earlier version left: special_tokens_map.json and added_tokens.json beside tokenizer.json."""
    content = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    return write(
        folder,
        vocab_txt="".join(f"{t}\n" for t in sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)),
        tokenizer_config_json={"do_lower_case": True, "tokenizer_class": "BertTokenizerFast", "padding_side": "left"},
        special_tokens_map_json={
            "cls_token": "[CLS]",
            "mask_token": {"content": "[MASK]", "lstrip": True, "rstrip": False, "normalized": False,
                           "single_word": False},
            "additional_special_tokens": ["<ent>"],
        },
        added_tokens_json={"<ent>": len(content["model"]["vocab"]), "newword": len(content["model"]["vocab"]) + 1},
        config_json={"model_type": "bert"},
    )  # fmt: skip
