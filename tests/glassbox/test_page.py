"""The page as data and as a file: the numbers are the call's, long texts are sampled down, nothing foreign can run."""

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import glassformer as gf
from glassformer.errors import InputError
from glassformer.glassbox.page.maps import pool, quantised
from glassformer.glassbox.page.page import Page, page
from glassformer.glassbox.trace.trace import Trace, trace

HOSTILE = [
    "</script><script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "javascript:window.pwned=1",
    "<!--<script>",
    "]]>",
    "\u2028\u2029\u202e",
    "{{script}}",
    '" onmouseover="window.pwned=1',
    "&lt;b&gt;",
    "\\u003cscript>",
]


def hostile_trace() -> Trace:
    """A trace in which every text that comes from outside is hostile."""
    t = trace(gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2"), "one two three four five six seven")
    length = len(t.tokens["decoder"][0])
    t.tokens = {"decoder": [(HOSTILE * length)[:length]]}
    t.texts = [HOSTILE[0]]
    t.model = HOSTILE[1]
    t.meanings = dict.fromkeys(t.meanings, HOSTILE[0])
    return t


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": [], "title": []}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in self.inside:
            self.inside[self._open][-1] += data


def shown(kind: dict[str, Any], layer: int) -> np.ndarray[Any, Any]:
    """The weights of a layer as the page reads them, (heads, rows, columns)."""
    cells = np.frombuffer(base64.b64decode(kind["maps"][layer]), dtype=np.uint8)
    weights: np.ndarray[Any, Any] = (cells.reshape(-1, kind["rows"], kind["columns"]) / 255.0) ** 2
    return weights


@pytest.fixture(scope="module")
def written() -> Page:
    model = gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")
    return page(model, "She had never been", do_sample=True, top_k=20, temperature=0.7, seed=1, max_new_tokens=6)


@pytest.fixture(scope="module")
def translated() -> Page:
    return page(gf.AutoModelForSeq2SeqLM.from_pretrained("glassformer/tiny-t5"), "donnerstag, 4. märz 2021")


def test_a_model_that_generates_has_every_view(written: Page) -> None:
    """The text goes on as `generate` goes on with the same settings."""
    assert written.views == ["tokens", "attention", "structure", "lens", "generation", "story"]
    model = gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")
    tokenizer = gf.AutoTokenizer.from_pretrained("glassformer/tiny-gpt2")
    inputs = tokenizer("She had never been", return_tensors="pt")
    ids = model.generate(**inputs, do_sample=True, top_k=20, temperature=0.7, seed=1, max_new_tokens=6)[0]
    assert written.data["tokens"]["decoder"]["ids"] == ids[:-1].tolist()  # the last token is written, not read
    steps = written.data["generation"]["steps"]
    assert [step["token"].replace("·", " ") for step in steps] == [tokenizer.decode([token]) for token in ids[4:]]


def test_the_maps_are_those_of_the_call(written: Page) -> None:
    """Each weight of the page is that of `output_attentions` over the whole text to within 0.004."""
    model = gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")
    ids = torch.tensor([written.data["tokens"]["decoder"]["ids"]])
    with torch.no_grad():
        attentions = model(ids, output_attentions=True).attentions
    kind = written.data["attention"][0]
    assert (kind["block"], kind["rows"], kind["columns"]) == (1, ids.shape[1], ids.shape[1])
    for layer, weights in enumerate(attentions):
        np.testing.assert_allclose(shown(kind, layer), weights[0].numpy(), atol=0.004)


def test_cross_attention_joins_two_texts(translated: Page) -> None:
    """Encoder, decoder and cross-attention are there, each between the tokens it belongs to."""
    kinds = {kind["name"]: kind for kind in translated.data["attention"]}
    tokens = {stack: found["shown"] for stack, found in translated.data["tokens"].items()}
    cross = kinds["decoder.layers.{}.cross_attention.weights"]
    assert (cross["queries"], cross["keys"]) == ("decoder", "encoder")
    assert (cross["rows"], cross["columns"]) == (len(tokens["decoder"]), len(tokens["encoder"]))
    assert len(kinds) == 3
    for kind in kinds.values():
        np.testing.assert_allclose(shown(kind, 0).sum(-1), 1, atol=0.03)


def test_candidates_before_and_after_each_setting(written: Page) -> None:
    """The shares are the softmax of the model's scores and of each processor's; the last is what was drawn from."""
    model = gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")
    inputs = gf.AutoTokenizer.from_pretrained("glassformer/tiny-gpt2")("She had never been", return_tensors="pt")
    settings = {"do_sample": True, "top_k": 20, "temperature": 0.7, "seed": 1, "max_new_tokens": 6}
    choice = model.explain_generation(**inputs, **settings).rows[0][2]
    step = written.data["generation"]["steps"][2]
    assert [stage["name"] for stage in step["stages"]] == ["TemperatureLogitsWarper", "TopKLogitsWarper"]
    assert "filter_value" not in str(step["stages"])
    for found, candidate in zip(step["candidates"], choice.candidates):
        wanted = [
            scores.softmax(-1)[candidate.token_id] for scores in (choice.logits, *(s.scores for s in choice.stages))
        ]
        np.testing.assert_allclose(found["shares"], torch.stack(wanted).numpy(), rtol=1e-3)
        assert found["chosen"] == candidate.chosen


def test_the_lens_is_that_of_the_whole_text(written: Page) -> None:
    """The last row of the lens says what the model says."""
    model = gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")
    lens = written.data["lens"]
    text = [*written.data["tokens"]["decoder"]["ids"]]
    with torch.no_grad():
        said = model(torch.tensor([text])).logits[0].softmax(-1).max(-1).values
    shares = [cell[0][1] for cell in lens["cells"][-1]]
    np.testing.assert_allclose(shares[: len(text)], said.numpy(), rtol=2e-3)
    assert len(lens["cells"]) == len(lens["layers"]) == 5


@pytest.mark.parametrize("name", ["written", "translated"])
def test_every_part_has_the_shape_of_the_call(name: str, request: pytest.FixtureRequest) -> None:
    """Parts of the drawing that give a tensor say its shape in this call, and the name of the tensor."""
    data = request.getfixturevalue(name).data
    names = {line["name"]: line["shape"] for chapter in data["story"] for line in chapter["lines"]}

    def walk(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [one for part in parts for one in (part, *walk(part["parts"]))]

    parts = walk(data["structure"]["parts"])
    assert {part["name"]: part["gives"] for part in parts if part["live"] is None} == {}
    for part in parts:
        assert part["live"] == names[part["gives"]]
        # As many axes as the drawing says, the same numbers where it has numbers.
        drawn, live = part["shape"].strip("()").split(", "), re.findall(r"\(([^)]*)\)", part["live"])[0].split(", ")
        assert [a for a, b in zip(drawn, live) if a.isdigit() and a != b] == [], part["name"]
        assert len(drawn) == len(live), part["name"]


@pytest.mark.parametrize("name", ["written", "translated"])
def test_the_code_beside_each_view_runs(name: str, request: pytest.FixtureRequest) -> None:
    """What the copy button gives is a program."""
    code = request.getfixturevalue(name).data["code"]
    for view, lines in code.items():
        if "glassformer.logit_lens" in lines and not hasattr(gf, "logit_lens"):
            continue
        names: dict[str, Any] = {}
        exec(code["setup"], names)
        exec(lines, names)
        if view == "trace":
            assert names["t"].names


def test_the_story_has_every_tensor(translated: Page) -> None:
    """All that was recorded, with the line of code."""
    lines = [line for chapter in translated.data["story"] for line in chapter["lines"]]
    call = trace(gf.AutoModelForSeq2SeqLM.from_pretrained("glassformer/tiny-t5"), "donnerstag, 4. märz 2021")
    assert {line["name"] for line in lines} == set(call.names)
    assert all("announce" in line["code"] or "_mask" in line["code"] for line in lines)


def test_a_head_over_the_vocabulary_that_reads_both_ways_writes_nothing() -> None:
    """It has a lens, but no generation."""
    config = gf.BertConfig(
        vocab_size=9000, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    tokenizer = gf.AutoTokenizer.from_pretrained("glassformer/tiny-bert")
    made = page(gf.BertLMHeadModel(config).eval(), "a cat", tokenizer=tokenizer)
    assert "lens" in made.views
    assert "generation" not in made.views


def test_a_view_without_data_is_left_out() -> None:
    """A trace of a few tensors has the views that they fill."""
    model = gf.AutoModel.from_pretrained("glassformer/tiny-bert")
    assert page(trace(model, "Hello world", record="*.output")).views == ["tokens", "story"]
    maps = page(trace(model, "Hello world", record="*.layers.1.attention.weights"))
    assert maps.views == ["tokens", "attention", "story"]
    assert maps.data["attention"][0]["layers"] == [1]
    assert page(trace(model, "Hello world"), structure=model.structure()).data["structure"]["kind"] == "encoder-only"


def test_what_the_scores_came_to() -> None:
    """A class of the text, a class or token at each position, the next token: with their probabilities."""
    text = "Wo kann ich eine Fahrkarte kaufen?"
    model = gf.AutoModelForSequenceClassification.from_pretrained("glassformer/tiny-bert")
    (choice,) = page(model, text).data["choices"]
    assert (choice["where"], choice["labels"][0]) == ("logits", "German")
    assert choice["shares"] == sorted(choice["shares"], reverse=True)
    tagger = gf.AutoModelForTokenClassification.from_pretrained("glassformer/tiny-bert-punctuation")
    found = page(tagger, "how are you").data
    assert [choice["where"] for choice in found["choices"]] == found["tokens"]["encoder"]["shown"]
    gpt2 = gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")
    (choice,) = page(trace(gpt2, "She had never been")).data["choices"]
    assert choice["where"] == "·been"
    with gpt2.trace() as recorded:
        gpt2.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=3)
    assert [choice["where"] for choice in page(recorded).data["choices"]] == ["call 1", "call 2", "call 3"]


def test_maps_of_chosen_queries_are_in_the_story_only() -> None:
    """They have no tokens to be linked to, and the page says so."""
    model = gf.AutoModel.from_pretrained("glassformer/tiny-bert")
    found = page(trace(model, "Hello world", record={"*.attention.weights": gf.Maps(queries=-1)}))
    assert found.views == ["tokens", "story"]
    assert found.data["unlinked"] == 4


@pytest.mark.parametrize("settings", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_every_way_of_reading_has_the_same_maps(settings: dict[str, Any]) -> None:
    """Without a cache, and with one of fixed size that has more keys than tokens."""
    model = gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")
    wanted = page(model, "She had never been", max_new_tokens=4).data
    found = page(model, "She had never been", max_new_tokens=4, **settings).data
    assert found["tokens"] == wanted["tokens"]
    for layer in range(4):
        weights = shown(found["attention"][0], layer), shown(wanted["attention"][0], layer)
        np.testing.assert_allclose(*weights, atol=0.01)


def test_a_row_of_a_batch() -> None:
    """Another text of the same call, with its own maps and tokens."""
    model = gf.AutoModel.from_pretrained("glassformer/tiny-bert")
    recorded = trace(model, ["Hello world", "How are you today"])
    found = page(recorded, row=1).data
    assert found["text"] == "How are you today"
    assert found["tokens"]["encoder"]["shown"] == [t.replace("##", "-") for t in recorded.tokens["encoder"][1]]
    weights = recorded["encoder.layers.2.attention.weights"][1].numpy()
    np.testing.assert_allclose(shown(found["attention"][0], 2), weights, atol=0.004)


def test_pooled_maps_keep_their_sums() -> None:
    """A block's row is the mean of its tokens' rows, its columns are summed: each row still sums to 1."""
    maps = torch.rand(3, 10, 7).softmax(-1)
    pooled = pool(maps, 4)
    assert pooled.shape == (3, 3, 2)
    torch.testing.assert_close(pooled.sum(-1), torch.ones(3, 3))
    torch.testing.assert_close(pooled[:, 2, 1], maps[:, 8:, 4:].sum(-1).mean(-1))
    back = (quantised(maps).double() / 255) ** 2
    assert (back - maps).abs().max() < 0.004


def long_page(**options: Any) -> Page:
    """Of a model of BERT-base's depth and heads, and a text of 1,000 tokens."""
    torch.manual_seed(0)
    sizes = {"n_embd": 48, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 2048}
    model = gf.AutoModelForCausalLM.from_config(gf.GPT2Config(**sizes)).eval()
    tokenizer = gf.AutoTokenizer.from_pretrained("glassformer/tiny-gpt2")
    ids = tokenizer("She had never been so much. ", return_tensors="pt").input_ids
    with Trace(model, ["*.weights", "*.output"], tokenizer) as recorded, torch.no_grad():
        model(ids.repeat(1, 1000)[:, :1000])
    return page(recorded, structure=model.structure(), **options)


@pytest.mark.slow
def test_long_texts_are_sampled_down(tmp_path: Path) -> None:
    """1,000 tokens and 144 maps stay under 5 MB; one map is kept whole."""
    found = long_page(path=tmp_path / "long.html")
    assert (tmp_path / "long.html").stat().st_size < 5_000_000
    kind = found.data["attention"][0]
    assert len(found.data["tokens"]["decoder"]["shown"]) == 1000
    assert kind["block"] > 1
    assert kind["rows"] == -(-1000 // kind["block"])
    assert len(kind["layers"]) == len(kind["heads"]) == 12
    one = long_page(layers=[3], heads=[-1])
    kind = one.data["attention"][0]
    assert (kind["block"], kind["layers"], kind["heads"], kind["rows"]) == (1, [3], [11], 1000)
    assert len(one.html) < 5_000_000


def test_many_heads_are_chosen_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more maps than a page may have, layers and heads are left out, and it says how many there were."""
    monkeypatch.setattr("glassformer.glassbox.page.maps.MOST", 4)
    model = gf.AutoModel.from_pretrained("glassformer/tiny-bert")
    kind = page(trace(model, "Hello world")).data["attention"][0]
    assert (kind["layers"], kind["heads"], kind["all_layers"], kind["all_heads"]) == ([0, 2], [0, 2], 4, 4)


def test_the_file_holds_the_data(written: Page, tmp_path: Path) -> None:
    """What is embedded is what `data` says, and `save` writes what `html` says."""
    elements = Elements(written.html)
    data = elements.inside["script"][0]
    assert json.loads(data) == json.loads(json.dumps(written.data))
    assert written.save(tmp_path / "page.html").read_text(encoding="utf-8") == written.html
    assert str(written).startswith("Page of GPT2LMHeadModel")


def test_hostile_text_stays_text() -> None:
    """No tag, attribute or script is made from what comes from outside, wherever it stands."""
    made = page(hostile_trace(), title=HOSTILE[0])
    plain = page(trace(gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2"), "one two three"))
    found, wanted = Elements(made.html), Elements(plain.html)
    assert found.tags == [(t, a | found.tags[n][1] if "content" in a else a) for n, (t, a) in enumerate(wanted.tags)]
    assert found.inside["style"] == wanted.inside["style"]
    assert found.inside["script"][1:] == wanted.inside["script"][1:]
    assert html.unescape(found.inside["title"][0]) == HOSTILE[0]
    data = found.inside["script"][0]
    assert not re.search("[<>&\u2028\u2029]", data)
    assert json.loads(data)["title"] == HOSTILE[0]


def test_the_policy_allows_the_page_and_nothing_else(written: Page) -> None:
    """Scripts and styles by their hashes, no network; no address of anything outside is in the file."""
    elements = Elements(written.html)
    policy = next(a["content"] for t, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for name, text in (("script-src", elements.inside["script"][1]), ("style-src", elements.inside["style"][0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    assert not re.search(r"https?://|//[a-z]+\.", written.html.replace(elements.inside["script"][0], ""))
    assert not [a for _, a in elements.tags if {"src", "style", "onclick", "onload"} & a.keys()]
    assert [a["href"] for _, a in elements.tags if "href" in a] == ["#main"]


def test_in_a_notebook_it_is_shut_in(written: Page) -> None:
    """A frame of its own origin, which holds the whole page."""
    shown = written._repr_html_()
    (tag, attributes), *rest = Elements(shown).tags
    assert (tag, attributes["sandbox"], rest) == ("iframe", "allow-scripts", [])
    assert attributes["srcdoc"] == written.html


def test_the_script_makes_no_markup_from_text() -> None:
    """Nothing in the script parses a string as markup or code, or asks a network."""
    script = (Path(gf.__file__).parent / "glassbox" / "page" / "page.js").read_text(encoding="utf-8")
    forbidden = (
        "innerHTML|outerHTML|insertAdjacentHTML|document.write|eval|Function|DOMParser|fetch|XMLHttpRequest|import"
    )
    assert not re.search(rf"\b({forbidden})\b", script)
    assert script.count("\n") < 500


def test_what_does_not_fit_is_refused() -> None:
    """One sentence that says what to do."""
    model = gf.AutoModel.from_pretrained("glassformer/tiny-bert")
    recorded = trace(model, "Hello world")
    with pytest.raises(InputError, match="no text"):
        page(model)
    with pytest.raises(InputError, match="only a model needs"):
        page(recorded, "Hello")
    with pytest.raises(InputError, match="top_p"):
        page(model, "Hello world", top_p=0.5)
    with pytest.raises(InputError, match="no text 3"):
        page(recorded, row=3)
    with pytest.raises(InputError, match="select no attention map"):
        page(recorded, layers=[9])
