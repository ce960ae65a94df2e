"""Fine-tune a classifier: tiny-bert, which tells languages apart, learns which family a language is of.

Run `python examples/fine_tune_classifier.py`. It learns from two everyday sentences a language and is asked about a
third one. The loop is plain PyTorch: the model gives a loss as soon as it gets `labels`. A model of the same shape
with fresh weights takes the same lesson, which shows what the pretrained ones are worth.
"""

import json
import tempfile
from pathlib import Path

import torch

from glassformer import AutoModelForSequenceClassification, AutoTokenizer

FAMILIES = {
    "Germanic": ("da", "de", "en", "nl", "nb", "sv"),
    "Romance": ("ca", "es", "fr", "it", "pt", "ro"),
    "Slavic": ("bg", "cs", "hr", "pl", "ru", "uk"),
    "Uralic": ("et", "fi", "hu"),
}
NAMES = list(FAMILIES)
SENTENCES = json.loads((Path(__file__).parent.parent / "tests" / "bundled" / "languages.json").read_text("utf-8"))

torch.set_num_threads(1)  # at this size a second thread only waits
torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained("glassformer/tiny-bert")


def batch(texts: list[str], labels: list[int]) -> dict[str, torch.Tensor]:
    """What the model takes: ids and mask (B, T), labels (B,)."""
    return {**tokenizer(texts, padding=True, return_tensors="pt"), "labels": torch.tensor(labels)}


def measure(model: torch.nn.Module) -> str:
    """The loss on the held-out sentences, in nats, and the share told right."""
    model.eval()
    with torch.no_grad():
        out = model(**held_out)
    right = (out.logits.argmax(-1) == held_out["labels"]).float().mean()
    return f"held-out loss {out.loss:.3f}, accuracy {right:.1%}"


labelled = [(SENTENCES[code], NAMES.index(name)) for name, codes in FAMILIES.items() for code in codes]
lesson = [(text, label) for texts, label in labelled for text in texts[:2]]
held_out = batch([texts[2] for texts, _ in labelled], [label for _, label in labelled])

classes = {"id2label": dict(enumerate(NAMES)), "label2id": {name: n for n, name in enumerate(NAMES)}}
pretrained = AutoModelForSequenceClassification.from_pretrained(
    "glassformer/tiny-bert", ignore_mismatched_sizes=True, **classes  # its head has 32 classes: a new one is drawn
)  # fmt: skip
fresh = AutoModelForSequenceClassification.from_config(pretrained.config)

for name, model in (("tiny-bert", pretrained), ("fresh weights", fresh)):
    print(f"{name:14} before: {measure(model)}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    model.train()
    for _ in range(15):  # epochs
        for rows in torch.randperm(len(lesson)).split(14):
            texts, labels = zip(*(lesson[row] for row in rows.tolist()))
            loss = model(**batch(list(texts), list(labels))).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print(f"{name:14} after:  {measure(model)}")

with tempfile.TemporaryDirectory() as folder:
    pretrained.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
text = "Onde fica a estação de comboios?"
probabilities = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0]
best = int(probabilities.argmax())
print(f"saved and loaded: {text!r} is {model.config.id2label[best]}, {probabilities[best]:.1%}")
