"""Find the head that copies: random tokens, then the same again, and which head looks at what came next last time.

Run `python examples/find_copying_head.py`. Such an "induction head" (https://arxiv.org/abs/2209.11895) finds the last
time that the present token was there and looks at the one after it, which is then the model's guess. A head's score is
the attention from each token of the second round to that place, the mean over many random texts. tiny-gpt2 is shown
beside a model with random weights: it has no such head. One that has is trained here in 400 steps, on texts that repeat
themselves; its loss stays where it is for a while and then falls at once, when the head has come into being.
"""

import torch

from glassformer import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

VOCABULARY, PERIOD = 32, 20


def repeated(rows: int, period: int, length: int, vocabulary: int = VOCABULARY) -> torch.Tensor:
    """Random token ids without one twice, again and again: (rows, length)."""
    return torch.rand(rows, vocabulary).argsort()[:, :period].repeat(1, -(-length // period))[:, :length]


@torch.no_grad()
def scores(model: torch.nn.Module, ids: torch.Tensor, period: int) -> tuple[torch.Tensor, float]:
    """The score of each head, (layers, heads), and the share of the second round that the model tells in advance."""
    out = model.eval()(ids, output_attentions=True)
    queries = torch.arange(period, 2 * period - 1)
    keys = queries - period + 1  # the token after the one that was the same
    found = [weights[:, :, queries, keys].mean((0, 2)) for weights in out.attentions]  # of (rows, heads, T, T)
    right = out.logits[:, queries].argmax(-1) == ids[:, queries + 1]
    return torch.stack(found), right.float().mean().item()


def show(title: str, model: torch.nn.Module, vocabulary: int) -> tuple[int, int]:
    """Print the scores of all heads; return the layer and the head of the best."""
    found, right = scores(model, repeated(64, PERIOD, 2 * PERIOD, vocabulary), PERIOD)
    best = divmod(int(found.argmax()), found.shape[1])
    print(f"{title}: best is layer {best[0]}, head {best[1]} with {found[best]:.3f}; copies {right:.1%} of the tokens")
    for layer, row in enumerate(found.tolist()):
        print(f"  layer {layer}  " + "  ".join(f"{score:.3f}" for score in row))
    return best


def trained(steps: int = 400) -> LlamaForCausalLM:
    """A model of two layers that has learned to go on with texts that repeat themselves."""
    ends = {"bos_token_id": None, "eos_token_id": None}
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=4, **ends)  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(1, steps + 1):
        period = int(torch.randint(8, 25, ()))  # not always the same: the place must be found by what stands there
        ids = repeated(32, period, 2 * 24)
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            copied = scores(model, repeated(64, PERIOD, 2 * PERIOD), PERIOD)[1]
            model.train()
            print(f"step {step}: loss {loss.item():.2f}, copies {copied:.1%}")
    return model


torch.set_num_threads(1)  # at this size a second thread only waits
torch.manual_seed(0)
chance = (1 / torch.arange(PERIOD + 1, 2 * PERIOD)).mean()
print(f"a head that looks at all tokens alike: {chance:.3f}\n")
tiny = AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")
show("random weights", AutoModelForCausalLM.from_config(tiny.config), tiny.config.vocab_size)
show("tiny-gpt2", tiny, tiny.config.vocab_size)
print()
model = trained()
layer, head = show("trained to copy", model, VOCABULARY)

print(f"\nlayer {layer}, head {head} on one text of 10 tokens, twice (rows look at columns; the darker, the more):")
with torch.no_grad():
    weights = model(repeated(1, 10, 20), output_attentions=[layer]).attentions[layer][0, head]
print("\n".join("  " + " ".join(" .:-=+*#%@"[int(9.99 * w)] for w in row).rstrip() for row in weights.tolist()))
