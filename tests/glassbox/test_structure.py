"""The structure: its numbers are the model's, its names the checkpoint's, its lines the code's, and it is readable."""

import functools
import html.parser
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import glassformer
from glassformer import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, InputError, families
from glassformer.generation.explain_table import columns
from glassformer.glassbox.sources import source_of
from glassformer.glassbox.structure.anatomy import HEADS
from glassformer.glassbox.structure.drawing import amount, size
from glassformer.glassbox.structure.structure import Structure, braced, structure
from glassformer.heads import Head
from glassformer.structure.attention import Attention

PLAIN = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
KEYS: dict[str, dict[str, Any]] = {
    "bert": {**PLAIN, "max_position_embeddings": 32},
    "gpt2": {"vocab_size": 61, "n_embd": 24, "n_layer": 3, "n_head": 3, "n_positions": 32, "pad_token_id": 3,
             "eos_token_id": 2},
    "t5": {"vocab_size": 61, "d_model": 20, "d_kv": 7, "d_ff": 40, "num_layers": 3, "num_decoder_layers": 2,
           "num_heads": 3, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0},
    "bart": {"vocab_size": 61, "d_model": 24, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 40,
             "decoder_ffn_dim": 44, "encoder_attention_heads": 3, "decoder_attention_heads": 4,
             "max_position_embeddings": 32},
    "llama": {**PLAIN, "num_key_value_heads": 2, "head_dim": 10, "pad_token_id": 3},
}  # fmt: skip
CLASSES = [(model_type, name) for model_type in families.PAGES for name in families.family(model_type).classes]
IDS = [name for _, name in CLASSES]
T = 9


@functools.cache
def model(model_type: str, name: str, device: str = "cpu", **keys: Any) -> Any:
    """A tiny model of a class; every test leaves it as it was."""
    kind = getattr(glassformer, name)
    torch.manual_seed(0)
    with torch.device(device):
        return kind(kind.config_class(**{**KEYS[model_type], **keys})).eval()


def inputs(of: Any) -> dict[str, torch.Tensor]:
    """One text of T tokens that ends in eos, for the encoder and the decoder, as one choice where there are several."""
    ids = torch.arange(10, 10 + T)[None]
    ids[:, -1] = of.config.eos_token_id or 2
    choices = type(of).__name__ == "BertForMultipleChoice"
    given = {"input_ids": ids[None] if choices else ids}
    if "decoder_input_ids" in of.arguments:
        given["decoder_input_ids"] = ids
    if "encoder_hidden_states" in of.arguments and any(
        layer.cross_attention for layer in of.base_model.stacks[0].layers
    ):
        given["encoder_hidden_states"] = torch.randn(1, T, of.config.hidden_size)
    return given


@pytest.mark.parametrize(("model_type", "name"), CLASSES, ids=IDS)
def test_numbers_are_the_models_own(model_type: str, name: str) -> None:
    """Parameters and bytes are those of the model, tied ones once, also where the model has no memory."""
    for device in ("cpu", "meta"):
        of = model(model_type, name, device)
        found = structure(of)
        assert found.parameters == of.num_parameters()
        assert found.bytes == sum(p.numel() * p.element_size() for p in of.parameters())
        leaves = [part for part in found.walk() if not part.parts]
        times = {part.name: group.times for group in found.walk() if group.layers for part in group.walk()}
        assert sum(times.get(leaf.name, 1) * leaf.parameters for leaf in leaves) == of.num_parameters()
    assert structure(model(model_type, name, "meta")) == structure(model(model_type, name, "cpu"))


@pytest.mark.parametrize(("model_type", "name"), CLASSES, ids=IDS)
def test_operations_are_those_that_run(model_type: str, name: str) -> None:
    """A call with T tokens in each stack takes T times what a token takes, and what a text takes, as torch counts."""
    of = model(model_type, name)
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        of(**inputs(of))
    found = structure(of, context=T)
    assert counted.get_total_flops() == T * found.operations + found.operations_per_text
    more = structure(of, context=T + 5)
    assert more.operations - found.operations == 5 * found.operations_per_key > 0


@pytest.mark.parametrize(("model_type", "name"), CLASSES, ids=IDS)
def test_names_are_those_of_the_saved_file(model_type: str, name: str, tmp_path: Path) -> None:
    """The names of the parts' tensors are the file's, all of them and no other."""
    of = model(model_type, name)
    of.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = set(file.keys())
    found = structure(of)
    layers = {part.name: group.layers for group in found.walk() if group.layers for part in group.walk()}
    named = {
        tensor.replace(".*.", f".{layer}.", 1)
        for part in found.walk()
        for tensor in part.checkpoint
        for layer in layers.get(part.name, (0,))
    }
    assert named == stored


@pytest.mark.parametrize(("model_type", "name"), CLASSES, ids=IDS)
def test_lines_hold_the_code(model_type: str, name: str) -> None:
    """Every part but the stream's inputs has a line of a file, and there the code begins that is told."""
    for part in structure(model(model_type, name)).walk():
        assert part.source is not None, part.name
        root = Path(torch.__file__).parent.parent if part.source.file.startswith("torch/") else None
        file = (root or Path(glassformer.__file__).parent) / part.source.file
        line = file.read_text(encoding="utf-8").splitlines()[part.source.line - 1]
        assert line.strip().startswith("def ")
        assert part.source.text.splitlines()[0] == line.strip()


@pytest.mark.parametrize(("model_type", "name"), CLASSES, ids=IDS)
def test_every_part_is_drawn(model_type: str, name: str) -> None:
    """Titles, shapes, names and lines are in the drawing, no line of which is wider than 110 columns."""
    found = structure(model(model_type, name))
    drawing = str(found)
    assert max(columns(line) for line in drawing.splitlines()) == 110
    assert f"{found.parameters:,} parameters" in drawing
    for part in found.walk():
        if part.kind in ("matrix", "product", "embedding") or part.name == "lm_head.norm":
            continue
        assert part.kind == "step" or f" {part.title}" in drawing
        assert part.shape in drawing
        assert part.source is not None
        assert str(part.source) in drawing
        if part.kind not in ("input", "layer", "stack", "step"):
            assert part.name.rpartition(".layers.*.")[2].removeprefix("encoder.").removeprefix("decoder.") in drawing
    names = [part.name for part in found.walk()]
    assert len(set(names)) == len(names)


def test_every_head_has_a_title() -> None:
    """What the classes add to a Transformer is in the table of heads, and nothing else is in it."""
    added = set()
    for model_type, name in CLASSES:
        of = model(model_type, name, "meta")
        if isinstance(of, Head):
            added |= {child for child, module in of.named_children() if module is not of.transformer}
    assert added == set(HEADS)


def test_the_drawing_of_a_decoder() -> None:
    """The stream runs through the layers' box; each step leaves it and is added; columns stand below each other."""
    drawing = str(structure(AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2"))).splitlines()
    assert drawing[0] == "GPT2LMHeadModel · decoder-only · glassformer/tiny-gpt2"
    assert drawing[1] == "1,334,880 parameters · 5.34 MB in float32"
    body = drawing[6:-2]
    assert [line[4] for line in body] == list(" ○●│⊕│┼├││││⊕├││││⊕┼●│┼● ")
    assert [line[6] for line in body[7:19]] == list("╮●│●│╯╮●│●│╯")
    assert len({line.index("(B, T") for line in body if "(B, T" in line}) == 1
    assert {line[-1] for line in body[:-2]} == set("╮│╯")
    assert sum("4 × layer" in line for line in body) == 1


def test_the_encoders_states_reach_the_cross_attention() -> None:
    """One line leads from the end of the encoder down the margin to the decoder's cross-attention."""
    drawing = str(structure(model("t5", "T5Model"))).splitlines()
    leaves = next(number for number, line in enumerate(drawing) if line.startswith("╭──┼───╯"))
    arrives = next(number for number, line in enumerate(drawing) if "▶● cross-attention" in line)
    assert drawing[arrives].startswith("╰──┼─┼─┼▶●")
    assert {line[0] for line in drawing[leaves + 1 : arrives]} == {"│"}
    assert {line[:3] for line in drawing[arrives + 1 : -2]} == {"   "}
    assert sum(line.count("◆") for line in drawing[:-1]) == 2  # relative positions meet self-attention alone
    assert "◇ relative positions" in drawing[leaves - 24] + "".join(drawing)


def test_positions_where_they_meet_the_model() -> None:
    """Rotary positions are a part of the stack with a shape of their own, and learned ones are added to tokens."""
    rotary = structure(model("llama", "LlamaModel"))
    assert rotary["decoder.positions"].shape == "(B, T, 10)"
    assert "◆ masked self-attention 4 heads of 10, 2 kv heads" in str(rotary)
    learned = structure(model("bart", "BartModel"))
    assert learned["encoder.embedding.positions"].detail == "32 positions"  # not the two rows that are never used
    assert "⊕ learned positions" in str(learned)
    assert "◆" not in str(learned)


def test_inside_attention() -> None:
    """Projections and products have their shapes, in symbols and in numbers, and keys of fewer heads theirs."""
    found = structure(model("llama", "LlamaModel"), context=100)
    attention = found["decoder.layers.*.attention"]
    assert [(part.title, part.symbols, part.shape) for part in attention.parts] == [
        ("queries", "(B, H, T, head_dim)", "(B, 4, T, 10)"),
        ("keys", "(B, kv_heads, S, head_dim)", "(B, 2, S, 10)"),
        ("values", "(B, kv_heads, S, head_dim)", "(B, 2, S, 10)"),
        ("weights of the keys", "(B, H, T, S)", "(B, 4, T, S)"),
        ("weighted mean of the values", "(B, H, T, head_dim)", "(B, 4, T, 10)"),
        ("output", "(B, T, D)", "(B, T, 24)"),
    ]
    assert [part.operations for part in attention.parts] == [1920, 960, 960, 8000, 8000, 1920]
    assert attention.operations_per_key == 4 * 40


def test_layers_that_differ_are_drawn_apart() -> None:
    """Layers that follow each other and are alike are one box; others have one each, with their numbers."""
    of = GPT2LMHeadModel(GPT2Config(**{**KEYS["gpt2"], "n_layer": 5}))
    of.base_model.decoder.layers[2].attention.scale = 0.3
    found = structure(of)
    groups = [part for part in found["decoder"].parts if part.kind == "layer"]
    assert [(part.name, part.layers) for part in groups] == [
        ("decoder.layers.0-1", (0, 1)),
        ("decoder.layers.2", (2,)),
        ("decoder.layers.3-4", (3, 4)),
    ]
    assert "scores × 0.3" in found["decoder.layers.2.attention"].detail
    assert found["decoder.layers.2.attention"].stored == "transformer.h.2.attn.{c_attn (q, k, v), c_proj}"
    assert found["decoder.layers.3-4.attention"].stored == "transformer.h.*.attn.{c_attn (q, k, v), c_proj}"
    assert found.parameters == of.num_parameters()
    for title in ("2 × layer, 0 to 1", " layer 2 ", "2 × layer, 3 to 4"):
        assert title in str(found)


def test_tied_parameters_count_once() -> None:
    """A head on the token table has none of its own and says whose they are; an untied one has."""
    tied = structure(model("gpt2", "GPT2LMHeadModel"))["lm_head"]
    assert (tied.parameters, tied.bytes, tied.tied) == (0, 0, "decoder.embedding.tokens")
    assert tied.operations == 2 * 24 * 61
    own = structure(model("gpt2", "GPT2LMHeadModel", tie_word_embeddings=False))["lm_head"]
    assert (own.parameters, own.tied, own.stored) == (24 * 61, "", "lm_head")
    shared = structure(model("t5", "T5Model"))["decoder.embedding.tokens"]
    assert (shared.parameters, shared.tied) == (0, "encoder.embedding.tokens")
    partly = structure(model("bert", "BertForMaskedLM"))["lm_head"]
    assert partly.parameters == 24 * 24 + 24 + 2 * 24 + 61
    assert partly.detail == "24 → 24 → 61, the last tied"


def test_bytes_know_the_dtype() -> None:
    """Half the bytes in half the precision; both dtypes where there are two."""
    of = GPT2LMHeadModel(GPT2Config(**KEYS["gpt2"]))
    full = structure(of)
    of.half()
    assert (structure(of).dtype, structure(of).bytes) == ("float16", full.bytes // 2)
    of.base_model.decoder.final_norm.float()
    assert structure(of).dtype == "float16 and float32"
    assert structure(of).bytes == full.bytes // 2 + 2 * 48


class Tags(html.parser.HTMLParser):
    """Collects the tags of a text, and whether they close each other."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.open: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.handlers += [name for name, value in attrs if name.startswith("on") or "javascript" in (value or "")]
        if tag not in ("br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


HOSTILE = (
    '"><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\x07\n\r\u202e漢字漢字漢字漢字漢字漢字漢字漢字'
)


def test_text_from_a_checkpoint_stays_text() -> None:
    """A name or a label can neither add a tag to the page, nor steer a terminal, nor burst the frame."""
    kind = glassformer.BertForSequenceClassification
    of = kind(kind.config_class(**KEYS["bert"], id2label=dict.fromkeys(range(3), HOSTILE), name_or_path=HOSTILE))
    found = structure(of)
    tags = Tags(found._repr_html_())
    assert tags.seen <= {"figure", "style", "figcaption", "b", "br", "div", "span", "details", "summary", "code", "pre"}
    assert not tags.handlers
    assert not tags.open
    assert "alert(1)" in found._repr_html_()
    for text in (str(found), found._repr_html_()):
        assert not set(text) & set("\x1b\x07\r\u202e")
    assert max(columns(line) for line in str(found).splitlines()) == 110
    assert {columns(line) for line in str(found).splitlines() if line.endswith(("│", "╮", "╯"))} == {110}


@pytest.mark.parametrize("name", ["BertForMaskedLM", "GPT2LMHeadModel", "T5Model", "BartModel", "LlamaForCausalLM"])
def test_the_picture_is_static_and_whole(name: str) -> None:
    """A notebook's picture needs nothing from elsewhere, and every part that is drawn opens to its code."""
    found = structure(model(dict(map(reversed, CLASSES))[name], name))  # type: ignore[arg-type]
    picture = found._repr_html_()
    tags = Tags(picture)
    assert not tags.open
    assert "script" not in tags.seen
    assert not [word for word in ("http:", "https:", "url(", "@import") if word in picture.split("<figcaption>")[0]]
    assert picture.count("<details") == picture.count("<pre>")
    assert str(found.parts[-1].source) in picture


def test_the_structure_is_data() -> None:
    """It goes through JSON, with the code of every line that it names."""
    found = structure(model("bart", "BartForConditionalGeneration"))
    data = json.loads(json.dumps(found.to_dict()))
    assert data["parameters"] == found.parameters
    assert data["sizes"] == {"D": 24, "V": 61}

    def walk(parts: list[dict[str, Any]]) -> Any:
        for part in parts:
            yield part
            yield from walk(part["parts"])

    assert [part["name"] for part in walk(data["parts"])] == [part.name for part in found.walk()]
    for part in walk(data["parts"]):
        assert data["sources"][part["source"]].startswith("def ")
    decoder = next(part for part in data["parts"] if part["name"] == "decoder")
    assert [part["times"] for part in decoder["parts"] if part["kind"] == "layer"] == [3]


def test_what_is_refused() -> None:
    """Things that are no models, contexts of no tokens, and names of no parts."""
    with pytest.raises(InputError, match="got a Linear"):
        structure(nn.Linear(2, 2))
    with pytest.raises(InputError, match="context is 0"):
        structure(model("bert", "BertModel"), context=0)
    with pytest.raises(InputError, match=r"no part 'encoder\.layer'.*encoder\.layers"):
        structure(model("bert", "BertModel"))["encoder.layer"]


def test_a_transformer_without_a_family() -> None:
    """A bare Transformer has no checkpoint, and all else."""
    whole = model("gpt2", "GPT2Model")
    found = structure(glassformer.Transformer(whole.spec))
    assert isinstance(found, Structure)
    assert found.parameters == whole.num_parameters()
    assert not any(part.checkpoint for part in found.walk())
    assert "←" not in "".join(str(found).splitlines()[:-1])


def test_sources() -> None:
    """Functions, methods, classes, modules, and what stands for them; None where there is no text."""

    class Plain:
        @property
        @functools.cache  # noqa: B019
        def number(self) -> int:
            return 1

    found = source_of(structure)
    assert found is not None
    assert (found.file, found.text.splitlines()[0]) == (
        "glassbox/structure/structure.py",
        found.text.partition("\n")[0],
    )
    assert found.text.startswith("def structure(")
    assert source_of(functools.partial(functools.partial(structure), context=3)) == found
    attention = Attention(8, heads=2)
    assert source_of(attention) == source_of(Attention.forward) == source_of(attention.forward)
    assert source_of(attention, "_attend") == source_of(Attention._attend)
    assert source_of(Attention).text.startswith("class Attention")  # type: ignore[union-attr]
    assert source_of(Plain.number).text.startswith("def number")  # type: ignore[union-attr]
    assert source_of(len) is None
    assert source_of(3) is None


def test_numbers_in_words() -> None:
    """Three digits, and never "1000 k"."""
    written = {0: "0", 999: "999", 1000: "1.00 k", 1234: "1.23 k", 12345: "12.3 k", 999_949: "1.00 M", 10**6: "1.00 M"}
    written |= {999_999: "1.00 M", 7_240_000_000: "7.24 G", 5 * 10**15: "5000 T"}
    assert {number: amount(number) for number in written} == written
    assert (size(0), size(512), size(2048)) == ("0 B", "512 B", "2.05 kB")
    assert braced(["a.b.c", "a.b.d (q, k)", "e", "f.g"]) == "a.b.{c, d (q, k)}, e, f.g"
    assert braced(["a.b", "a.b.c"]) == "a.{b, b.c}"


def test_import_stays_light() -> None:
    """Neither the package nor the data of a structure loads torch or what the command needs."""
    code = "import sys, glassformer, glassformer.glassbox.structure.structure; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "typer", "rich", "numpy"} & set(run.stdout.split())
