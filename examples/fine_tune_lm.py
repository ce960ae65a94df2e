"""Fine-tune a language model: tiny-gpt2, which has read only Jane Austen, learns the language of a licence.

Run `python examples/fine_tune_lm.py`. A plain PyTorch loop over windows of the first three quarters of LICENSE, with
the loss on the last quarter beside it. So little text is soon known by heart: the loss on what it learns from goes on
falling when the one on what it has not seen rises again. What is saved is the model before that.
"""

import tempfile
from pathlib import Path

import torch

from glassformer import AutoModelForCausalLM, AutoTokenizer

LENGTH = 128

torch.set_num_threads(1)  # at this size a second thread only waits
torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained("glassformer/tiny-gpt2")
model = AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")
lines = (Path(__file__).parent.parent / "LICENSE").read_text("utf-8").splitlines()
ids = torch.tensor([n for line in lines if line for n in tokenizer(" " + line.strip()).input_ids])
learned, held_out = ids[: len(ids) * 3 // 4], ids[len(ids) * 3 // 4 :]
held_out = held_out[: len(held_out) // LENGTH * LENGTH].view(-1, LENGTH)


@torch.no_grad()
def measure() -> float:
    """The mean loss on the held-out quarter, in nats a token."""
    model.eval()
    return float(model(held_out, labels=held_out).loss)  # labels are the ids themselves: the model shifts them


def goes_on() -> str:
    """How the model goes on with a few words."""
    inputs = tokenizer("You may", return_tensors="pt")
    text: str = tokenizer.decode(model.generate(**inputs, max_new_tokens=24)[0])
    return " ".join(text.split())


best = measure()
print(f"before:  held-out loss {best:.3f}\n         {goes_on()}")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
with tempfile.TemporaryDirectory() as folder:
    for step in range(1, 51):
        model.train()
        starts = torch.randint(len(learned) - LENGTH, (8,))
        batch = torch.stack([learned[start : start + LENGTH] for start in starts])
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            now = measure()
            print(f"step {step}: held-out loss {now:.3f}, loss {loss.item():.3f}{', saved' * (now < best)}")
            if now < best:
                best = now
                model.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
print(f"after:   held-out loss {measure():.3f}\n         {goes_on()}")
