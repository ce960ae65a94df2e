"""The models that ship with the package: they load by name without a network, and do what their cards say."""

import json
import re
import socket
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import glassformer
from glassformer import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

HERE = Path(__file__).parent
BUNDLED = Path(glassformer.__file__).parent / "bundled"
NAMES = ("tiny-bert", "tiny-bert-punctuation", "tiny-gpt2", "tiny-t5")
CLASSES = {
    "tiny-bert": AutoModelForSequenceClassification,
    "tiny-bert-punctuation": AutoModelForTokenClassification,
    "tiny-gpt2": AutoModelForCausalLM,
    "tiny-t5": AutoModelForSeq2SeqLM,
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a socket fails the test."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a bundled model opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)


def both(name: str):
    """The tokenizer and the model of a bundled name."""
    name = f"glassformer/{name}"
    tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
    return tokenizer, CLASSES[name.split("/")[1]].from_pretrained(name, local_files_only=True)


def number(name: str, pattern: str) -> float:
    """A number from a model's card."""
    return float(re.search(pattern, (BUNDLED / name / "README.md").read_text("utf-8"))[1])


@pytest.mark.parametrize("name", NAMES)
def test_files(name: str) -> None:
    """The file is small and in half precision, the model is computed in single, and the card says how it came to be."""
    file = BUNDLED / name / "model.safetensors"
    assert file.stat().st_size <= 3_000_000
    with safe_open(file, "pt") as tensors:
        assert {tensors.get_tensor(key).dtype for key in tensors.keys()} == {torch.float16}  # noqa: SIM118
    _, model = both(name)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    text = (BUNDLED / name / "README.md").read_text("utf-8")
    for part in ("license: apache-2.0", "## Data and licence", "## Quality", "MB", "minutes", "python training/train_"):
        assert part in text


@pytest.mark.parametrize("name", NAMES)
def test_loads_in_the_precision_asked_for(name: str) -> None:
    """`dtype` overrules what config.json says."""
    model = CLASSES[name].from_pretrained(f"glassformer/{name}", dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", NAMES)
def test_the_peer_reads_the_same(name: str) -> None:
    """The peer loads each folder, finds every tensor, and computes the same from the same text."""
    peer = pytest.importorskip("transformers")
    tokenizer, model = both(name)
    theirs, info = getattr(peer, CLASSES[name].__name__).from_pretrained(BUNDLED / name, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    text = ["She had never been there", "le 4 mars 2021"]
    for one in text:
        ours = tokenizer(one, return_tensors="pt")
        assert ours["input_ids"].tolist() == peer.AutoTokenizer.from_pretrained(BUNDLED / name)([one])["input_ids"]
        if name == "tiny-t5":
            ours["labels"] = tokenizer("2021-03-04", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            torch.testing.assert_close(model(**ours).logits, theirs(**ours).logits, rtol=1e-4, atol=1e-4)


def test_the_language_of_everyday_sentences() -> None:
    """The share of right languages is what the card says, and high."""
    tokenizer, model = both("tiny-bert")
    right, count = 0, 0
    names = list(model.config.id2label.values())
    assert len(names) == len(set(names)) >= 20
    sentences = json.loads((HERE / "languages.json").read_text("utf-8"))
    name_of = dict(zip(sorted(sentences), names, strict=True))
    for code, texts in sentences.items():
        with torch.no_grad():
            said = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.argmax(-1).tolist()
        right += sum(model.config.id2label[label] == name_of[code] for label in said)
        count += len(texts)
    assert right / count >= 0.85
    assert right / count == pytest.approx(number("tiny-bert", r"([\d.]+)% of \d+ everyday") / 100, abs=0.015)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Where can I buy a ticket for the train?", "English"),
        ("Wo kann ich eine Fahrkarte für den Zug kaufen?", "German"),
        ("昨日は天気がよかったので海へ行きました。", "Japanese"),
        ("Где я могу купить билет на поезд?", "Russian"),
        ("Πού μπορώ να αγοράσω ένα εισιτήριο για το τρένο;", "Greek"),
    ],
)
def test_languages_by_name(text: str, language: str) -> None:
    """A label is the name of a language."""
    tokenizer, model = both("tiny-bert")
    label = model(**tokenizer(text, return_tensors="pt")).logits.argmax().item()
    assert model.config.id2label[label] == language


def restore(tokenizer, model, text: str) -> str:
    """A text with the capitals and marks that the model gives to its words."""
    words = text.split()
    made = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        labels = model(**made).logits[0].argmax(-1).tolist()
    places = made.word_ids()
    tags = [model.config.id2label[labels[places.index(n)]] for n in range(len(words))]
    return " ".join((w.capitalize() if t[0] == "W" else w) + t[4:] for w, t in zip(words, tags))


def test_punctuation_restored() -> None:
    """Capitals, a comma or stop and a question mark come back."""
    tokenizer, model = both("tiny-bert-punctuation")
    assert restore(tokenizer, model, "what do you mean by it") == "What do you mean by it?"
    assert restore(tokenizer, model, "mr darcy was not at home").startswith("Mr. Darcy was not at home")


def test_punctuation_of_held_out_prose(monkeypatch: pytest.MonkeyPatch) -> None:
    """On pages of a novel that it has not seen, capitals and full stops come back about as often as the card says."""
    monkeypatch.syspath_prepend(str(HERE.parents[1] / "training"))
    from punctuation import TAGS, tagged, windows

    tokenizer, model = both("tiny-bert-punctuation")
    assert list(model.config.id2label.values()) == TAGS
    examples = [tagged(paragraph) for paragraph in (HERE / "prose.txt").read_text("utf-8").splitlines()]
    pairs = []
    for words, tags in (window for example in examples for window in windows(example)):
        pairs += zip(restore(tokenizer, model, " ".join(words)).split(), (TAGS[tag] for tag in tags), strict=True)
    row = re.search(
        r"Northanger Abbey \| [\d.]+ \| ([\d.]+) \| [\d.]+ \| ([\d.]+) \|",
        (BUNDLED / "tiny-bert-punctuation/README.md").read_text("utf-8"),
    )
    found = {"full stop": [(w.endswith("."), t.endswith(".")) for w, t in pairs]}
    found["capital"] = [(w[0].isupper(), t[0] == "W") for w, t in pairs]
    for (kind, both_of), said in zip(found.items(), row.groups(), strict=True):
        right = 2 * sum(a and b for a, b in both_of) / sum(a + b for a, b in both_of)
        assert right == pytest.approx(float(said), abs=0.1), kind


def test_one_backbone() -> None:
    """Both BERT folders hold the same backbone, bit for bit; what differs is the heads."""
    with (
        safe_open(BUNDLED / "tiny-bert/model.safetensors", "pt") as one,
        safe_open(BUNDLED / "tiny-bert-punctuation/model.safetensors", "pt") as other,
    ):
        shared = {key for key in one.keys() if key.startswith(("bert.embeddings", "bert.encoder"))}  # noqa: SIM118
        assert len(shared) > 60
        assert set(other.keys()) == shared | {"classifier.weight", "classifier.bias"}
        assert all(torch.equal(one.get_tensor(key), other.get_tensor(key)) for key in shared)


def test_prose_is_words() -> None:
    """Greedy and sampled continuations are made of words, and do not repeat one word only."""
    tokenizer, model = both("tiny-gpt2")
    known = set((HERE / "words.txt").read_text("utf-8").split())
    start = tokenizer("She had never been", return_tensors="pt")
    for options in ({"do_sample": False}, {"do_sample": True, "top_k": 40, "temperature": 0.8}):
        torch.manual_seed(1)
        ids = model.generate(**start, max_new_tokens=60, pad_token_id=0, **options)
        words = re.findall(r"[a-z]+", tokenizer.decode(ids[0]).lower())[4:-1]
        assert len(words) > 25
        assert sum(w in known for w in words) / len(words) >= 0.85
        assert len(set(words)) >= 10


def test_loss_on_held_out_prose() -> None:
    """Nats a byte on pages of a novel that it has not seen are near what the card says of the whole."""
    tokenizer, model = both("tiny-gpt2")
    text = (HERE / "prose.txt").read_text("utf-8")
    ids = torch.tensor(tokenizer(text)["input_ids"])
    total = 0.0
    with torch.no_grad():
        for at in range(0, len(ids) - 1, 128):
            window = ids[max(0, at - 127) : at + 129][None]  # the last 128 are new and seen after up to 128 others
            new = len(ids[at + 1 : at + 129])
            labels = window.clone()
            labels[:, :-new] = -100
            total += model(input_ids=window, labels=labels).loss.item() * new
    said = number("tiny-gpt2", r"([\d.]+) nats a byte")
    assert said < 1.6
    assert total / len(text.encode()) == pytest.approx(said, rel=0.1)


def test_dates() -> None:
    """Held-out dates in many languages are rewritten exactly, alone and in a padded batch."""
    tokenizer, model = both("tiny-t5")
    cases = json.loads((HERE / "dates.json").read_text("utf-8"))
    assert number("tiny-t5", r"Exact on ([\d.]+)%") >= 99
    made = tokenizer([case["text"] for case in cases], padding=True, return_tensors="pt")
    said = tokenizer.batch_decode(model.generate(**made), skip_special_tokens=True)
    right = [s == case["iso"] for s, case in zip(said, cases, strict=True)]
    assert sum(right) >= len(right) - 1
    alone = model.generate(**tokenizer("Thursday, March 4, 2021", return_tensors="pt"))
    assert tokenizer.decode(alone[0], skip_special_tokens=True) == "2021-03-04"


def test_cross_attention_shows_the_alignment() -> None:
    """While the day is written, the head named on the card looks at the day."""
    tokenizer, model = both("tiny-t5")
    text = (BUNDLED / "tiny-t5/README.md").read_text("utf-8")
    layer, head, share = re.search(r"day: layer (\d+), head (\d+): ([\d.]+)%", text).groups()
    assert float(share) >= 80
    hits = []
    for day in range(1, 32):
        made = tokenizer(f"March {day}, 2021", return_offsets_mapping=True, return_tensors="pt")
        offsets = made.pop("offset_mapping")[0].tolist()
        labels = tokenizer(f"2021-03-{day:02}", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            weights = model(**made, labels=labels, output_attentions=True).cross_attentions[int(layer)]
        for step in (8, 9)[day < 10 :]:  # the zero of 04 stands nowhere in the input
            start, end = offsets[weights[0, int(head), step].argmax()]
            hits.append(start < len(f"March {day}") and end > len("March "))
    assert sum(hits) / len(hits) >= 0.6
