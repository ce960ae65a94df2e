"""Trains glassformer/tiny-gpt2: English prose, the novels of Jane Austen.

Run with `python training/train_gpt2.py` where `apt-get download` works; nothing is installed.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Iterator

import torch
from austen import PACKAGE, novels
from common import ROOT, begin, card, muon, save, say, train
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import glassformer

HELD_OUT = "Northanger Abbey"
END = "<|endoftext|>"
STEPS, BATCH, CONTEXT, PEAK = 2000, 8, 256, 6e-3
PROMPTS = ["She had never been", "It was a truth", '"My dear sister," said']


def train_tokenizer(text: str) -> Tokenizer:
    """A byte-level byte-pair vocabulary of 2048 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=2048, special_tokens=[END], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer


def losses(model: torch.nn.Module, ids: torch.Tensor, rng: random.Random) -> Iterator[torch.Tensor]:
    """The loss on one batch of random windows of the text after another."""
    while True:
        starts = [rng.randrange(len(ids) - CONTEXT) for _ in range(BATCH)]
        rows = torch.stack([ids[at : at + CONTEXT] for at in starts])
        yield model(input_ids=rows, labels=rows).loss


@torch.no_grad()
def nats(model: torch.nn.Module, ids: torch.Tensor) -> float:
    """The summed surprise in nats of all tokens but the first, each after at least half a window where there is one."""
    total, half = 0.0, CONTEXT // 2
    for start in range(0, len(ids), half):
        window = ids[start : start + CONTEXT][None]
        if start and window.shape[1] <= half:
            break
        labels = window.clone()
        if start:
            labels[:, :half] = -100
        counted = (labels[:, 1:] != -100).sum().item()
        total += model(input_ids=window, labels=labels).loss.item() * counted
    return total


def main() -> None:
    """Data, tokenizer, training, measuring, card."""
    rng = begin(2)
    books = novels()
    unseen = "\n".join(books.pop(HELD_OUT))
    text = "\n".join("\n".join(book) for book in books.values())
    say(f"{len(text.encode())} bytes to learn from, {len(unseen.encode())} held out")
    tokenizer = train_tokenizer(text)
    ids = torch.tensor([i for book in books.values() for i in [0, *tokenizer.encode("\n".join(book)).ids]])
    config = glassformer.GPT2Config(
        vocab_size=tokenizer.get_vocab_size(), n_positions=CONTEXT, n_embd=144, n_layer=4, n_head=4,
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = glassformer.GPT2LMHeadModel(config)
    say(f"{len(ids)} tokens in the text, {sum(p.numel() for p in model.parameters())} parameters")
    seconds = train(losses(model, ids, rng), STEPS, model, *muon(model, PEAK))

    special = {"bos_token": END, "eos_token": END, "unk_token": END}
    folder = save(
        model, tokenizer, "tiny-gpt2",
        {"tokenizer_class": "GPT2Tokenizer", "model_max_length": CONTEXT, "add_prefix_space": False, **special},
        {"bos_token_id": 0, "eos_token_id": 0},
    )  # fmt: skip
    model = glassformer.AutoModelForCausalLM.from_pretrained(folder)
    size, seen = len(unseen.encode()), torch.tensor(tokenizer.encode(unseen).ids)
    per_byte = nats(model, seen) / size
    words = Counter(re.findall(r"[a-z]+", (text + unseen).lower()))
    made = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer.encode(prompt).ids])
        start = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 60, "pad_token_id": 0}
        torch.manual_seed(0)
        for options in ({"do_sample": False}, {"do_sample": True, "top_k": 40, "temperature": 0.8}):
            row = model.generate(**start, **options)
            made.append((options["do_sample"], tokenizer.decode(row[0].tolist())))
    said = [w for _, t in made for w in re.findall(r"[a-z]+", t.lower())[:-1]]  # the last may be cut off
    known = sum(w in words for w in said) / len(said)
    folder_tests = ROOT / "tests" / "bundled"
    (folder_tests / "prose.txt").write_text(unseen[20_000:26_000].split(" ", 1)[1].rsplit(" ", 1)[0], "utf-8")
    (folder_tests / "words.txt").write_text("\n".join(w for w, _ in words.most_common(3000)) + "\n", "utf-8")

    samples = "\n".join(f"- {'sampled' if sampled else 'greedy'}: {' '.join(t.split())}" for sampled, t in made)
    card(
        folder,
        "Goes on with English prose in the manner of Jane Austen: decoder-only, GPT-2 shape.",
        f"""
## Data and licence

The novels of Jane Austen (1811 to 1818), which are in the public domain, from Project Gutenberg as the data set
`janeaustenr` (MIT licence) carries them in the Debian package `{PACKAGE}`. {", ".join(books)} to learn
from ({len(text.encode()) / 1e6:.1f} MB); {HELD_OUT} ({size / 1e6:.2f} MB) is held out whole. The vocabulary of
{tokenizer.get_vocab_size()} byte-level pieces is learned from the same text. The context is {CONTEXT} tokens.

## Quality

On the held-out novel {per_byte:.4f} nats a byte, {per_byte / math.log(2):.4f} bits a byte ({size / len(seen):.2f} bytes
a token; windows of {CONTEXT} tokens, each token after at least {CONTEXT // 2} others). Of the words in the texts below
{known:.1%} are words of the novels.

{samples}
""",
        seconds,
        "train_gpt2.py",
    )


if __name__ == "__main__":
    main()
