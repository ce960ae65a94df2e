"""One module a program: `load(folder, precision, threads)` gives what decodes, prefills and encodes with its model.

`decode(batch, prompt, new)` gives the new ids of every text, written greedily; `prefill(tokens)` the logits (V,) after
the last of so many tokens (of an encoder-decoder: those of its first step); `encode(lengths)` the last hidden states
(N, D) of the real tokens. `inputs.Unsupported` is raised for what a program does not do.
"""
