"""Compare two checkpoints: which weights differ, by how much, and where the computation parts.

Run `python examples/compare_checkpoints.py ONE OTHER` with two folders or names of models of one family, or without
for tiny-gpt2 beside a copy of which one layer was changed: its feed-forward part, by one step of training. Weights and
computed tensors have the same names, so the first tensor that differs stands beside the weights that made it differ.
"""

import argparse
import tempfile
from typing import Any

import torch

import glassformer
from glassformer import AutoConfig, AutoModelForCausalLM, AutoTokenizer

TINY = "glassformer/tiny-gpt2"
CHANGED = "decoder.layers.2.feedforward"


def changed_copy(folder: str) -> None:
    """Save tiny-gpt2 after one step of training that moves one part only."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(TINY)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    ids = tokenizer("You may reproduce and distribute copies of the Work.", return_tensors="pt").input_ids
    optimizer = torch.optim.AdamW([w for name, w in model.named_parameters() if f"{CHANGED}." in name], lr=1e-3)
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def loaded(name: str) -> Any:
    """A checkpoint as the class that its configuration names."""
    classes = AutoConfig.from_pretrained(name).architectures or ["AutoModel"]
    return getattr(glassformer, classes[0]).from_pretrained(name)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """The length of the difference, as a share of the length of the first."""
    return float((one.double() - other).norm() / one.double().norm().clamp_min(1e-30))


def compare(name: str, other_name: str, text: str) -> None:
    """Print how two checkpoints differ."""
    one, other = loaded(name), loaded(other_name)
    weights, others = one.state_dict(), other.state_dict()
    same = [key for key in weights if key in others and torch.equal(weights[key], others[key])]
    print(f"{len(same)} of {len(weights)} weights are the same")
    for key in dict.fromkeys([*weights, *others]):
        if key not in weights or key not in others:
            print(f"  only in {other_name if key in others else name}: {key}")
        elif weights[key].shape != others[key].shape:
            print(f"  {key}: {tuple(weights[key].shape)} and {tuple(others[key].shape)}")
        elif key not in same:
            print(f"  {distance(weights[key], others[key]):9.2%}  {key.removeprefix('transformer.')}")

    inputs = AutoTokenizer.from_pretrained(name)(text, return_tensors="pt")
    print(glassformer.trace(one, inputs).diff(glassformer.trace(other, inputs)))


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="two folders or names")
    parser.add_argument("--text", default="She had never been", help="what both models read")
    args = parser.parse_args()
    if len(args.checkpoints) not in (0, 2):
        parser.error("give two checkpoints, or none")
    with tempfile.TemporaryDirectory() as folder:
        if not args.checkpoints:
            changed_copy(folder)
        one, other = args.checkpoints or (TINY, folder)
        compare(one, other, args.text)


if __name__ == "__main__":
    main()
