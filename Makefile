# make demo   the main job on the built-in sample, ends with a page of pictures
# make test   the tests                        make test-all   the slow ones too
# make check  format, lint, types, imports     make format     rewrite files to the house format
# make bench  how fast extraction is, on a quiet machine; a quarter of an hour, and its clips stay in bench/
#
# A fresh machine needs Python 3.11 or newer and make; everything else goes into .venv.
# TORCH_INDEX=https://download.pytorch.org/whl/cpu make env   picks another build of torch.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
TORCH_INDEX ?=

.PHONY: env demo test test-all check format bench clean
.DELETE_ON_ERROR:

env: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Error: $(PYTHON) is older than 3.11; run make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: env
	$(BIN)/python tools/demo.py $(DEMO)

test: env
	$(BIN)/python -m pytest

test-all: env
	$(BIN)/python -m pytest -m "slow or not slow"

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: env
	$(BIN)/python tools/bench_extract.py --json bench-extract.json

clean:
	rm -rf $(VENV) $(DEMO) bench bench-extract.json dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
