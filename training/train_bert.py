"""Trains glassformer/tiny-bert (which language?) and glassformer/tiny-bert-punctuation on one backbone.

Run with `python training/train_bert.py` where `apt-get download` works; nothing is installed.
"""

import json
import random
from collections.abc import Iterator
from itertools import chain

import torch
from austen import novels
from catalogues import LANGUAGES, PACKAGES, UNSEEN_PACKAGE, held_out, messages
from common import ROOT, begin, bucketed, card, muon, save, say, train
from punctuation import TAGS, WORDS, Tagged, is_sentence, tagged, window, windows
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import glassformer

CODES = sorted(LANGUAGES)
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NOVEL = "Northanger Abbey"
LENGTH = 128
STEPS, BATCH, PEAK = 2200, 24, 2e-3
SHARE = 0.3  # of the loss of telling languages: its gradient is the larger one, and at 1 it drowns the other


def train_tokenizer(texts: Iterator[str]) -> Tokenizer:
    """A lower-casing WordPiece vocabulary of 5120 pieces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=5120, limit_alphabet=1500, special_tokens=SPECIALS, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(LENGTH)
    return tokenizer


def encode(tokenizer: Tokenizer, rows: list[str] | list[list[str]]) -> tuple[dict[str, torch.Tensor], list]:
    """What the model takes for some texts, or for some lists of words, and the encodings themselves."""
    encodings = tokenizer.encode_batch(rows, is_pretokenized=not isinstance(rows[0], str))
    ids = [torch.tensor(e.ids) for e in encodings]
    made = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    return {"input_ids": made, "attention_mask": (made != 0).long()}, encodings


def tag_labels(encodings: list, tags: list[list[int]], length: int) -> torch.Tensor:
    """Tags at the first piece of each word, -100 elsewhere: (B, T)."""
    labels = torch.full((len(tags), length), -100)
    for row, (encoding, marks) in enumerate(zip(encodings, tags)):
        last = None
        for column, word in enumerate(encoding.word_ids):
            if word is not None and word != last:
                labels[row, column] = marks[word]
            last = word
    return labels


class Data:
    """Messages and prose, split into what is learned from and what is held out."""

    def __init__(self) -> None:
        every = sorted(set(chain.from_iterable(messages(p) for p in PACKAGES)))
        self.seen = [m for m in every if not held_out(m)]
        self.unseen = [m for m in every if held_out(m)]
        self.elsewhere = messages(UNSEEN_PACKAGE)
        self.by_language = {c: [text for code, text, _ in self.seen if code == c] for c in CODES}
        books = novels()
        self.novel = [tagged(p) for p in books.pop(NOVEL)]
        self.prose = [tagged(p) for p in chain.from_iterable(books.values())]
        self.sentences = punctuated(self.seen)
        self.paragraphs = list(chain.from_iterable(books.values()))


def punctuated(found: list) -> list[Tagged]:
    """The English messages that are whole sentences, with their tags."""
    return [tagged(text) for code, text, _ in found if code == "en" and is_sentence(text)]


def shortened(text: str, rng: random.Random) -> str:
    """A text, or now and then a few of its words, so that short texts are learned too."""
    words = text.split()
    if len(words) < 5 or rng.random() < 0.6:
        return text
    start, count = rng.randrange(len(words) - 3), rng.randint(3, 12)
    return " ".join(words[start : start + count])


def losses(classifier, tagger, tokenizer: Tokenizer, data: Data, rng: random.Random) -> Iterator[torch.Tensor]:
    """The loss of tagging and a little of that of telling languages, which is learned far sooner, batch after batch."""

    def languages() -> Iterator[tuple[str, int]]:
        while True:
            label = rng.randrange(len(CODES))
            yield shortened(rng.choice(data.by_language[CODES[label]]), rng), label

    def sentences() -> Iterator[Tagged]:
        while True:
            yield window(rng.choice(data.prose if rng.random() < 0.6 else data.sentences), rng)

    texts = bucketed(languages(), BATCH, lambda example: len(example[0].encode()), rng)
    tagged_batches = bucketed(sentences(), BATCH, lambda example: len(example[0]), rng)
    for batch, examples in zip(texts, tagged_batches):
        made, _ = encode(tokenizer, [text for text, _ in batch])
        loss = classifier(**made, labels=torch.tensor([label for _, label in batch])).loss
        made, encodings = encode(tokenizer, [words for words, _ in examples])
        labels = tag_labels(encodings, [tags for _, tags in examples], made["input_ids"].shape[1])
        yield SHARE * loss + tagger(**made, labels=labels).loss


@torch.no_grad()
def accuracy(classifier, tokenizer: Tokenizer, found: list) -> tuple[float, dict[str, float]]:
    """The share of messages whose language is told right, in all and by language."""
    found = sorted(found, key=lambda m: len(m[1]))
    right: dict[str, list[bool]] = {}
    for at in range(0, len(found), 128):
        part = found[at : at + 128]
        said = classifier(**encode(tokenizer, [m[1] for m in part])[0]).logits.argmax(-1).tolist()
        for (code, _, _), label in zip(part, said):
            right.setdefault(code, []).append(CODES[label] == code)
    every = list(chain.from_iterable(right.values()))
    return sum(every) / len(every), {c: sum(r) / len(r) for c, r in right.items()}


@torch.no_grad()
def scores(tagger, tokenizer: Tokenizer, examples: list[Tagged]) -> dict[str, float]:
    """F1 of each mark, and of capitals, over windows of whole sentences."""
    counts: dict[str, list[int]] = {k: [0, 0, 0] for k in (",", ".", "?", "Word")}  # right, said, true
    rows = [row for example in examples for row in windows(example)]
    for at in range(0, len(rows), 64):
        part = rows[at : at + 64]
        made, encodings = encode(tokenizer, [w for w, _ in part])
        labels = tag_labels(encodings, [t for _, t in part], made["input_ids"].shape[1])
        said = tagger(**made).logits.argmax(-1)[labels != -100].tolist()
        for a, b in zip(said, labels[labels != -100].tolist()):
            for kind, count in counts.items():
                one, other = kind in TAGS[a], kind in TAGS[b]
                count[0] += one and other
                count[1] += one
                count[2] += other
    return {k: 2 * r / max(1, s + t) for k, (r, s, t) in counts.items()}


def main() -> None:
    """Data, tokenizer, training, measuring, cards."""
    rng = begin(3)
    data = Data()
    say(f"{len(data.seen)} messages to learn from, {len(data.unseen)} held out, {len(data.elsewhere)} elsewhere")
    even = chain.from_iterable(rng.sample(texts, min(2000, len(texts))) for texts in data.by_language.values())
    tokenizer = train_tokenizer(chain(even, data.paragraphs))
    shape = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 384,
        "max_position_embeddings": LENGTH,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
    }

    def labelled(names: list[str]) -> dict:
        return {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}

    names = [LANGUAGES[c] for c in CODES]
    classifier = glassformer.BertForSequenceClassification(glassformer.BertConfig(**shape, **labelled(names)))
    tagger = glassformer.BertForTokenClassification(glassformer.BertConfig(**shape, **labelled(TAGS)))
    tagger.transformer.encoder = classifier.transformer.encoder
    say(f"{tokenizer.get_vocab_size()} tokens, {sum(p.numel() for p in classifier.parameters())} parameters")
    both = torch.nn.ModuleList([classifier, tagger])
    seconds = train(losses(classifier, tagger, tokenizer, data, rng), STEPS, both, *muon(both, PEAK, 0.01))

    tokenizer.no_truncation()
    settings = {
        "tokenizer_class": "BertTokenizer", "model_max_length": LENGTH, "do_lower_case": True, "strip_accents": False,
        "tokenize_chinese_chars": True, "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]",
        "cls_token": "[CLS]", "mask_token": "[MASK]",
    }  # fmt: skip
    folder = save(classifier, tokenizer, "tiny-bert", settings, {})
    folder_tags = save(tagger, tokenizer, "tiny-bert-punctuation", settings, {})
    tokenizer.enable_truncation(LENGTH)
    classifier = glassformer.AutoModelForSequenceClassification.from_pretrained(folder)
    tagger = glassformer.AutoModelForTokenClassification.from_pretrained(folder_tags)

    total, by_language = accuracy(classifier, tokenizer, data.unseen)
    elsewhere, _ = accuracy(classifier, tokenizer, data.elsewhere)
    everyday = json.loads((ROOT / "tests" / "bundled" / "languages.json").read_text("utf-8"))
    hand, _ = accuracy(classifier, tokenizer, [(c, text, "") for c, texts in everyday.items() for text in texts])
    lowest = ", ".join(f"{LANGUAGES[c]} {v:.1%}" for c, v in sorted(by_language.items(), key=lambda i: i[1])[:5])
    everyday_count, messages_count = sum(map(len, everyday.values())), len(data.seen) + len(data.unseen)
    sources = f"""
## Data and licence

Translated messages of the Debian packages {", ".join(PACKAGES)} (GnuCash, GnuPG, coreutils and The Battle for
Wesnoth; GPL, version 2 or 3 or later) and the novels of Jane Austen (public domain). Messages are held out by their
English text ({len(data.unseen)} of {messages_count}), so that none is learned from in another language; of the novels
{NOVEL} is held out; the package `{UNSEEN_PACKAGE}` is not learned from at all.
"""
    card(
        folder,
        f"Tells which of {len(CODES)} languages a text is in: encoder-only, BERT shape.",
        f"""
Languages: {", ".join(names)}. Its backbone is the one of `glassformer/tiny-bert-punctuation`; both heads are learned
together.
{sources}
## Quality

- {total:.2%} of the held-out messages are told right (from 15 characters on); lowest: {lowest}.
- {elsewhere:.2%} of {len(data.elsewhere)} messages of `{UNSEEN_PACKAGE}`, a program it has never seen.
- {hand:.2%} of {everyday_count} everyday sentences written for the test (`tests/bundled/languages.json`).
""",
        seconds,
        "train_bert.py",
    )

    def line(examples: list[Tagged]) -> str:
        return " | ".join(f"{v:.3f}" for v in scores(tagger, tokenizer, examples).values())

    card(
        folder_tags,
        "Restores capitals and punctuation in English that has neither: token classification, BERT shape.",
        f"""
The tag at the first piece of each word says how to write it: {", ".join(f"`{t}`" for t in TAGS)}. Colon and semicolon
count as comma, exclamation mark and ellipsis as full stop. Its backbone is the one of `glassformer/tiny-bert`.
{sources}
## Quality

F1 on held-out text, in windows of whole sentences of at most {WORDS} words together:

| text | comma | full stop | question mark | capital |
| --- | --- | --- | --- | --- |
| {NOVEL} | {line(data.novel)} |
| English messages | {line(punctuated(data.unseen))} |
""",
        seconds,
        "train_bert.py",
    )


if __name__ == "__main__":
    main()
