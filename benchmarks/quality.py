"""How good the numbers stay in bf16, int8 and int4, on the models of the package.

    python benchmarks/quality.py

tiny-gpt2 reads prose, also with a planted outlier: one channel of every layer's input made 30 times as large, and what
reads it as much smaller, so that the model computes the same and quantising it is harder. tiny-t5 rewrites dates, and
tiny-bert tells languages. Each form of the weights is compared with fp32, as the library runs it (natively, where it
can): the error of the scores relative to their size, the KL divergence of the next token's distribution in nats, how
often the most likely token is the same, and what the model is for: perplexity, or the share of right answers. The table
is printed as markdown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import glassformer as gf
from glassformer.engine.quantize import Scheme, quantize

DATA = Path(__file__).parent.parent / "tests" / "bundled"
FORMS: dict[str, dict[str, str]] = {
    "fp32": {},
    "bf16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
    "int4": {"quantization": "int4"},
}
LENGTH = 128  # tokens of a row of prose


def prose(model: Any) -> tuple[Tensor, float]:
    """The scores (N, V) of prose, and the perplexity."""
    tokenizer = gf.AutoTokenizer.from_pretrained("glassformer/tiny-gpt2")
    text = (DATA / "prose.txt").read_text("utf-8")
    ids = tokenizer(text, return_tensors="pt", verbose=False).input_ids[0]
    ids = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
    scores = model(ids).logits.float()
    loss = F.cross_entropy(scores[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    return scores.flatten(0, 1), float(loss.exp())


def dates(model: Any) -> tuple[Tensor, float]:
    """The scores (N, V) of the right answers, and the share of dates that are generated right."""
    tokenizer = gf.AutoTokenizer.from_pretrained("glassformer/tiny-t5")
    items = json.loads((DATA / "dates.json").read_text("utf-8"))
    inputs = tokenizer([item["text"] for item in items], return_tensors="pt", padding=True)
    labels = tokenizer([item["iso"] for item in items], return_tensors="pt", padding=True)
    scores = model(**inputs, labels=labels.input_ids).logits.float()[labels.attention_mask.bool()]
    written = tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=16), skip_special_tokens=True)
    right = sum(text == item["iso"] for text, item in zip(written, items))
    return scores, right / len(items)


def languages(model: Any) -> tuple[Tensor, float]:
    """The scores (N, languages), and the share of texts whose language is told."""
    tokenizer = gf.AutoTokenizer.from_pretrained("glassformer/tiny-bert")
    texts = json.loads((DATA / "languages.json").read_text("utf-8"))
    pairs = [(label, text) for label, code in enumerate(sorted(texts)) for text in texts[code]]
    inputs = tokenizer([text for _, text in pairs], return_tensors="pt", padding=True)
    scores = model(**inputs).logits.float()
    right = scores.argmax(-1) == torch.tensor([label for label, _ in pairs])
    return scores, float(right.float().mean())


def plant(model: Any, channel: int = 17, factor: float = 30.0) -> None:
    """Make one channel of what the layers read larger, and the weights that read it smaller."""
    for layer in model.base_model.decoder.layers:
        attention = layer.attention
        for norm, readers in (
            (layer.attention_residual.before, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (layer.feedforward_residual.before, (layer.feedforward.up_proj,)),
        ):
            norm.weight[channel] *= factor
            norm.bias[channel] *= factor
            for reader in readers:
                reader.weight[:, channel] /= factor


def planted(dtype: str = "float32", quantization: str | None = None) -> Any:
    """tiny-gpt2 with an outlier, in some form."""
    model = gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")
    plant(model)
    if quantization is not None:
        quantize(model, Scheme.named(quantization), torch.float32)
    return model.to(getattr(torch, dtype))


def loader(auto: Any, name: str) -> Callable[..., Any]:
    """Loads a bundled model in some form."""
    return lambda **form: auto.from_pretrained(f"glassformer/{name}", **form)


TASKS: dict[str, tuple[Callable[..., Any], Callable[[Any], tuple[Tensor, float]], str]] = {
    "tiny-gpt2, prose": (loader(gf.AutoModelForCausalLM, "tiny-gpt2"), prose, "perplexity"),
    "the same, an outlier planted": (planted, prose, "perplexity"),
    "tiny-t5, dates": (loader(gf.AutoModelForSeq2SeqLM, "tiny-t5"), dates, "right"),
    "tiny-bert, languages": (loader(gf.AutoModelForSequenceClassification, "tiny-bert"), languages, "right"),
}


def rows() -> Iterator[list[str]]:
    """The table's rows."""
    for title, (load, run, measure) in TASKS.items():
        exact, best = run(load())
        for form, options in FORMS.items():
            model = load(**options)
            scores, result = run(model)
            error = float((scores - exact).norm() / exact.norm())
            logs = exact.log_softmax(-1)
            divergence = float((logs.exp() * (logs - scores.log_softmax(-1))).sum(-1).mean())
            same = float((scores.argmax(-1) == exact.argmax(-1)).float().mean())
            change = f"{result:.3f} ({result / best - 1:+.2%})" if measure == "perplexity" else f"{result:.1%}"
            size = f"{model.get_memory_footprint() / 1e6:.2f} MB"
            yield [title, form, size, f"{error:.2%}", f"{divergence:.5f}", f"{same:.1%}", change]


def main() -> None:
    torch.set_grad_enabled(False)
    print("| Model | Weights | Size | Error of the scores | KL divergence | Same first choice | Perplexity, or right |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows():
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
