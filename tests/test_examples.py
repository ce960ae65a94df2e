"""Every program in examples/ runs as it is, offline, and what it prints is what it promises."""

import re
from pathlib import Path

import pytest

from test_docs import ROOT, run

EXAMPLES = ROOT / "examples"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """A function that runs an example in an empty folder, and checks that it leaves nothing there or in /tmp."""
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def printed(name: str, *arguments: object) -> str:
        path = str(EXAMPLES / f"{name}.py")
        argv = [path, *map(str, arguments)]
        text = run(f"import runpy, sys; sys.argv = {argv!r}; runpy.run_path({path!r}, run_name='__main__')", here)
        left = [path.name for path in (*here.iterdir(), *temporary.iterdir())]
        assert not [name for name in left if not name.startswith("torchinductor_")]  # torch's own cache
        return text

    return printed


def numbers(pattern: str, text: str) -> list[float]:
    """The numbers in the place of the parentheses of a pattern, in order."""
    return [float(found) for found in re.findall(pattern, text)]


def test_every_example_is_short_named_and_tested() -> None:
    """Each is under 80 lines (the demo is a page of its own, see test_docs), in the README, and run by a test here."""
    tested = Path(__file__).read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        if path.stem != "demo":
            assert len(path.read_text(encoding="utf-8").splitlines()) < 80, path.name
            assert f'example("{path.stem}"' in tested, path.name
            assert f"| `{path.name}` |" in readme, path.name


@pytest.mark.slow
def test_fine_tune_classifier(example) -> None:
    """Fine-tuning tells more families than before and than a model without pretraining, and survives saving."""
    page = example("fine_tune_classifier")
    before, after, _, fresh_after = numbers(r"accuracy ([\d.]+)%", page)
    assert after >= 85
    assert after > before + 30
    assert after > fresh_after + 10
    losses = numbers(r"held-out loss ([\d.]+)", page)
    assert losses[1] < 0.5 * losses[0]
    assert re.search(r"saved and loaded: .* is Romance, \d", page)


@pytest.mark.slow
def test_fine_tune_tagger(example) -> None:
    """Names that were not learned from are told by the words around them, the same name both ways."""
    page = example("fine_tune_tagger")
    before, after = numbers(r"names told right ([\d.]+)%", page)
    assert before < 50
    assert after > 80
    losses = numbers(r"held-out loss ([\d.]+)", page)
    assert losses[1] < 0.25 * losses[0]
    assert "verona[PERSON]" in page
    assert "verona[PLACE]" in page


@pytest.mark.slow
def test_fine_tune_lm(example) -> None:
    """The loss on the unseen part falls by a nat and rises again; what is loaded is the best of what was saved."""
    page = example("fine_tune_lm")
    before, *during, after = numbers(r"held-out loss ([\d.]+)", page)
    assert after == min(during) < before - 0.8
    assert during[-1] > after
    trained = numbers(r", loss ([\d.]+)", page)
    assert trained[-1] < trained[0] / 2
    texts = re.findall(r"^ +(You may .*)$", page, re.M)
    assert len(set(texts)) == 2


def test_embed_and_search(example) -> None:
    """The nearest are in the query's language, given or not; the figures say what the model knows and what not."""
    page = example("embed_and_search")
    language, chance, meaning, _ = numbers(r"(\d+)%", page)
    assert language > 85 > chance
    assert meaning < chance
    cosines = numbers(r"\n  ([\d.]+)  ", page)
    assert len(cosines) == 5
    assert cosines == sorted(cosines, reverse=True)
    assert "train part demain" in page
    assert "kellarin avain" in example("embed_and_search", "Missä on lähin kauppa?")


def test_classify_file(example, tmp_path: Path) -> None:
    """One line for each that is not empty, in the file's order, with the numbers that a small batch gives."""
    demo = [line.split("\t") for line in example("classify_file").splitlines()]
    assert [row[0] for row in demo] == ["1", "2", "3", "5", "6", "7", "8", "9"]
    assert [row[1] for row in demo[:3]] == ["English", "German", "French"]
    file = tmp_path / "texts.txt"
    rows = [row for row in demo for _ in range(150)]  # more than one chunk
    file.write_text("\n".join(row[3] for row in rows), encoding="utf-8")
    made = [line.split("\t") for line in example("classify_file", file, "--batch-size", 100).splitlines()]
    assert [(row[0], row[1], row[3]) for row in made] == [(str(n), row[1], row[3]) for n, row in enumerate(rows, 1)]
    assert all(abs(float(one[2]) - float(other[2])) < 2e-4 for one, other in zip(made, rows))


def test_compare_checkpoints(example) -> None:
    """Only the weights of the changed part differ, and the computation parts in that part; a copy differs nowhere."""
    page = example("compare_checkpoints")
    changed = re.findall(r"^ +[\d.]+%  (\S+)$", page, re.M)
    assert changed
    assert all(name.startswith("decoder.layers.2.feedforward.") for name in changed)
    assert "First difference: decoder.layers.2.feedforward.inner" in page
    page = example("compare_checkpoints", "glassformer/tiny-t5", "glassformer/tiny-t5", "--text", "4 March 2021")
    same, every = re.search(r"(\d+) of (\d+) weights are the same", page).groups()
    assert same == every
    assert "No difference" in page


@pytest.mark.slow
def test_find_copying_head(example) -> None:
    """No head of random weights or of tiny-gpt2 copies; one of the model that was trained to does, far above chance."""
    page = example("find_copying_head")
    (chance,) = numbers(r"all tokens alike: ([\d.]+)", page)
    random_best, tiny_best, trained_best = numbers(r"head \d with ([\d.]+)", page)
    assert random_best < 2 * chance
    assert tiny_best < 2 * chance
    assert trained_best > 10 * chance
    random_copies, tiny_copies, trained_copies = numbers(r"; copies ([\d.]+)% of the tokens", page)
    assert max(random_copies, tiny_copies) < 5 < 60 < trained_copies
