"""The interactive page: text, structure, attention, logit lens, generation and story in one file that needs no network.

Nothing in it can run but its own script: what comes from a prompt, a tokenizer or a checkpoint is embedded as data,
the script writes it as text only, and a policy inside the page forbids all else, networks too.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...generation.explain import GenerationExplanation, explain_generation
from ...heads import CausalLM, Seq2SeqLM
from ..analyses.lens import LogitLens, logit_lens
from ..inputs import tokenized
from ..listen import places
from ..stacks import stacks_of
from ..structure.structure import Structure
from ..trace.trace import Trace, trace
from .data import page_data

VIEWS = ("tokens", "attention", "structure", "lens", "generation", "choices", "story")
LONG = 512  # tokens
_HERE = Path(__file__).parent
# What JSON need not escape, but what could end the element that holds it, or a line of a script.
_ESCAPED = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class Page:
    """A page; in a notebook it shows itself.

    Attributes:
        html: the whole file.
        data: what it shows, as JSON holds it.
    """

    html: str
    data: dict[str, Any]

    @property
    def views(self) -> list[str]:
        """Which of the views it has."""
        return [view for view in VIEWS if self.data[view]]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file.

        Args:
            path: of the file, which ends in .html as a rule; its folder must be there.
        """
        file = Path(path)
        file.write_text(self.html, encoding="utf-8", newline="\n")
        return file

    def __str__(self) -> str:
        size = len(self.html.encode("utf-8"))
        return (
            f"Page of {self.data['model']}: {', '.join(self.views)}; {size / 1e3:,.0f} kB. Write it with .save(path)."
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        # Cut off from the notebook: a sandbox without its origin, in which nothing but scripts is allowed.
        return (
            '<iframe sandbox="allow-scripts" allow="clipboard-write" style="width: 100%; height: 44rem; border: 1px '
            f'solid #8884" title="{html.escape(self.data["title"])}" srcdoc="{html.escape(self.html)}"></iframe>'
        )


def page(
    source: Any,
    text: str | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    tokenizer: Any = None,
    structure: Structure | None = None,
    generation: GenerationExplanation | None = None,
    lens: LogitLens | None = None,
    title: str | None = None,
    row: int = 0,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    **settings: Any,
) -> Page:
    """One self-contained HTML file in which a call can be looked at: every view is there for which there is data.

    Args:
        source: a `Trace`; or a model, which is then run on `text` with all views that it has. Of more than 512 tokens
            the scores before the softmax are not recorded.
        text: for a model.
        path: where the page is written; it can also be saved later.
        tokenizer: of the model; the one beside it if not given.
        structure: `model.structure()`, drawn with the shapes of this call.
        generation: what `explain_generation` gave.
        lens: what `logit_lens` gave.
        title: above everything; the model's name if not given.
        row: of a batch, the text that is shown.
        layers: whose attention maps are shown; as many as there is room for if not given. Long texts have theirs
            sampled down, which the page says; fewer maps keep more of each.
        heads: the same of heads.
        **settings: of the generation, for a model that generates (greedy or sampled): do_sample=True, top_p=0.9, ...;
            16 new tokens if not said otherwise.

    Raises:
        InputError: if a model comes without a text, a trace with what only a model needs, or there is no such row,
            layer or head.

    Example:
        >>> page(model, "She had never been", "page.html", do_sample=True, top_p=0.9, seed=1)
        >>> page(t, path="page.html", structure=model.structure())  # of a trace
    """
    if isinstance(source, Trace):
        if text is not None or settings:
            given = ["text"] if text is not None else sorted(settings)
            raise InputError(f"A trace was given and {', '.join(given)}, which only a model needs: leave it out.")
        recorded = source
    elif text is None:
        raise InputError(f"page() got a {type(source).__name__} and no text: give page(model, text), or page(trace).")
    else:
        if generation is None and _writes(source):
            settings = {"num_beams": 1, "max_new_tokens": 16, **settings}
        recorded, generation, lens = _run(source, text, tokenizer, generation, lens, settings)
        structure = structure or source.structure()
    rows = max((len(rows) for rows in recorded.tokens.values()), default=1)
    if not 0 <= row < rows:
        raise InputError(f"There is no text {row} among {rows} in this trace; row= counts from 0.")
    data = page_data(recorded, structure, generation, lens, title, row, layers, heads, settings)
    made = Page(_filled(data), data)
    if path is not None:
        made.save(path)
    return made


def _run(
    model: Any,
    text: str,
    tokenizer: Any,
    generation: GenerationExplanation | None,
    lens: LogitLens | None,
    settings: dict[str, Any],
) -> tuple[Trace, GenerationExplanation | None, LogitLens | None]:
    """Trace a model on a text, and as it goes on with it if it can; and look through its layers if they say tokens."""
    call, texts, tokenizer = tokenized(model, text, tokenizer)
    if generation is None and _writes(model):
        recorded = Trace(model, _names(model, call), tokenizer, texts)
        with recorded:
            generation = explain_generation(model, **call, tokenizer=tokenizer, **settings)
        ids = generation.sequences
        call = {**call, "decoder_input_ids": ids} if isinstance(model, Seq2SeqLM) else {"input_ids": ids}
    elif settings:
        raise InputError(f"Nothing is generated here, so that {', '.join(settings)} would do nothing: leave it out.")
    else:
        recorded = trace(model, text, tokenizer, _names(model, call))
    if lens is None and hasattr(model, "lm_head"):
        lens = logit_lens(model, call, tokenizer)
    return recorded, generation, lens


def _writes(model: Any) -> bool:
    """Whether a model predicts next tokens."""
    return isinstance(model, (CausalLM, Seq2SeqLM)) and "decoder" in stacks_of(model)


def _names(model: Any, call: dict[str, Any]) -> list[str]:
    """What is recorded: everything, but of a long text not the scores, which take as much memory as the weights."""
    long = call["input_ids"].shape[1] > LONG
    return [name for name in places(model) if not (long and name.endswith(".scores"))]


def _filled(data: dict[str, Any]) -> str:
    """The page with its data, styles and script inside."""
    style, script = (_read(name) for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    parts = {
        "policy": policy,
        "title": html.escape(data["title"]),
        "style": style,
        "script": script,
        "data": json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")).translate(_ESCAPED),
    }
    # In one pass, so that nothing which is filled in is filled in itself.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _read("page.html"))


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
