"""Trains glassformer/tiny-t5: dates written out in many languages, rewritten as ISO dates.

Run with `python training/train_t5.py`; it needs `pip install babel` and no network.
"""

import json
import random
import re
from collections.abc import Iterator
from datetime import date, timedelta
from functools import cache

import torch
from babel import Locale
from babel.dates import format_date
from common import ROOT, begin, card, save, say, train
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import glassformer

LOCALES = [
    "en", "en_GB", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "nb", "fi", "pl", "cs", "sk", "hu", "ro", "el", "ru",
    "uk", "tr", "ja", "zh", "ko", "id", "vi", "ca",
]  # fmt: skip
FORMATS = ("full", "long", "medium")
FIRST, DAYS = date(1900, 1, 1), 73049  # to the end of 2099
STEPS, BATCH, PEAK = 4500, 64, 3e-3
SPECIALS = ["<pad>", "</s>", "<unk>"]

Span = tuple[int, int]


@cache
def pieces(locale: str, style: str) -> list[str]:
    """The fields and the literal text of a locale's date pattern: `d. MMMM y` gives `d`, `. `, `MMMM`, ` `, `y`."""
    pattern = Locale.parse(locale).date_formats[style].pattern
    return [m[0] for m in re.finditer(r"'[^']*'|([a-zA-Z])\1*|[^a-zA-Z']+", pattern)]


@cache
def field(locale: str, pattern: str, value: date) -> str:
    """One field of a date in a locale's words."""
    return format_date(value, pattern, locale=locale)


def written(day: date, locale: str, style: str) -> tuple[str, dict[str, Span]]:
    """A date in a locale's words, and where its year, month and day stand in them."""
    text, spans = "", {}
    for piece in pieces(locale, style):
        if piece[0] == "'":
            text += piece.strip("'")
        elif piece[0].isalpha():
            # what a field says depends on one part of the date only, so a representative keeps the cache small
            kind = {"y": "year", "M": "month", "L": "month", "d": "day"}.get(piece[0], "weekday")
            same = {"year": date(day.year, 1, 1), "month": date(2000, day.month, 1), "day": date(2000, 1, day.day)}
            word = field(locale, piece, same.get(kind, date(2000, 1, 3) + timedelta(day.weekday())))
            spans[kind] = (len(text), len(text) + len(word))
            text += word
        else:
            text += piece
    return text, spans


def train_tokenizer(texts: Iterator[str]) -> Tokenizer:
    """A byte-pair vocabulary over lower-cased words, in which every digit stays a token of its own."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(vocab_size=1024, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    """Rows of ids as one tensor (B, T), filled up with a value."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=value)


def batch(tokenizer: Tokenizer, texts: list[str], days: list[date]) -> dict[str, torch.Tensor]:
    """What the model takes for some texts, with the ISO dates as labels."""
    ids = padded([e.ids for e in tokenizer.encode_batch(texts)], 0)
    labels = padded([e.ids for e in tokenizer.encode_batch([d.isoformat() for d in days])], -100)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def losses(
    model: torch.nn.Module, tokenizer: Tokenizer, days: list[date], rng: random.Random
) -> Iterator[torch.Tensor]:
    """The loss on one batch of random dates after another, each in a random language and format."""
    while True:
        chosen = rng.choices(days, k=BATCH)
        texts = [written(d, rng.choice(LOCALES), rng.choice(FORMATS))[0] for d in chosen]
        yield model(**batch(tokenizer, texts, chosen)).loss


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW that learns the biases of relative positions ten times as fast: the order of digits hangs on them."""
    named = dict(model.named_parameters())
    rest = [p for name, p in named.items() if "positions" not in name]
    groups = [
        {"params": [p for name, p in named.items() if "positions" in name], "lr": 10 * PEAK, "weight_decay": 0.0},
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.98), fused=True)


@torch.no_grad()
def exact(model: torch.nn.Module, tokenizer: Tokenizer, texts: list[str], days: list[date]) -> list[bool]:
    """Whether each text is rewritten as exactly its ISO date, greedily."""
    right = []
    for at in range(0, len(texts), 256):
        made = batch(tokenizer, texts[at : at + 256], days[at : at + 256])
        ids = model.generate(input_ids=made["input_ids"], attention_mask=made["attention_mask"], max_new_tokens=12)
        said = tokenizer.decode_batch(ids.tolist(), skip_special_tokens=True)
        right += [s == d.isoformat() for s, d in zip(said, days[at : at + 256])]
    return right


@torch.no_grad()
def alignment(model: torch.nn.Module, tokenizer: Tokenizer, cases: list[tuple[date, str, str]]) -> dict[str, tuple]:
    """For year, month and day: the layer and head that best look at it while its digits are written, and how often.

    Counted is the share of output digits for which the most attended input token lies inside that field. The zero
    that is written in front of a field of one digit comes from no token of the input and is not counted.
    """
    found = {}
    made = [written(*case) for case in cases]
    encodings = tokenizer.encode_batch([text for text, _ in made])
    output = model(**batch(tokenizer, [text for text, _ in made], [case[0] for case in cases]), output_attentions=True)
    for kind, steps in {"year": range(4), "month": range(5, 7), "day": range(8, 10)}.items():
        inside = torch.zeros(len(cases), output.cross_attentions[0].shape[-1], dtype=torch.bool)
        counted = torch.ones(len(cases), 1, len(steps), dtype=torch.bool)
        for row, (encoding, (_, spans)) in enumerate(zip(encodings, made)):
            start, end = spans[kind]
            counted[row, 0, 0] = end - start > 1
            for column, (a, b) in enumerate(encoding.offsets):
                inside[row, column] = a < end and b > start and a < b
        shares = {}
        for layer, weights in enumerate(output.cross_attentions):
            most = weights[:, :, list(steps)].argmax(-1)  # (B, H, steps)
            hit = (inside[torch.arange(len(cases))[:, None, None], most] & counted).sum((0, 2)) / counted.sum()
            shares |= {(layer, head): share for head, share in enumerate(hit.tolist())}
        best = max(shares, key=shares.__getitem__)
        found[kind] = (*best, shares[best])
    return found


def main() -> None:
    """Data, tokenizer, training, measuring, card."""
    rng = begin(5)
    every = [FIRST + timedelta(n) for n in range(DAYS)]
    rng.shuffle(every)
    unseen, days = sorted(every[:2000]), sorted(every[2000:])
    say(f"{len(days)} dates to learn from, {len(unseen)} held out in every language")
    assert all(written(d, o, s)[0] == format_date(d, s, o) for d in days[:50] for o in LOCALES for s in FORMATS)
    texts = (written(d, o, s)[0] for d in days[::200] for o in LOCALES for s in FORMATS)
    tokenizer = train_tokenizer(texts)
    config = glassformer.T5Config(
        vocab_size=tokenizer.get_vocab_size(), d_model=128, d_kv=32, d_ff=256, num_layers=3, num_decoder_layers=2,
        num_heads=4, relative_attention_num_buckets=32, relative_attention_max_distance=64, dropout_rate=0.0,
        feed_forward_proj="relu", decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = glassformer.T5ForConditionalGeneration(config)
    say(f"{tokenizer.get_vocab_size()} tokens, {sum(p.numel() for p in model.parameters())} parameters")
    seconds = train(losses(model, tokenizer, days, rng), STEPS, model, adamw(model))

    folder = save(
        model, tokenizer, "tiny-t5",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, "pad_token": "<pad>",
         "eos_token": "</s>", "unk_token": "<unk>", "clean_up_tokenization_spaces": False},
        {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, "max_new_tokens": 12},
    )  # fmt: skip
    model = glassformer.AutoModelForSeq2SeqLM.from_pretrained(folder)
    cases = [(d, locale, style) for locale in LOCALES for style in FORMATS for d in rng.sample(unseen, 100)]
    texts = [written(*case)[0] for case in cases]
    right = exact(model, tokenizer, texts, [case[0] for case in cases])
    by_locale = {o: sum(r for r, c in zip(right, cases) if c[1] == o) / 300 for o in LOCALES}
    looks = alignment(model, tokenizer, rng.sample(cases, 500))
    sample = [{"text": t, "iso": c[0].isoformat()} for t, c in rng.sample(list(zip(texts, cases)), 60)]
    lines = json.dumps(sample, ensure_ascii=False, indent=0) + "\n"
    (ROOT / "tests" / "bundled" / "dates.json").write_text(lines, "utf-8")

    aligned = "\n".join(
        f"- {kind}: layer {layer}, head {head}: {share:.1%} of its digits"
        for kind, (layer, head, share) in looks.items()
    )
    worst = ", ".join(f"{o} {v:.1%}" for o, v in sorted(by_locale.items(), key=lambda item: item[1])[:5])
    languages = len({locale[:2] for locale in LOCALES})
    card(
        folder,
        f"Rewrites a date written out in any of {languages} languages as an ISO date: encoder-decoder, T5 shape.",
        f"""
`donnerstag, 4. märz 2021` gives `2021-03-04`. Letters are lower-cased and every digit is a token of its own. The
full, long and medium formats of these locales are known, years 1900 to 2099:
{", ".join(LOCALES)}. Formats with a year of two digits are not, because they do
not say what they mean.

## Data and licence

The locale data of `babel` (Unicode CLDR, Unicode licence) writes the dates; nothing else is used. {len(unseen)} of
{DAYS} dates, drawn at random, are held out in every language.

## Quality

Exact on {sum(right) / len(right):.2%} of {len(right)} held-out dates (100 for each locale and format); the
lowest locales are {worst}.

Cross-attention shows the alignment. The share of output digits for which the most attended input token lies in the part
that they come from (500 held-out dates; the best head, layers and heads counted from zero):

{aligned}
""",
        seconds,
        "train_t5.py",
    )


if __name__ == "__main__":
    main()
