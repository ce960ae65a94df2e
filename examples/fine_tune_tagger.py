"""Fine-tune a tagger: is Florence a woman or a town? Only the words around it say so.

Run `python examples/fine_tune_tagger.py`. Sentences are made by a rule from words that name people and places alike.
tiny-bert-punctuation gets a new head; the names in the held-out sentences are none that it has learned from.
"""

import random
import tempfile

import torch

from glassformer import AutoModelForTokenClassification, AutoTokenizer

TAGS = ["O", "PERSON", "PLACE", "DAY"]
NAMES = """florence charlotte sydney jordan austin georgia chelsea victoria adelaide paris madison lincoln jackson
carolina houston dallas savannah chester india kent devon lorraine sienna verona""".split()  # noqa: SIM905
DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
CLAUSES = [
    "PERSON lives in PLACE", "PERSON and PERSON met in PLACE on DAY", "on DAY PERSON wrote a letter to PERSON",
    "my brother PERSON has never been to PLACE", "PERSON drove to PLACE with her sister PERSON",
    "the road from PLACE to PLACE is long", "the train to PLACE leaves on DAY", "PERSON said that PERSON was ill",
    "there is a market in PLACE on DAY", "we told PERSON about the fire at PLACE",
]  # fmt: skip

torch.set_num_threads(1)  # at this size a second thread only waits
torch.manual_seed(0)
rng = random.Random(0)
tokenizer = AutoTokenizer.from_pretrained("glassformer/tiny-bert-punctuation")
model = AutoModelForTokenClassification.from_pretrained(
    "glassformer/tiny-bert-punctuation", ignore_mismatched_sizes=True,  # its head has other tags: a new one is drawn
    id2label=dict(enumerate(TAGS)), label2id={tag: n for n, tag in enumerate(TAGS)},
)  # fmt: skip


def sentence(names: list[str]) -> tuple[list[str], list[int]]:
    """Two clauses with words in the places of their tags, and the tag of each word."""
    slots = f"{rng.choice(CLAUSES)} {rng.choice(('and', 'but', 'because'))} {rng.choice(CLAUSES)}".split()
    words = [rng.choice(DAYS) if slot == "DAY" else rng.choice(names) if slot in TAGS else slot for slot in slots]
    return words, [TAGS.index(slot) if slot in TAGS else 0 for slot in slots]


def batch(sentences: list[tuple[list[str], list[int]]]) -> dict[str, torch.Tensor]:
    """Ids, mask and labels, all (B, T); the first piece of a word has its tag, other tokens -100: not counted."""
    inputs = tokenizer([words for words, _ in sentences], is_split_into_words=True, padding=True, return_tensors="pt")
    labels = torch.full_like(inputs.input_ids, -100)
    for row, (words, tags) in enumerate(sentences):
        places = inputs.word_ids(row)
        labels[row, [places.index(n) for n in range(len(words))]] = torch.tensor(tags)
    return {**inputs, "labels": labels}


def measure() -> str:
    """The loss on the held-out sentences, in nats a word, and the share of names told right as people or places."""
    model.eval()
    with torch.no_grad():
        out = model(**held_out)
    named = (held_out["labels"] == 1) | (held_out["labels"] == 2)
    right = (out.logits.argmax(-1) == held_out["labels"])[named]
    return f"held-out loss {out.loss:.3f}, names told right {right.float().mean():.1%}"


held_out = batch([sentence(NAMES[16:]) for _ in range(200)])
print(f"before: {measure()}")
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
model.train()
for _ in range(160):
    loss = model(**batch([sentence(NAMES[:16]) for _ in range(16)])).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"after:  {measure()}")

with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    model = AutoModelForTokenClassification.from_pretrained(folder)
text = "lorraine said that verona was ill because the road from verona to kent is long"
inputs = tokenizer(text.split(), is_split_into_words=True, return_tensors="pt")
tags = [TAGS[tag] for tag in model(**inputs).logits[0].argmax(-1).tolist()]
print("saved and loaded:", *(f"{w}[{tags[inputs.word_ids().index(n)]}]" for n, w in enumerate(text.split())))
