# make run: set up and run the main job. make test: set up and run the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EMBEDDERS ?= patch32

.PHONY: run test slow-test check gpu-check catalog clean

run: $(VENV)/.installed
	$(BIN)/vilt-bench run $(addprefix --embedder ,$(EMBEDDERS))

# Shapes are tiny: several threads would wait for each other longer than they compute.
test slow-test: export OMP_NUM_THREADS := $(or $(OMP_NUM_THREADS),1)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadscope -m "not slow and not alone"
	$(BIN)/python -m pytest -m "not slow and alone"

slow-test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "slow or not slow"

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Proves the toolkit on this machine's GPU in ten minutes, and writes results/gpu-NAME: docs/gpu.md. GPU_CHECK: its options.
gpu-check: $(VENV)/.installed-dev
	$(BIN)/python tools/gpu_check.py $(GPU_CHECK)

catalog: $(VENV)/.installed-dev
	$(BIN)/vilt-bench catalog
	$(BIN)/python tools/readme.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { echo "make needs Python 3.11 or newer with venv (Debian: apt install python3-venv)"; exit 1; }

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
