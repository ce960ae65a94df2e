"""Embed and search: each text one vector, and the texts nearest to a query by cosine.

Run `python examples/embed_and_search.py`, or with a query of your own as the argument. A text's embedding is the mean
of its tokens' last hidden states, padding left out, brought to length 1. What "near" means depends on what a model was
trained for. tiny-bert was trained to tell languages apart: so it finds texts in the language of the query, and knows
nothing of what they mean. The two figures at the end say so. A sentence-embedding model takes its place by its name.
"""

import sys

import torch

from glassformer import AutoModel, AutoTokenizer

MODEL = "glassformer/tiny-bert"
TEXTS = {  # the same five sentences in each language
    "English": """The train leaves at seven tomorrow morning. My sister bought fresh bread at the market. It rained all
        night and the river is high. Here is the key to the cellar. The doctor says that he must rest.""",
    "Finnish": """Juna lähtee huomenaamulla kello seitsemän. Siskoni osti torilta tuoretta leipää. Koko yön satoi ja
        joki on korkealla. Tässä on kellarin avain. Lääkäri sanoo, että hänen täytyy levätä.""",
    "French": """Le train part demain matin à sept heures. Ma sœur a acheté du pain frais au marché. Il a plu toute la
        nuit et la rivière est haute. Voici la clé de la cave. Le médecin dit qu'il doit se reposer.""",
    "German": """Der Zug fährt morgen früh um sieben ab. Meine Schwester hat auf dem Markt frisches Brot gekauft. Es hat
        die ganze Nacht geregnet und der Fluss steht hoch. Hier ist der Schlüssel zum Keller. Der Arzt sagt, dass er
        sich ausruhen muss.""",
    "Polish": """Pociąg odjeżdża jutro rano o siódmej. Moja siostra kupiła na targu świeży chleb. Całą noc padało i
        rzeka jest wysoka. Oto klucz do piwnicy. Lekarz mówi, że musi odpocząć.""",
}
QUERY = "Combien coûte un billet pour Lyon ?"

torch.set_num_threads(1)  # at this size a second thread only waits
tokenizer = AutoTokenizer.from_pretrained(MODEL)
model = AutoModel.from_pretrained(MODEL)


@torch.no_grad()
def embed(texts: list[str]) -> torch.Tensor:
    """Embeddings of length 1, (texts, D)."""
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    states = model(**inputs).last_hidden_state  # (texts, T, D)
    mask = inputs.attention_mask.unsqueeze(-1)  # (texts, T, 1): 0 for padding
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def nearest(queries: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and numbers of the texts that are nearest to each query, both (queries, count)."""
    found = (queries @ index.T).topk(count)
    return found.values, found.indices


texts = [" ".join(text.split()) for block in TEXTS.values() for text in block.split(".")[:-1]]
index = embed(texts)
query = sys.argv[1] if len(sys.argv) > 1 else QUERY
print(f"nearest to {query!r}:")
for cosine, number in zip(*(part[0].tolist() for part in nearest(embed([query]), 5))):
    print(f"  {cosine:.3f}  {texts[number]}")

# Each text in turn is the query; the nearest is itself, the four after it are looked at.
numbers = torch.arange(len(texts))
others = nearest(index, 5)[1][:, 1:]
for what, group in (("in the query's language", numbers // 5), ("with the query's meaning", numbers % 5)):
    share = (group[others] == group[:, None]).float().mean()
    print(f"of the four nearest to each text, {what}: {share:.0%} (by chance {4 / (len(texts) - 1):.0%})")
