"""ModelOutput is a mapping, a tuple and attributes at once, and a node of torch's pytree."""

import copy
import pickle

import pytest
import torch
import torch.utils._pytree as pytree

from glassformer.outputs import BaseModelOutput, ModelOutput, SequenceClassifierOutput


def example() -> SequenceClassifierOutput:
    return SequenceClassifierOutput(logits=torch.arange(4.0), attentions=(torch.ones(2), torch.zeros(2)))


def test_three_faces() -> None:
    """Only what is there has a key, in field order; names, numbers and attributes give the same things."""
    out = example()
    assert list(out) == ["logits", "attentions"]
    assert out.loss is None
    assert "loss" not in out
    assert out.logits is out["logits"] is out[0] is out.to_tuple()[0]
    assert out[1] is out.attentions
    assert out[:1] == (out.logits,)
    assert dict(out) == {"logits": out.logits, "attentions": out.attentions}
    logits, attentions = out.to_tuple()
    assert logits is out.logits
    assert len(attentions) == 2
    with pytest.raises(KeyError):
        out["loss"]


def test_setting() -> None:
    """A value set by name or as an attribute is seen in both ways; a key cannot be deleted."""
    out = example()
    out["loss"] = torch.tensor(1.0)
    assert out.loss is out["loss"]
    out.logits = torch.zeros(1)
    assert out["logits"] is out.logits
    with pytest.raises(TypeError, match="logits"):
        del out["logits"]


def test_pytree() -> None:
    """Flattened, changed leaf by leaf and put together again, it is of the same class with the same keys."""
    out = example()
    leaves, structure = pytree.tree_flatten(out)
    assert len(leaves) == 3
    again = pytree.tree_unflatten([leaf + 1 for leaf in leaves], structure)
    assert type(again) is SequenceClassifierOutput
    assert list(again) == list(out)
    assert torch.equal(again.logits, out.logits + 1)
    assert again.loss is None


def test_copies() -> None:
    """It can be copied deeply and pickled."""
    for again in (copy.deepcopy(example()), pickle.loads(pickle.dumps(example()))):
        assert type(again) is SequenceClassifierOutput
        assert torch.equal(again.logits, example().logits)
        assert list(again) == ["logits", "attentions"]
    assert isinstance(BaseModelOutput(), ModelOutput)
