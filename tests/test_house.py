"""The rules of the house: who may import whom, what stays light, and that what is generated is current."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import glassformer
from glassformer import families

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "glassformer"
FILES = sorted(SOURCE.rglob("*.py"))

# Data flows down this list, and imports run only up it (docs/architecture.md).
HOUSE = [
    *("errors", "checkpoints.hub", "checkpoints.weights", "checkpoints.options", "checkpoints.save"),
    *("checkpoints.names", "checkpoints.load"),
    *("config", "spec", "cache", "outputs", "structure", "model", "heads", "families", "fresh", "tokenization"),
    *("kernels", "engine", "generation", "glassbox", "pretrained", "classes", "auto", "cli"),
]


def place(module: str) -> int:
    """The row of the list that a module stands in."""
    rows = [row for row, name in enumerate(HOUSE) if module == name or module.startswith(name + ".")]
    assert rows, f"{module} has no place in the house: add it to HOUSE and to docs/architecture.md"
    return rows[0]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, at its top or inside a function."""
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.removeprefix("glassformer.") for name in node.names if name.name.startswith("glassf")}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            elif (node.module or "").startswith("glassformer"):
                base = (node.module or "").split(".")[1:]
            else:
                continue
            base = [part for part in base if part]
            for name in node.names:
                inner = SOURCE.joinpath(*base, name.name)
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                found.add(".".join([*base, name.name] if is_module else base))
    return {name for name in found if name}


@pytest.mark.parametrize("path", [p for p in FILES if module_of(p) and p != SOURCE / "__init__.py"], ids=module_of)
def test_imports_run_only_up(path: Path) -> None:
    """A file imports what stands above it, or beside it in its own row."""
    here = module_of(path)
    if here == "checkpoints":
        return
    for other in imports(path):
        assert place(other) <= place(here), f"{here} imports {other}, which stands below it"


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "families"], ids=lambda p: p.stem)
def test_a_family_page_imports_only_parts(path: Path) -> None:
    """A page knows the spec, leaf classes, the name table and errors; never another page."""
    allowed = ("spec", "structure", "checkpoints.names", "errors", "families.family")
    allowed += ("families",) if path.stem == "__init__" else ()
    for other in imports(path):
        assert other.startswith(allowed), f"families/{path.name} imports {other}"


def test_no_family_is_named_outside_its_page() -> None:
    """The structure, the heads and generation serve whatever they are given: their code mentions no family."""
    names = set(families.PAGES) | {"model_type"}
    places = [*(SOURCE / "structure").glob("*.py"), *(SOURCE / "generation").glob("*.py")]
    for path in [*places, SOURCE / "model.py", SOURCE / "heads.py", SOURCE / "fresh.py"]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, documented) and ast.get_docstring(node)
        }
        for node in ast.walk(tree):
            strings = [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
            strings += (
                [node.id] if isinstance(node, ast.Name) else [node.attr] if isinstance(node, ast.Attribute) else []
            )
            if id(node) not in docs:
                assert not names & {s.lower() for s in strings}, f"{path.name}:{node.lineno} names a family"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_constructors_are_small(path: Path) -> None:
    """At most 500 lines a file, at most 12 arguments a constructor."""
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            assert len(node.args.args) + len(node.args.kwonlyargs) <= 13, f"{path.name}:{node.lineno}"  # with self


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after running some code."""
    code += "\nimport sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_import_is_light() -> None:
    """`import glassformer` loads neither torch, nor tokenizers, nor any extra."""
    assert not loaded_by("import glassformer") & {"torch", "tokenizers", "huggingface_hub", "numpy", "jinja2"}


def test_tokenizing_never_loads_torch() -> None:
    """Not even when a tokenizer is loaded, called, decoded and saved."""
    loaded = loaded_by(
        "import tempfile; from glassformer import AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained('glassformer/tiny-t5')\n"
        "assert tokenizer.decode(tokenizer('1 May 1999')['input_ids'])\n"
        "tokenizer.save_pretrained(tempfile.mkdtemp())"
    )
    assert "tokenizers" in loaded
    assert not loaded & {"torch", "huggingface_hub"}


def test_public_names() -> None:
    """Every public name is there, under the name it says, and every class of a page is public."""
    for name in glassformer.__all__:
        found = getattr(glassformer, name)
        # Tokenizers and caches have, as in the peer, two names for one class.
        if inspect.isclass(found) and name not in glassformer._ALIASES and "Tokenizer" not in name:
            assert found.__name__ == name
    for model_type in families.PAGES:
        family = families.family(model_type)
        assert {*family.classes, f"{family.name}Config"} == set(glassformer._FAMILIES[model_type].split())
    with pytest.raises(AttributeError, match="no 'BertModle'"):
        glassformer.BertModle  # noqa: B018


def test_the_stub_is_current() -> None:
    """`__init__.pyi` is what `make stubs` writes."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import stubs
    finally:
        sys.path.pop(0)
    assert (SOURCE / "__init__.pyi").read_text(encoding="utf-8") == stubs.stub(), "run `make stubs`"
